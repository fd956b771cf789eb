/**
 * The S3 listener's requests: who asks (sigv4.ts), what for (ROUTES), whether they may (key-ring.ts), and the answer.
 *
 * I1  Nothing of a request is acted upon before its signature holds and its key may do what it asks.
 * I2  Only buckets that users can name are reached: hidden ones, which hold the parts of uploads, are no name here.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { type Clock, type ObjectStore, parseBucketName, systemClock } from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import type { Logger } from 'pino';
import { isLoopback } from '../config.ts';
import type { BufferPool } from '../http/buffer-pool.ts';
import { FileRedirects } from '../http/file-redirects.ts';
import { foreignness } from '../http/foreign-request.ts';
import type { PeerMemory } from '../http/peer-memory.ts';
import { watchRequest } from '../http/watch-request.ts';
import type { Metrics } from '../metrics.ts';
import { takeHoistedHeaders } from './auth/hoisted-headers.ts';
import { type AccessKey, KeyRing, mayDo } from './auth/key-ring.ts';
import { type Authenticated, Sigv4Verifier } from './auth/sigv4.ts';
import { BucketSettingsTable, type SettingRecords } from './bucket-settings.ts';
import type { Operation, S3Call, S3Context } from './call.ts';
import { answerPreflight, grantOrigin } from './operations/cors.ts';
import { refuseUnoffered } from './refused-headers.ts';
import { findRoute, namesForm, type Route } from './routes.ts';
import { S3Error, toS3Error } from './s3-error.ts';
import { parseTarget, type S3Target } from './target.ts';
import { PartsInFlight, sweepParts } from './uploads.ts';
import { buildPlainXml } from './xml.ts';

export interface S3SurfaceParts {
  readonly config: {
    readonly domain: string;
    readonly keys: readonly AccessKey[];
    /** The path under which a proxy serves the node's files; null: none does. */
    readonly fileRedirect: string | null;
  };
  readonly metrics: Pick<Metrics, 'observeHttp' | 'httpErrors'>;
  readonly log: Logger;
  readonly pieces: BufferPool;
  readonly held: PeerMemory;
  readonly clock?: Clock;
}

export interface S3Surface {
  readonly onRequest: RequestListener;
  readonly onExpectContinue: RequestListener;
  /** From here on requests are answered; before, they are told to come again. */
  attach(store: ObjectStore, records: SettingRecords): void;
}

export function createS3Surface(parts: S3SurfaceParts): S3Surface {
  const surface = new Surface(parts);
  return {
    onRequest: (request, response) => surface.answer(request, response, false),
    onExpectContinue: (request, response) => surface.answer(request, response, true),
    attach: (store, records) => surface.attach(store, records),
  };
}

class Surface {
  readonly #parts: S3SurfaceParts;
  readonly #clock: Clock;
  readonly #keys: KeyRing;
  readonly #verifier: Sigv4Verifier;
  #context: S3Context | undefined;
  #lastRequest = Math.floor(Math.random() * 2 ** 40);

  constructor(parts: S3SurfaceParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
    this.#keys = new KeyRing(parts.config.keys);
    this.#verifier = new Sigv4Verifier(this.#keys, () => this.#clock.now());
  }

