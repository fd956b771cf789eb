/**
 * Where every HTTP request goes: probes and metrics, which answer also while the node starts or drains; the data surface,
 * raw; all else to the control surface.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Conditions } from '@ebb/core';
import { PATHS, StoreError } from '@ebb/protocol';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import type { NodeState, Services } from '../services.ts';
import type { BufferPool } from './buffer-pool.ts';
import { createControlApp } from './control.ts';
import { deleteObject, deletePrefix, listObjects } from './data/collection.ts';
import type { DataContext } from './data/data-context.ts';
import { getObject, headObject } from './data/get-object.ts';
import { assertParameters } from './data/parameters.ts';
import { putObject } from './data/put-object.ts';
import { findDataTarget } from './data/target.ts';
import { waitAsAsked } from './data/wait-request.ts';
import { sendError, toStoreError, wrongMethod } from './error-response.ts';
import { EventStreams } from './events.ts';
import { answerByFetch } from './fetch-bridge.ts';
import { answerFileBytes, findFileBytesTarget } from './files/file-bytes.ts';
import type { PeerMemory } from './peer-memory.ts';
import { watchRequest } from './watch-request.ts';

export interface RequestHandler {
  readonly onRequest: RequestListener;
  /** A client that asked `Expect: 100-continue`: it sends its body once we say so. */
  readonly onExpectContinue: RequestListener;
  /** From here on everything is answered, not only probes. */
  attach(services: Services): void;
}

export function createRequestHandler(node: {
  readonly state: () => NodeState;
  readonly conditions: Conditions;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Refuses a request before anything else looks at it. */
  readonly admit: (request: IncomingMessage) => void;
  /** Answers a request that was meant for another address, and says whether it did. */
  readonly answerStranger: (request: IncomingMessage, response: ServerResponse) => boolean;
  readonly pieces: BufferPool;
  readonly held: PeerMemory;
}): RequestHandler {
  let surfaces: Surfaces | undefined;
  const handle = async (
    request: IncomingMessage,
    response: ServerResponse,
    expectsContinue: boolean,
  ): Promise<void> => {
    node.admit(request);
    if (node.answerStranger(request, response)) return;
    if (await answerProbe(request, response, node)) return;
    if (surfaces === undefined) throw new StoreError('starting');
    await surfaces.answer(request, response, expectsContinue);
  };
  const listen = (
    request: IncomingMessage,
    response: ServerResponse,
    expectsContinue: boolean,
  ): void => {
    watchRequest(request, response, node.metrics, () => routeLabel(request.url ?? '/'));
    handle(request, response, expectsContinue).catch((thrown: unknown) => {
      const error = toStoreError(thrown);
      if (error.code === 'internal')
        node.log.error({ err: thrown, method: request.method, url: request.url }, 'request failed');
      node.metrics.httpErrors.inc({ code: error.code });
      sendError(response, error);
    });
  };
  return {
    onRequest: (request, response) => listen(request, response, false),
    onExpectContinue: (request, response) => listen(request, response, true),
    attach: (services) => {
      surfaces = new Surfaces(services, node);
    },
  };
}

class Surfaces {
  readonly #data: DataContext;
  readonly #control: (request: Request) => Response | Promise<Response>;
  readonly #events: EventStreams;

  constructor(
    services: Services,
    { pieces, held }: { readonly pieces: BufferPool; readonly held: PeerMemory },
  ) {
    this.#data = {
      store: services.store,
      owner: services.store.createOwner('http'),
      pieces,
      held,
    };
    this.#events = new EventStreams(services.store);
    const app = createControlApp(services, this.#data.owner);
    this.#control = (request) => app.fetch(request);
  }

