/** `?wait=disk|remote` on GET and HEAD of an object: the answer comes when the object is so durable. */
import type { ServerResponse } from 'node:http';
import type { ObjectRef, ObjectStore, Waited } from '@ebb/core';
import { ACKS, type Ack, StoreError } from '@ebb/protocol';
import { WAIT_MS_DEFAULT, WAIT_MS_MAX } from '../../limits.ts';
import { assertParameters } from './parameters.ts';

interface Asked {
  readonly ack: Ack;
  readonly timeoutMs: number;
  readonly version: number | undefined;
}

/** Undefined when nothing is to be waited for. @throws {StoreError} `request_invalid`, `timed_out`, and those of ObjectStore.wait */
export async function waitAsAsked(
  response: ServerResponse,
  { bucket, key, query }: ObjectRef & { readonly query: string },
  store: ObjectStore,
): Promise<Waited | undefined> {
  const asked = query === '' ? undefined : parseWait(new URLSearchParams(query));
  if (asked === undefined) return undefined;
  const { ack, timeoutMs, version } = asked;
  const enough = new AbortController();
  const onGone = (): void => enough.abort();
  response.once('close', onGone);
  const timer = setTimeout(() => {
    const message = `${bucket}/${key} did not reach ${ack} in ${timeoutMs} ms`;
    enough.abort(new StoreError('timed_out', message, { bucket, key, timeoutMs }));
  }, timeoutMs);
  try {
    const options = version === undefined ? {} : { version };
    return await store.wait({ bucket, key }, ack, { ...options, signal: enough.signal });
  } catch (error) {
    const { reason } = enough.signal as { reason: unknown };
    throw reason instanceof StoreError ? reason : error;
  } finally {
    clearTimeout(timer);
    response.removeListener('close', onGone);
  }
}

/** What was waited for holds of one version; another may have come before it was opened. @throws `precondition_failed` */
export function assertSameVersion(
  waited: Waited | undefined,
  { bucket, key, version }: ObjectRef & { readonly version: number },
): void {
  if (waited === undefined || waited.object.version === version) return;
  throw new StoreError(
    'precondition_failed',
    `${bucket}/${key} was replaced by version ${version} while version ${waited.object.version} was waited for`,
    { bucket, key, version },
  );
}

/** @throws {StoreError} `request_invalid` */
function parseWait(query: URLSearchParams): Asked | undefined {
  assertParameters(query, ['wait', 'timeoutMs', 'version']);
  const ack = query.get('wait');
  if (ack === null && query.size > 0)
    throw new StoreError('request_invalid', 'timeoutMs and version go with wait=…');
  if (ack === null) return undefined;
  if (!ACKS.includes(ack as Ack))
    throw new StoreError('request_invalid', `wait must be one of ${ACKS.join(', ')}`);
  const timeoutMs = parseWhole(query, 'timeoutMs') ?? WAIT_MS_DEFAULT;
  if (timeoutMs > WAIT_MS_MAX)
    throw new StoreError(
      'request_invalid',
      `timeoutMs is at most ${WAIT_MS_MAX}: ask again after \`timed_out\``,
    );
  return { ack: ack as Ack, timeoutMs, version: parseWhole(query, 'version') };
}

function parseWhole(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new StoreError('request_invalid', `${name} must be a whole number, not "${text}"`);
}
