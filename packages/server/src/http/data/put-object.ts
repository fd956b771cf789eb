/** PUT of an object: its body is staged and committed under the request's conditions. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type Committed, formatCrc32c, type ObjectRef } from '@ebb/core';
import { HEADERS, StoreError } from '@ebb/protocol';
import { formatETag, parseWriteCondition } from './conditions.ts';
import type { DataContext } from './data-context.ts';
import { type PutHeaders, parsePutHeaders } from './object-headers.ts';
import type { ReceivedBody } from './receive-body.ts';
import { refuseEarly, stageBody } from './stage-body.ts';

export async function putObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  context: DataContext & { readonly expectsContinue: boolean },
): Promise<void> {
  const { store, owner, expectsContinue } = context;
  const headers = parsePutHeaders(request);
  const condition = parseWriteCondition(request.headers);
  await refuseEarly(ref, condition, context);
  const { sizeBytes, jobId, ack, contentType, metadata } = headers;
  const body = {
    ...{ request, response, expectsContinue, arrivingBytes: sizeBytes, dataBytes: sizeBytes },
    ...(jobId === undefined ? {} : { jobId }),
  };
  const committed = await stageBody(ref, body, context, async ({ writeId }, received) => {
    assertAsAnnounced(received, headers);
    return await store.commit(owner, writeId, {
      sizeBytes: received.sizeBytes,
      crc32c: received.crc32c,
      blocks: received.blocks,
      metadata,
      ...condition,
      ...(ack === undefined ? {} : { ack }),
      ...(contentType === undefined ? {} : { contentType }),
    });
  });
  sendCommitted(response, committed);
}

function assertAsAnnounced(body: ReceivedBody, headers: PutHeaders): void {
  if (headers.sizeBytes !== undefined && body.sizeBytes !== headers.sizeBytes)
    throw new StoreError(
      'length_mismatch',
      `${headers.sizeBytes} bytes announced, ${body.sizeBytes} came`,
      {
        announcedBytes: headers.sizeBytes,
        receivedBytes: body.sizeBytes,
      },
    );
  if (headers.crc32c !== undefined && body.crc32c !== headers.crc32c)
    throw new StoreError(
      'checksum_mismatch',
      `${HEADERS.crc32c} says ${formatCrc32c(headers.crc32c)}, the bytes have ${formatCrc32c(body.crc32c)}`,
      {
        announced: formatCrc32c(headers.crc32c),
        received: formatCrc32c(body.crc32c),
      },
    );
}

function sendCommitted(response: ServerResponse, { object, durability }: Committed): void {
  response.writeHead(201, {
    'content-length': 0,
    etag: formatETag(object.etag),
    [HEADERS.version]: String(object.version),
    [HEADERS.durability]: durability,
    ...(object.crc32c === null ? {} : { [HEADERS.crc32c]: formatCrc32c(object.crc32c) }),
  });
  response.end();
}