  async answer(
    request: IncomingMessage,
    response: ServerResponse,
    expectsContinue: boolean,
  ): Promise<void> {
    const url = request.url ?? '/';
    const fileBytes = findFileBytesTarget(url);
    if (fileBytes !== undefined)
      return await answerFileBytes(request, response, fileBytes, {
        ...this.#data,
        expectsContinue,
      });
    const target = findDataTarget(url);
    if (target === undefined && isEvents(url)) {
      await this.#events.answer(request, response);
    } else if (target === undefined) {
      if (expectsContinue) response.writeContinue();
      await answerByFetch(this.#control, request, response, this.#data.held);
    } else if (target.kind === 'object') {
      await this.#object(request, response, target, expectsContinue);
    } else if (request.method === 'GET') {
      await listObjects(response, target.bucket, target.query, this.#data);
    } else if (request.method === 'DELETE') {
      await deletePrefix(response, target.bucket, target.query, this.#data);
    } else {
      throw wrongMethod(request.method, 'GET, DELETE');
    }
  }

  async #object(
    request: IncomingMessage,
    response: ServerResponse,
    ref: { bucket: string; key: string; query: string },
    expectsContinue: boolean,
  ): Promise<void> {
    switch (request.method ?? '') {
      case 'GET':
      case 'HEAD': {
        const waited = await waitAsAsked(response, ref, this.#data.store);
        const answer = request.method === 'GET' ? getObject : headObject;
        return await answer(request, response, ref, { ...this.#data, waited });
      }
      case 'PUT':
        if (ref.query !== '') assertParameters(new URLSearchParams(ref.query), []);
        return await putObject(request, response, ref, { ...this.#data, expectsContinue });
      case 'DELETE':
        if (ref.query !== '') assertParameters(new URLSearchParams(ref.query), []);
        return await deleteObject(request, response, ref, this.#data);
      default:
        throw wrongMethod(request.method, 'GET, HEAD, PUT, DELETE');
    }
  }
}

const PROBES: ReadonlySet<string> = new Set([PATHS.healthz, PATHS.readyz, PATHS.metrics]);

async function answerProbe(
  { method, url = '/' }: IncomingMessage,
  response: ServerResponse,
  {
    state,
    conditions,
    metrics,
  }: { state: () => NodeState; conditions: Conditions; metrics: Metrics },
): Promise<boolean> {
  const path = url.split('?', 1)[0] as string;
  if (!PROBES.has(path)) return false;
  if (method !== 'GET' && method !== 'HEAD') throw wrongMethod(method, 'GET, HEAD');
  if (path === PATHS.healthz || path === PATHS.readyz) {
    const body = JSON.stringify({ state: state(), conditions: conditions.list() });
    const status = path === PATHS.healthz || state() === 'ready' ? 200 : 503;
    response.writeHead(status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
    });
    response.end(body);
    return true;
  }
  const text = await metrics.registry.metrics();
  response.writeHead(200, {
    'content-type': metrics.registry.contentType,
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
  return true;
}

function isEvents(url: string): boolean {
  return url === PATHS.events || url.startsWith(`${PATHS.events}?`);
}

const FIXED_ROUTES: ReadonlySet<string> = new Set(Object.values(PATHS));

/** The route's template, so that names of buckets and jobs do not become labels. */
function routeLabel(url: string): string {
  const path = url.split('?', 1)[0] as string;
  if (FIXED_ROUTES.has(path)) return path;
  const parts = path.split('/');
  if (path.startsWith(`${PATHS.buckets}/`)) {
    if (parts.length === 4) return PATHS.bucket;
    return parts.length === 5 ? PATHS.objects : PATHS.object;
  }
  if (path.startsWith(`${PATHS.jobs}/`)) return parts.length === 4 ? PATHS.job : PATHS.jobHeartbeat;
  if (path.startsWith(`${PATHS.files}/`)) {
    const template = parts.length === 4 ? PATHS.file : `${PATHS.file}/${parts[4]}`;
    return FIXED_ROUTES.has(template) ? template : 'unknown';
  }
  return 'unknown';
}
