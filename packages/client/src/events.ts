/**
 * Follows what happens to objects, over restarts of the node and lost connections.
 *
 * I1  Every event after the start comes once, in order: after a break the stream is asked for again from the last id.
 * I2  A break is no error as long as the node comes back within the retry policy's time. `events_gone` is one: then events
 *     were missed, and the caller has to list what there is.
 * I3  A consumer that is slow holds the stream up, and takes no memory.
 */
import {
  ERRORS,
  type EventType,
  errorBodySchema,
  isStoreErrorCode,
  type ObjectEvent,
  objectEventSchema,
  PATHS,
  STREAM_END,
  StoreError,
} from '@ebb/protocol';
import { toStoreError, unreachable } from './errors.ts';
import { readBlocks, type StreamBlock } from './event-stream.ts';
import type { HttpClient } from './http-client.ts';
import { backoffMs, isRestarting, type RetryPolicy, sleep, withRetry } from './retry.ts';

export interface EventsOptions {
  readonly bucket?: string | undefined;
  /** Keys that start with it; needs `bucket`. */
  readonly prefix?: string | undefined;
  /** One object; needs `bucket`. */
  readonly key?: string | undefined;
  /** Default: all. */
  readonly types?: readonly EventType[] | undefined;
  /** Events after this id. Default: from now on. */
  readonly after?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Read it once, until a `break` or the abort of the signal. */
export interface EventStream extends AsyncIterable<ObjectEvent> {
  /** Everything up to here was told: what `after` takes. Undefined before the node answered. */
  readonly lastId: number | undefined;
}

export function followEvents(
  http: HttpClient,
  options: EventsOptions,
  retry: RetryPolicy,
): EventStream {
  return new Follower(http, options, retry);
}

class Follower implements EventStream {
  readonly #http: HttpClient;
  readonly #options: EventsOptions;
  readonly #retry: RetryPolicy;
  #lastId: number | undefined;

  constructor(http: HttpClient, options: EventsOptions, retry: RetryPolicy) {
    this.#http = http;
    this.#options = options;
    this.#retry = retry;
    this.#lastId = options.after;
  }

  get lastId(): number | undefined {
    return this.#lastId;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ObjectEvent> {
    const { signal } = this.#options;
    for (let breaks = 1; ; breaks++) {
      const before = this.#lastId;
      const blocks = await this.#open();
      try {
        for await (const block of blocks) {
          if (block.event === STREAM_END && block.data !== undefined) throw endOf(block.data);
          // Before the event: a consumer that breaks off has seen it.
          if (block.id !== undefined) this.#lastId = Number(block.id);
          if (block.data !== undefined) yield parseEvent(block.data);
        }
      } catch (thrown) {
        const error = toStoreError(thrown, signal);
        if (!isBreak(error)) throw error;
      }
      if (this.#lastId !== before) breaks = 1;
      await sleep(backoffMs(breaks, this.#retry, Math.random()), signal);
    }
  }

  /** Tries for as long as the policy allows; without a start the node tells one, in the first block. */
  async #open(): Promise<AsyncIterable<StreamBlock>> {
    const { bucket, prefix, key, types, signal } = this.#options;
    const query = { bucket, prefix, key, types: types?.join(','), after: this.#lastId };
    const body = await withRetry(
      { policy: this.#retry, idempotent: true, signal },
      async () => await this.#http.stream(PATHS.events, { query, signal }),
    );
    return readBlocks(body);
  }
}

/** The node restarts, the connection broke, or we were too slow: the log has what follows. */
function isBreak(error: StoreError): boolean {
  return isRestarting(error) || error.code === 'busy';
}

function parseEvent(data: string): ObjectEvent {
  const parsed = objectEventSchema.safeParse(parseJson(data));
  if (parsed.success) return parsed.data;
  throw new StoreError('version_unsupported', 'an event has another form', {}, parsed.error);
}

function endOf(data: string): StoreError {
  const parsed = errorBodySchema.safeParse(parseJson(data));
  if (!parsed.success || !isStoreErrorCode(parsed.data.error.code))
    return unreachable('the stream of events ended');
  const { code, message, details } = parsed.data.error;
  return new StoreError(code, message || ERRORS[code].means, details as StoreError['details']);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