  attach(store: ObjectStore, records: SettingRecords): void {
    const { fileRedirect: prefix } = this.#parts.config;
    const [memory = '', disk = ''] = store.tiers().map(({ location }) => location);
    this.#context = {
      ...{ store, owner: store.createOwner('s3'), pieces: this.#parts.pieces },
      held: this.#parts.held,
      ...{ keys: this.#keys, verifier: this.#verifier, now: () => this.#clock.now() },
      settings: new BucketSettingsTable(store, records),
      partsInFlight: new PartsInFlight(),
      redirects:
        prefix === null
          ? undefined
          : new FileRedirects({ prefix, roots: [memory, disk], clock: this.#clock }),
      ownerId: createHash('sha256').update(store.nodeId).digest('hex'),
    };
    sweepParts(store).catch((error: unknown) =>
      this.#parts.log.warn({ err: error }, 'parts of uploads that ended are left'),
    );
  }

  answer(request: IncomingMessage, response: ServerResponse, expectsContinue: boolean): void {
    const requestId = (++this.#lastRequest).toString(16).toUpperCase().padStart(16, '0');
    response.setHeader('x-amz-request-id', requestId);
    response.setHeader('server', 'Ebb');
    let operation = 'unknown';
    watchRequest(request, response, this.#parts.metrics, () => `s3:${operation}`);
    const handle = async (): Promise<void> => {
      const { domain } = this.#parts.config;
      if (this.#keys.isOpen) assertNamesUs(request, domain);
      const context = this.#context;
      if (context === undefined)
        throw new S3Error('SlowDown', 'The node is starting.', {}, { retryAfterSeconds: 1 });
      const target = parseTarget(request.url ?? '/', request.headers.host, [domain]);
      const { bucket } = target;
      const isGranted = await grantOrigin(request, response, bucket, context.settings);
      if (request.method === 'OPTIONS') {
        operation = 'Preflight';
        await answerPreflight(request, response, { bucket, isGranted }, context.settings);
        return;
      }
      if (this.#keys.isOpen && !isGranted) assertFromHere(request, domain);
      const auth = this.#authenticate(request, target);
      if (bucket !== '') parseBucketName(bucket); // I2
      takeHoistedHeaders(request.headers, target.query);
      const route = findRoute(request, target);
      operation = route.name;
      assertAllowed(auth, route, target);
      assertOwner(request, context.ownerId);
      refuseUnoffered(request.headers);
      const call: S3Call = {
        ...{ request, response, auth, expectsContinue },
        ...{ bucket: target.bucket, key: target.key, query: target.query },
        isVirtualHost: target.isVirtualHost,
        context,
      };
      await (route.run satisfies Operation)(call);
    };
    handle().catch((thrown: unknown) => this.#refuse(request, response, requestId, thrown));
  }

  #authenticate(request: IncomingMessage, target: S3Target): Authenticated {
    if (namesForm(request, target))
      return { accessKey: undefined, payload: { kind: 'unsigned' }, seed: undefined };
    return this.#verifier.verify({
      method: request.method ?? 'GET',
      rawPath: target.rawPath,
      query: target.query,
      rawHeaders: request.rawHeaders,
      headers: request.headers,
    });
  }

  #refuse(
    request: IncomingMessage,
    response: ServerResponse,
    requestId: string,
    thrown: unknown,
  ): void {
    const error = toS3Error(thrown);
    if (error.code === 'InternalError')
      this.#parts.log.error(
        { err: thrown, method: request.method, requestId },
        'S3 request failed',
      );
    // The store's own code says more: InternalError would hide a lost object.
    const { cause } = error;
    this.#parts.metrics.httpErrors.inc({
      code: isStoreError(cause) ? cause.code : `s3:${error.code}`,
    });
    if (response.destroyed || response.writableEnded) return;
    // The head is out: the peer must see that the body is not whole.
    if (response.headersSent) {
      response.destroy();
      return;
    }
    const head = {
      ...(error.retryAfterSeconds === undefined
        ? {}
        : { 'retry-after': String(error.retryAfterSeconds) }),
      ...(error.code === 'InvalidRange' && error.details['ActualObjectSize'] !== undefined
        ? { 'content-range': `bytes */${error.details['ActualObjectSize']}` }
        : {}),
    };
    if (request.method === 'HEAD' || error.status === 304) {
      response.writeHead(error.status, head);
      response.end();
      return;
    }
    const body = Buffer.from(
      buildPlainXml('Error', {
        Code: error.code,
        Message: error.message,
        ...error.details,
        Resource: (request.url ?? '/').split('?', 1)[0] as string,
        RequestId: requestId,
        HostId: requestId,
      }),
    );
    response.writeHead(error.status, {
      ...head,
      'content-type': 'application/xml',
      'content-length': body.length,
    });
    response.end(body);
  }
}

/** The host must be ours, whatever rule lets an origin in. @throws {S3Error} `AccessDenied` */
function assertNamesUs({ headers: { host } }: IncomingMessage, domain: string): void {
  assertFromHere({ headers: host === undefined ? {} : { host } }, domain);
}

/** @throws {S3Error} `AccessDenied` */
function assertFromHere(request: Pick<IncomingMessage, 'headers'>, domain: string): void {
  const reason = foreignness(
    request,
    (host) =>
      isLoopback(host) ||
      host === domain ||
      host.endsWith(`.${domain}`) ||
      host.endsWith('.localhost'),
  );
  if (reason !== undefined) throw new S3Error('AccessDenied', `Without access keys, ${reason}.`);
}

/** A client may say whose bucket it means. @throws {S3Error} `AccessDenied` */
function assertOwner({ headers }: IncomingMessage, ownerId: string): void {
  for (const name of ['x-amz-expected-bucket-owner', 'x-amz-source-expected-bucket-owner'])
    if (headers[name] !== undefined && headers[name] !== ownerId) throw new S3Error('AccessDenied');
}

/** @throws {S3Error} `AccessDenied` */
function assertAllowed({ accessKey }: Authenticated, route: Route, target: S3Target): void {
  if (accessKey === undefined) return; // nobody is asked: sigv4.ts
  const { bucket, key } = target;
  // What the listing shows is filtered by key; DeleteObjects checks each of its objects.
  if (route.action === undefined) return;
  const subject = route.listsPrefix
    ? { bucket, key: target.query.find(([name]) => name === 'prefix')?.[1] ?? '' }
    : key === ''
      ? { bucket }
      : { bucket, key };
  if (!mayDo(accessKey, route.action, subject)) throw new S3Error('AccessDenied');
}
