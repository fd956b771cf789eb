/** GET and HEAD of an object. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ObjectRef, OpenedObject, Waited } from '@ebb/core';
import { HEADERS, StoreError } from '@ebb/protocol';
import { checkReadConditions, rangeApplies } from './conditions.ts';
import type { DataContext } from './data-context.ts';
import { objectHeaders, tierName, viewHeaders } from './object-headers.ts';
import { parseRange } from './range.ts';
import { sendRange, untilSent } from './send-range.ts';
import { assertSameVersion } from './wait-request.ts';

/** With what was waited for before, if anything was. */
type ReadContext = DataContext & { readonly waited?: Waited | undefined };

export async function headObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  { store, waited }: ReadContext,
): Promise<void> {
  const view = await store.head(ref);
  assertSameVersion(waited, view.object);
  const decision = checkReadConditions(request.headers, view.object);
  if (decision === 'failed') throw conditionFailed(ref);
  const headers = viewHeaders(view);
  if (waited !== undefined) headers[HEADERS.durability] = waited.durability;
  if (decision === 'proceed') headers['content-length'] = view.object.sizeBytes;
  response.writeHead(decision === 'proceed' ? 200 : 304, headers);
  response.end();
}

export async function getObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  context: ReadContext,
): Promise<void> {
  const { store, owner, waited } = context;
  await untilSent(response, async () => {
    const opened = await store.open(owner, ref, { ranges: true });
    try {
      assertSameVersion(waited, opened.object);
      await answer(request, response, opened, context);
    } finally {
      store.release(owner, [opened.leaseId]);
    }
  });
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  opened: OpenedObject,
  context: ReadContext,
): Promise<void> {
  const { object } = opened;
  const decision = checkReadConditions(request.headers, object);
  if (decision === 'failed') throw conditionFailed(object);
  const headers = objectHeaders(object);
  if (context.waited !== undefined) headers[HEADERS.durability] = context.waited.durability;
  const nearest = opened.extents[0];
  if (nearest !== undefined) headers[HEADERS.tier] = tierName(nearest.tier);
  if (decision === 'not-modified') {
    response.writeHead(304, headers);
    response.end();
    return;
  }
  const range = parseRange(
    rangeApplies(header(request, 'if-range'), object) ? request.headers.range : undefined,
    object.sizeBytes,
  );
  if (range.kind === 'unsatisfiable') {
    throw new StoreError(
      'range_invalid',
      `"${request.headers.range}" of an object of ${object.sizeBytes} bytes`,
      {
        sizeBytes: object.sizeBytes,
      },
    );
  }
  const [start, end] = range.kind === 'part' ? [range.start, range.end] : [0, object.sizeBytes];
  headers['content-length'] = end - start;
  if (range.kind === 'part')
    headers['content-range'] = `bytes ${start}-${end - 1}/${object.sizeBytes}`;
  const status = range.kind === 'part' ? 206 : 200;

  await sendRange(response, { status, headers, opened, start, end }, context);
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
}

function conditionFailed(ref: ObjectRef): StoreError {
  return new StoreError(
    'precondition_failed',
    `${ref.bucket}/${ref.key} is not the version the request names`,
    {
      bucket: ref.bucket,
      key: ref.key,
    },
  );
}
