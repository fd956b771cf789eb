/**
 * One S3 target in the worker: the SDK's client, and what every request to it has in common.
 *
 * I1  A request fails when no byte was sent or received for `stallMs`; one that makes progress is never cut.
 * I2  A request is tried a few times where that may help. The caller's abort ends it at once, unless it said that it is too
 *     late for that (`Attempt.ignoreAbort`).
 *
 * The SDK's own retries are off: it cannot repeat a streamed body, and does not see a body that ends early. So are its
 * checksums, which it computes in JavaScript, and `Expect: 100-continue`, for which it opens a connection each time.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { StoreError } from '@ebb/protocol';
import { ByteBudget } from '../../byte-budget.ts';
import {
  S3_CALLS_MAX,
  S3_TRANSFER_BYTES,
  S3_TRANSFERS_BYTES_MAX,
  S3_TRANSFERS_PER_OBJECT_MAX,
} from '../../limits.ts';
import { RangeSockets } from './range-sockets.ts';
import { connectionFailed, isRetryable, toS3Error } from './s3-failures.ts';
import { Feature } from './s3-feature.ts';
import type { S3Remark, S3TargetConfig } from './s3-protocol.ts';

/** One try of one request. */
export interface Attempt {
  readonly signal: AbortSignal;
  /** A byte went or came. */
  readonly progress: () => void;
  /** The store may act on it from here on: the answer is awaited. */
  readonly ignoreAbort: () => void;
  /** Ends the request: its body cannot be read. */
  readonly fail: (error: unknown) => void;
}

export interface RequestOptions {
  /** `putting KEY`: how an error begins. */
  readonly doing: string;
  readonly signal: AbortSignal;
  /** It moves content and holds so much of it at once: waits for room in what all targets share. */
  readonly holdsBytes?: number;
  readonly stallMs?: number;
  readonly attempts?: number;
  /** Asks for an object that need not be there: then 404 is `data_lost`. */
  readonly isLookup?: boolean;
}

const transfers = new ByteBudget({
  capacityBytes: S3_TRANSFERS_BYTES_MAX,
  waitersMax: S3_TRANSFERS_PER_OBJECT_MAX * S3_CALLS_MAX,
});

export class S3Connection {
  readonly client: S3Client;
  readonly config: S3TargetConfig;
  readonly bucket: string;
  readonly ranges: RangeSockets;
  /** The header of a checksum. */
  readonly checksums = new Feature(() => this.remarks.add('refuses_checksums'));
  /** The same with uploads in parts: a store may know one and not the other. */
  readonly partChecksums = new Feature(() => this.remarks.add('refuses_checksums'));
  /** Conditions of puts and deletes. A store without them is asked what it has, right before. */
  readonly putConditions = new Feature(() => this.remarks.add('refuses_conditions'));
  readonly deleteConditions = new Feature(() => this.remarks.add('refuses_conditions'));
  /** What was learned of the store, for whoever keeps a node (s3-protocol.ts). */
  readonly remarks = new Set<S3Remark>();
  /** Whether it was asked what it makes of a condition that does not hold (s3-objects.ts). */
  isProbed = false;
  /** A store that takes a checksum and does not repeat it leaves open whether it looked at it. */
  repeatsChecksums = true;
  readonly #dates = new WeakMap<object, number>();

  constructor(config: S3TargetConfig) {
    this.config = config;
    this.bucket = config.target.bucket;
    this.client = new S3Client(clientConfig(config));
    this.ranges = new RangeSockets(config.settings);
    this.client.middlewareStack.add(
      (next) => async (args) => {
        const answer = await next(args);
        const { headers } = answer.response as { headers?: Record<string, string> };
        const date = Date.parse(headers?.['date'] ?? '');
        if (answer.output !== undefined && !Number.isNaN(date))
          this.#dates.set(answer.output, date);
        return answer;
      },
      { step: 'deserialize', priority: 'high', name: 'ebbKeepDate' },
    );
  }

  /** When the store gave this answer, by its clock. */
  dateOf(output: object): number {
    return this.#dates.get(output) ?? Date.now();
  }

