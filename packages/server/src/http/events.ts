/**
 * `GET /v1/events`: what happens to objects, as server-sent events.
 *
 * Each event has its id, so that a reader goes on with `Last-Event-ID` (or `after`) where it ended, also after a restart of
 * the node. Blocks that have an id and no data say how far the log was looked at: one comes first, others from time to time
 * as a sign of life.
 *
 * V1  A stream holds one page of events at most: the log is the buffer (core/src/store/events.ts). The next page is read
 *     when the socket took the one before.
 * V2  A stream that ends, for any reason but that its reader went away, says so in a last event `end` with an error body:
 *     `draining`; `busy` for a reader that took nothing for a while; `events_gone` for one that fell behind the log.
 * V3  What is wrong from the beginning is an ordinary error answer.
 * V4  A reader who does not take the last event either is cut, and what he was sent is free.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  type CatalogEvent,
  type EventFilter,
  type FollowOptions,
  type ObjectStore,
  wantsEvents,
} from '@ebb/core';
import {
  EVENT_TYPES,
  type ObjectEvent,
  objectEventSchema,
  PATHS,
  STREAM_END,
  StoreError,
} from '@ebb/protocol';
import { type OpenAPIHono, z } from '@hono/zod-openapi';
import { EVENT_KEEP_ALIVE_MS, EVENT_STALL_MS, EVENT_STREAMS_MAX } from '../limits.ts';
import { cutAfter } from './cut-after.ts';
import { tierName } from './data/object-headers.ts';
import { errorAnswer, toStoreError, wrongMethod } from './error-response.ts';
import { errorResponses } from './openapi.ts';

const LAST_EVENT_ID = 'last-event-id';

const eventIdSchema = z.string().regex(/^\d{1,15}$/, 'the id of an event');
const querySchema = z.strictObject({
  bucket: z.string().optional(),
  prefix: z.string().optional().describe('keys that start with it; needs `bucket`'),
  key: z.string().optional().describe('one object; needs `bucket`'),
  types: z
    .string()
    .optional()
    .describe(`several with commas: ${EVENT_TYPES.join(',')}; default all`),
  after: eventIdSchema.optional().describe('events after this id; default: from now on'),
});

export interface EventStreamTimes {
  readonly stallMs: number;
  readonly keepAliveMs: number;
  /** For the last event. @default EVENT_STALL_MS */
  readonly endMs?: number;
}

export class EventStreams {
  readonly #store: ObjectStore;
  readonly #times: EventStreamTimes;
  #open = 0;

  constructor(
    store: ObjectStore,
    times: EventStreamTimes = { stallMs: EVENT_STALL_MS, keepAliveMs: EVENT_KEEP_ALIVE_MS },
  ) {
    this.#store = store;
    this.#times = times;
  }

  /** Streams now. */
  get open(): number {
    return this.#open;
  }

  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.method !== 'GET') throw wrongMethod(request.method, 'GET');
    const asked = parseRequest(request);
    if (this.#open >= EVENT_STREAMS_MAX)
      throw new StoreError('busy', `${this.#open} streams of events are open already`, {
        streamsMax: EVENT_STREAMS_MAX,
      });
    this.#open++;
    try {
      await assertRecorded(this.#store, asked.filter.bucket);
      await this.#stream(response, asked);
    } finally {
      this.#open--;
    }
  }

  async #stream(response: ServerResponse, asked: Omit<FollowOptions, 'signal'>): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const batches = this.#store.events({ ...asked, signal: gone.signal });
    let batch = (await batches.next()).value; // V3
    response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no', // nginx would hold events back
    });
    const keepAlive = setInterval(() => {
      if (!response.writableNeedDrain) response.write(progressText(batch.throughEventId));
    }, this.#times.keepAliveMs);
    try {
      let text = progressText(asked.afterEventId ?? batch.throughEventId);
      for (;;) {
        text += batch.events.map(eventText).join('');
        if (text !== '' && !response.write(text)) await this.#drained(response, gone.signal);
        batch = (await batches.next()).value;
        text = '';
      }
    } catch (thrown) {
      if (!gone.signal.aborted) {
        response.end(endText(toStoreError(thrown)));
        // V4: what a reader who stopped was sent would stay in memory as long as he stays connected.
        const stop = cutAfter(this.#times.endMs ?? EVENT_STALL_MS, () => response.destroy());
        response.once('close', stop);
      }
    } finally {
      clearInterval(keepAlive);
      // No wait: a reader that does not read must not hold us.
      gone.abort();
    }
  }

  /** @throws {StoreError} `busy` when the reader takes nothing for too long */
  async #drained(response: ServerResponse, signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<'drained' | 'gone' | 'stalled'>();
    const { stallMs } = this.#times;
    const timer = setTimeout(() => resolve('stalled'), stallMs);
    const onDrain = (): void => resolve('drained');
    const onGone = (): void => resolve('gone');
    response.once('drain', onDrain);
    signal.addEventListener('abort', onGone, { once: true });
    const what = signal.aborted ? 'gone' : await promise;
    clearTimeout(timer);
    response.removeListener('drain', onDrain);
    signal.removeEventListener('abort', onGone);
    if (what === 'stalled')
      throw new StoreError('busy', `nothing was read for ${stallMs} ms: go on after the last id`, {
        stallMs,
      });
  }
}

