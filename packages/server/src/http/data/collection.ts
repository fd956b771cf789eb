/** List of a bucket, and delete by prefix; and DELETE of one object. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ObjectRef } from '@ebb/core';
import { type Affected, type ListResponse, StoreError } from '@ebb/protocol';
import { LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX } from '../../limits.ts';
import { holdAnswer } from '../held-answer.ts';
import type { PeerMemory } from '../peer-memory.ts';
import { objectInfo } from '../views.ts';
import { parseWriteCondition } from './conditions.ts';
import type { DataContext } from './data-context.ts';
import { assertParameters } from './parameters.ts';

export async function deleteObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  { store }: DataContext,
): Promise<void> {
  const { deleted } = await store.delete(ref, parseWriteCondition(request.headers));
  if (!deleted) {
    await store.getBucket(ref.bucket);
    throw new StoreError('not_found', `no object ${ref.bucket}/${ref.key}`, {
      bucket: ref.bucket,
      key: ref.key,
    });
  }
  response.writeHead(204);
  response.end();
}

export async function listObjects(
  response: ServerResponse,
  bucket: string,
  query: URLSearchParams,
  { store, held }: DataContext,
): Promise<void> {
  held.assertRoom();
  const known = parseQuery(query, ['prefix', 'delimiter', 'startAfter', 'limit']);
  const page = await store.list(bucket, {
    prefix: known.prefix ?? '',
    delimiter: known.delimiter ?? '',
    startAfter: known.startAfter ?? '',
    limit: parseLimit(known.limit),
  });
  sendJson(response, held, {
    objects: page.objects.map(objectInfo),
    prefixes: [...page.prefixes],
    next: page.next,
  } satisfies ListResponse);
}

export async function deletePrefix(
  response: ServerResponse,
  bucket: string,
  query: URLSearchParams,
  { store, held }: DataContext,
): Promise<void> {
  const { prefix, allVersions = 'false' } = parseQuery(query, ['prefix', 'allVersions']);
  // An empty prefix means everything, so it must be said: a forgotten parameter must not empty the bucket.
  if (prefix === undefined)
    throw new StoreError(
      'request_invalid',
      'say which: ?prefix=…, empty for all objects of the bucket',
    );
  if (allVersions !== 'true' && allVersions !== 'false')
    throw new StoreError('request_invalid', `allVersions is true or false, not "${allVersions}"`);
  await store.getBucket(bucket);
  const gone: Affected =
    allVersions === 'true'
      ? await store.deleteAllVersions(bucket, prefix)
      : await store.deletePrefix(bucket, prefix);
  sendJson(response, held, gone);
}

function parseLimit(text: string | undefined): number {
  if (text === undefined || text === '') return LIST_LIMIT_DEFAULT;
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > LIST_LIMIT_MAX)
    throw new StoreError(
      'request_invalid',
      `limit must be between 1 and ${LIST_LIMIT_MAX}, not "${text}"`,
    );
  return limit;
}

function parseQuery<Name extends string>(
  query: URLSearchParams,
  names: readonly Name[],
): Partial<Record<Name, string>> {
  assertParameters(query, names);
  const values: Partial<Record<Name, string>> = {};
  for (const [name, value] of query) values[name as Name] = value;
  return values;
}

function sendJson(response: ServerResponse, held: PeerMemory, value: unknown): void {
  const body = Buffer.from(JSON.stringify(value));
  holdAnswer(held, response, body.length);
  response.writeHead(200, {
    'content-type': 'application/json',
    'content-length': body.length,
  });
  response.end(body);
}
