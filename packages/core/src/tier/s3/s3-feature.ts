/**
 * What not every store offers: checksums in headers, conditions. A store that does not know a header refuses the request, and
 * stores do so by different codes (docs/tier2.md). So nothing is concluded from a code: the same request is sent without it, and
 * when that is taken, the header was the reason. A store that took it once is never suspected again.
 */
import { StoreError } from '@ebb/protocol';

export class Feature {
  readonly #onRefused: () => void;
  #state: 'unknown' | 'offered' | 'refused' = 'unknown';

  constructor(onRefused: () => void) {
    this.#onRefused = onRefused;
  }

  get isRefused(): boolean {
    return this.#state === 'refused';
  }

  /** @throws what `send` throws; of two failures the first */
  async use<T>(send: (isUsed: boolean) => Promise<T>): Promise<T> {
    if (this.#state === 'refused') return await send(false);
    let refusal: unknown;
    try {
      const done = await send(true);
      this.#state = 'offered';
      return done;
    } catch (error) {
      if (this.#state === 'offered' || !maySayUnknown(error)) throw error;
      refusal = error;
    }
    let done: T;
    try {
      done = await send(false);
    } catch {
      throw refusal;
    }
    this.#state = 'refused';
    this.#onRefused();
    return done;
  }
}

/** About credentials, whatever is sent with them. */
const CREDENTIAL_CODES: ReadonlySet<string> = new Set([
  'AccessDenied',
  'AuthorizationHeaderMalformed',
  'ExpiredToken',
  'InvalidAccessKeyId',
  'InvalidToken',
  'RequestTimeTooSkewed',
]);

/** 403: a store that leaves the header out of what it signs finds the signature wrong. */
function maySayUnknown(error: unknown): boolean {
  if (!(error instanceof StoreError) || error.code !== 'io_failed') return false;
  const { status, s3Code, retryable } = error.details;
  if (status === 501 || status === 405) return true;
  if (status !== 400 && status !== 403) return false;
  return retryable !== true && !CREDENTIAL_CODES.has(String(s3Code));
}