export function describeEventsRoute(registry: OpenAPIHono['openAPIRegistry']): void {
  registry.registerPath({
    method: 'get',
    path: PATHS.events,
    summary: 'What happens to objects, as server-sent events; from an id, or from now on',
    request: {
      query: querySchema,
      headers: z.object({
        [LAST_EVENT_ID]: eventIdSchema.optional().describe('as `after`, and goes before it'),
      }),
    },
    responses: {
      200: {
        description: `one event a change, with this JSON as its \`data\`; a last event \`${STREAM_END}\` says why the stream ends`,
        content: { 'text/event-stream': { schema: objectEventSchema } },
      },
      ...errorResponses,
    },
  });
}

/** @throws {StoreError} `request_invalid` */
function parseRequest(request: IncomingMessage): Omit<FollowOptions, 'signal'> & {
  readonly filter: EventFilter;
} {
  const params = new URL(`http://node${request.url ?? '/'}`).searchParams;
  const parsed = querySchema.safeParse(Object.fromEntries(params));
  if (!parsed.success) {
    const complaints = parsed.error.issues.map(
      ({ path, message }) => `${path.map(String).join('.') || 'query'}: ${message}`,
    );
    throw new StoreError('request_invalid', complaints.join('; '), { complaints });
  }
  const { bucket, prefix, key, after } = parsed.data;
  if (bucket === undefined && (prefix ?? key) !== undefined)
    throw new StoreError('request_invalid', 'a prefix or a key needs its bucket');
  if (prefix !== undefined && key !== undefined)
    throw new StoreError('request_invalid', 'a prefix or a key, not both');
  const types = parsed.data.types === undefined ? undefined : parseTypes(parsed.data.types);
  const afterEventId = parseLastEventId(request) ?? after;
  return {
    filter: {
      ...(bucket === undefined ? {} : { bucket }),
      ...(prefix === undefined ? {} : { prefix }),
      ...(key === undefined ? {} : { key }),
      ...(types === undefined ? {} : { types }),
    },
    ...(afterEventId === undefined ? {} : { afterEventId: Number(afterEventId) }),
  };
}

function parseTypes(text: string): EventFilter['types'] {
  return text.split(',').map((name) => {
    const type = EVENT_TYPES.find((known) => known === name.trim());
    if (type !== undefined) return type;
    throw new StoreError(
      'request_invalid',
      `no type of event "${name}", only ${EVENT_TYPES.join(', ')}`,
    );
  });
}

/** Browsers send an empty one before the first event. */
function parseLastEventId(request: IncomingMessage): string | undefined {
  const value = request.headers[LAST_EVENT_ID];
  if (value === undefined || value === '') return undefined;
  const parsed = eventIdSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new StoreError('request_invalid', 'Last-Event-ID must be the id of an event');
}

/** A watcher of a bucket that tells nothing would wait for ever. @throws {StoreError} `bucket_not_found`, `unsupported` */
async function assertRecorded(store: ObjectStore, name: string | undefined): Promise<void> {
  if (name === undefined) return;
  const { policy } = await store.getBucket(name);
  if (wantsEvents(policy)) return;
  throw new StoreError(
    'unsupported',
    `bucket ${name} records no events: its policy says so, by \`events\` or by the preset ${policy.preset}`,
    { bucket: name },
  );
}

// ── text ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function eventText(event: CatalogEvent): string {
  return `id: ${event.eventId}\nevent: ${event.type}\ndata: ${JSON.stringify(toJson(event))}\n\n`;
}

/** No event, by the standard, but the place to go on from. */
function progressText(throughEventId: number): string {
  return `id: ${throughEventId}\n\n`;
}

function endText(error: StoreError): string {
  return `event: ${STREAM_END}\ndata: ${errorAnswer(error).body}\n\n`;
}

function toJson(event: CatalogEvent): ObjectEvent {
  const { eventId: id, type, atMs, bucket, key, version, sizeBytes, place } = event;
  const told = { id, type, atMs, bucket, key, version, sizeBytes };
  if (place === null) return told;
  return { ...told, durability: place.durability, tiers: place.tiers.map(tierName) };
}
