/**
 * Waits until an object is as durable as asked. One request waits for a bounded time; this asks again until the caller's own
 * time is up, for the version that was there at first.
 */
import { type Ack, isStoreError, StoreError } from '@ebb/protocol';
import type { HttpClient } from './http-client.ts';
import { WAIT_STEP_MS } from './limits.ts';
import type { ObjectRef } from './object-info.ts';

export interface WaitOptions {
  /** Default: `remote`. */
  readonly for?: Ack | undefined;
  /** Default: until the signal. */
  readonly timeoutMs?: number | undefined;
  /** Default: the one that is there now. */
  readonly version?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}
export interface Waited {
  readonly version: number;
  /** What was asked for, or better. */
  readonly durability: Ack;
}

/** @throws `timed_out`, `not_found`, `precondition_failed` when another version takes its place, `not_mirrored` */
export async function waitForObject(
  http: HttpClient,
  ref: ObjectRef,
  options: WaitOptions,
): Promise<Waited> {
  const { for: ack = 'remote', timeoutMs = Number.POSITIVE_INFINITY, signal } = options;
  const version = options.version ?? (await http.headOpen(ref, signal)).version;
  const until = performance.now() + timeoutMs;
  for (;;) {
    const leftMs = Math.max(0, Math.ceil(until - performance.now()));
    const stepMs = Math.min(leftMs, WAIT_STEP_MS);
    try {
      return await http.wait(ref, { wait: ack, timeoutMs: stepMs, version }, signal);
    } catch (error) {
      if (!isStoreError(error, 'timed_out')) throw error;
      if (leftMs <= stepMs)
        throw new StoreError(
          'timed_out',
          `${ref.bucket}/${ref.key} did not reach ${ack} in ${timeoutMs} ms`,
          { bucket: ref.bucket, key: ref.key, version, timeoutMs },
          error,
        );
    }
  }
}