  /** @throws StoreError */
  async request<T>(options: RequestOptions, work: (attempt: Attempt) => Promise<T>): Promise<T> {
    const { doing, signal, isLookup, attempts = this.config.settings.attempts } = options;
    for (let attempt = 1; ; attempt++) {
      stopIfAborted(signal);
      try {
        return await this.#attempt(options, work);
      } catch (error) {
        if (isAborted(error)) throw error;
        const failure = this.toError(error, doing, isLookup);
        if (!isRetryable(failure) || attempt >= attempts) throw failure;
      }
      await this.#pause(attempt, signal);
    }
  }

  /** In the codes of the protocol, and without what the store may have repeated of the credentials. */
  toError(error: unknown, doing: string, isLookup = false): StoreError {
    const { accessKeyId, secretAccessKey, sessionToken } = this.config.credentials ?? {};
    const secrets = [accessKeyId, secretAccessKey, sessionToken].flatMap((secret) =>
      secret === undefined || secret === '' ? [] : [secret],
    );
    const hide = (text: string): string =>
      secrets.reduce((hidden, secret) => hidden.replaceAll(secret, '…'), text);
    return toS3Error(error, { doing, bucket: this.bucket, isLookup, hide });
  }

  destroy(): void {
    this.client.destroy();
    this.ranges.destroy();
  }

  async #attempt<T>(
    { signal, holdsBytes, doing, stallMs = this.config.settings.stallMs }: RequestOptions,
    work: (attempt: Attempt) => Promise<T>,
  ): Promise<T> {
    await using _room =
      holdsBytes === undefined ? undefined : await transfers.reserve(holdsBytes, signal);
    const controller = new AbortController();
    let cause: unknown;
    const fail = (error: unknown): void => {
      cause ??= error;
      controller.abort();
    };
    const onAbort = (): void => fail(aborted());
    const onStall = (): void =>
      fail(connectionFailed(`${doing}: no byte went or came for ${stallMs} ms`));
    const timer = setTimeout(onStall, stallMs);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await work({
        signal: controller.signal,
        progress: () => void timer.refresh(),
        ignoreAbort: () => signal.removeEventListener('abort', onAbort),
        fail,
      });
    } catch (error) {
      throw cause ?? error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #pause(attempt: number, signal: AbortSignal): Promise<void> {
    const delayMs = this.config.settings.retryDelayMs * 2 ** (attempt - 1);
    try {
      await sleep(delayMs * (0.5 + Math.random() / 2), undefined, { signal });
    } catch {
      throw aborted();
    }
  }
}

export function stopIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw aborted();
}

function isAborted(error: unknown): boolean {
  return error instanceof StoreError && error.code === 'aborted';
}

function aborted(): StoreError {
  return new StoreError('aborted', 'the caller gave up');
}

const SOCKETS_MAX = (4 * S3_TRANSFERS_BYTES_MAX) / S3_TRANSFER_BYTES;

function clientConfig({ target, credentials, settings, ca }: S3TargetConfig): S3ClientConfig {
  const region = target.region ?? (target.endpoint === undefined ? undefined : 'us-east-1');
  return {
    ...(region === undefined ? {} : { region }),
    ...(target.endpoint === undefined ? {} : { endpoint: target.endpoint }),
    ...(credentials === undefined ? {} : { credentials }),
    forcePathStyle: target.pathStyle,
    followRegionRedirects: target.endpoint === undefined,
    maxAttempts: 1,
    // It tells the console of failures that are reported here.
    logger: { debug: ignore, info: ignore, warn: ignore, error: ignore },
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    expectContinueHeader: false,
    requestHandler: {
      connectionTimeout: settings.connectMs,
      // No request waits for a socket: more are not sent than transfers, and short ones.
      httpAgent: { keepAlive: true, maxSockets: SOCKETS_MAX },
      httpsAgent: { keepAlive: true, maxSockets: SOCKETS_MAX, ...(ca === undefined ? {} : { ca }) },
    },
  };
}

function ignore(): void {}
