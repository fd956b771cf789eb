/**
 * Slows writers while tier 2 is behind by more than the node may keep: by bytes, or by the age of what waits longest.
 *
 * What is known is as of the last look, once a second, and what was committed since: so the limit is passed by a second's
 * writes at most. What sends the spool is never slowed.
 */
import { formatBytes, StoreError } from '@ebb/protocol';

export interface SpoolLimits {
  readonly bytesMax: number | null;
  readonly ageMsMax: number | null;
}

const RETRY_AFTER_MS = 2000;

export class SpoolGate {
  readonly #limits: SpoolLimits;
  #bytes = 0;
  #ageMs = 0;

  constructor(limits: SpoolLimits) {
    this.#limits = limits;
  }

  look(spool: { readonly bytes: number; readonly oldestMs: number | null }, nowMs: number): void {
    this.#bytes = spool.bytes;
    this.#ageMs = spool.oldestMs === null ? 0 : nowMs - spool.oldestMs;
  }

  committed(sizeBytes: number): void {
    this.#bytes += sizeBytes;
  }

  /** @throws {StoreError} `busy` */
  assertOpen(bucket: string): void {
    const { bytesMax, ageMsMax } = this.#limits;
    const isLong = bytesMax !== null && this.#bytes > bytesMax;
    const isOld = ageMsMax !== null && this.#ageMs > ageMsMax;
    if (!isLong && !isOld) return;
    const behind = isLong
      ? `by ${formatBytes(this.#bytes)}, the limit is ${formatBytes(bytesMax)}`
      : `since ${Math.round(this.#ageMs / 1000)} s, the limit is ${Math.round((ageMsMax ?? 0) / 1000)} s`;
    throw new StoreError(
      'busy',
      `tier 2 is behind ${behind}: writes to ${bucket}, which is mirrored, have to wait`,
      {
        bucket,
        backlogBytes: this.#bytes,
        backlogAgeMs: this.#ageMs,
        retryAfterMs: RETRY_AFTER_MS,
      },
    );
  }
}
