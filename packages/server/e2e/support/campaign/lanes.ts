/**
 * Clients of the campaign that behave: each does one operation at a time on keys that all of them share, by any surface, and
 * writes down what it did and what it was told.
 */
import {
  DeleteObjectCommand,
  GetObjectCommand,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { EbbClient } from '@ebb/client';
import { ERRORS, HEADERS, isStoreError, isStoreErrorCode, objectPath } from '@ebb/protocol';
import { createRandom, hashOf } from '../crash-lane.ts';
import type { HistoryEntry, Operation, Value } from './linearizable.ts';

/** An operation that has no answer for this long hangs. An object store that says nothing is given up after half of it. */
const HUNG_MS = 120_000;

export const SURFACES = ['local', 'http', 's3'] as const;
export type Surface = (typeof SURFACES)[number];

export interface Access {
  readonly local: EbbClient;
  readonly s3: S3Client;
  readonly url: string;
}

export interface Name {
  readonly bucket: string;
  readonly key: string;
}

const SIZES = [1, 900, 9000, 80_000, 400_000] as const;

/** What came of a call. */
type Outcome =
  | { readonly kind: 'done'; readonly value?: Value; readonly etag?: string | undefined }
  | { readonly kind: 'condition' }
  /** Nothing was changed. */
  | { readonly kind: 'refused'; readonly code: string }
  | { readonly kind: 'unknown'; readonly code: string };

/** All that is known of what was done. */
export class History {
  readonly problems: string[] = [];
  readonly counts = { acknowledged: 0, refused: 0, unknown: 0 };
  /** How often each code was answered. */
  readonly codes = new Map<string, number>();
  readonly #entries = new Map<string, HistoryEntry[]>();
  readonly #valueOfHash = new Map<string, string>();
  readonly #etagOfValue = new Map<string, string>();
  readonly #refusals = new Map<string, string[]>();
  #values = 0;

  entries(name: Name): readonly HistoryEntry[] {
    return this.#entries.get(text(name)) ?? [];
  }

  /** A value that was never written before, and its bytes. */
  newValue(sizeBytes: number): { readonly value: string; readonly bytes: Buffer } {
    const value = `v${++this.#values}`;
    const bytes = Buffer.alloc(sizeBytes, `${value} `);
    bytes.write(value.slice(0, sizeBytes), 'latin1');
    bytes.write(value, Math.max(0, sizeBytes - value.length), 'latin1');
    const hash = hashOf(bytes);
    // There are few values of one byte; the second value of the same bytes is made longer.
    if (this.#valueOfHash.has(hash)) return this.newValue(sizeBytes + 20);
    this.#valueOfHash.set(hash, value);
    return { value, bytes };
  }

  valueOf(bytes: Uint8Array): string | undefined {
    return this.#valueOfHash.get(hashOf(bytes));
  }

  etagOf(value: string): string | undefined {
    return this.#etagOfValue.get(value);
  }

  learnEtag(value: string, etag: string | undefined): void {
    if (etag !== undefined) this.#etagOfValue.set(value, etag.replaceAll('"', ''));
  }

  add(name: Name, entry: HistoryEntry): void {
    const entries = this.#entries.get(text(name)) ?? [];
    entries.push(entry);
    this.#entries.set(text(name), entries);
  }

  /** For who looks into a violation: a refused write that is seen is one. */
  refused(name: Name, what: string): void {
    const told = this.#refusals.get(text(name)) ?? [];
    told.push(what);
    this.#refusals.set(text(name), told);
  }

  refusals(name: Name): readonly string[] {
    return this.#refusals.get(text(name)) ?? [];
  }

  count(code: string): void {
    this.codes.set(code, (this.codes.get(code) ?? 0) + 1);
  }

  /** What was judged is needed no more. */
  forget(): void {
    this.#entries.clear();
    this.#valueOfHash.clear();
    this.#etagOfValue.clear();
    this.#refusals.clear();
  }
}

export class Lane {
  readonly #who: string;
  readonly #history: History;
  readonly #random: () => number;

  constructor(who: string, history: History, seed: number) {
    this.#who = who;
    this.#history = history;
    this.#random = createRandom(seed);
  }

  /** Until `isOver`; each operation has an answer or an end when it resolves. */
  async work(access: () => Access, names: readonly Name[], isOver: () => boolean): Promise<void> {
    while (!isOver()) {
      const name = names[this.#below(names.length)] as Name;
      const surface = SURFACES[this.#below(SURFACES.length)] as Surface;
      const kind = this.#below(10);
      if (kind < 4) await this.read(access(), surface, name);
      else if (kind < 7) await this.#write(access(), surface, name);
      else if (kind < 8) await this.#remove(access(), surface, name);
      else await this.#swap(access(), name);
    }
  }

  /** What is there; undefined when it was not told. */
  async read(access: Access, surface: Surface, name: Name): Promise<Value | undefined> {
    const calledMs = performance.now();
    const outcome = await this.#timed(`read of ${text(name)} by ${surface}`, () =>
      this.#get(access, surface, name),
    );
    if (outcome.kind !== 'done' || outcome.value === undefined) return undefined;
    const { value } = outcome;
    this.#note(name, calledMs, { kind: 'read', value });
    if (value !== null) this.#history.learnEtag(value, outcome.etag);
    return value;
  }

  async #write(access: Access, surface: Surface, name: Name): Promise<void> {
    const { value, bytes } = this.#history.newValue(this.#size());
    await this.#change(name, { kind: 'write', value }, `put of ${text(name)} by ${surface}`, () =>
      this.#put(access, surface, name, bytes),
    );
  }

  async #remove(access: Access, surface: Surface, name: Name): Promise<void> {
    const { bucket, key } = name;
    await this.#change(
      name,
      { kind: 'write', value: null },
      `delete of ${text(name)}`,
      async () => {
        if (surface === 'local') await access.local.delete(bucket, key);
        else if (surface === 's3')
          await access.s3.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }));
        else await this.#fetch(access, name, { method: 'DELETE' });
        return { kind: 'done' };
      },
    );
  }

  /** Over what is there now, or where nothing is. */
  async #swap(access: Access, name: Name): Promise<void> {
    const expected = this.#below(3) === 0 ? null : await this.read(access, 'http', name);
    if (expected === undefined) return;
    const etag = expected === null ? undefined : this.#history.etagOf(expected);
    if (expected !== null && etag === undefined) return;
    const { value, bytes } = this.#history.newValue(this.#size());
    const condition = etag === undefined ? { ifNoneMatch: '*' as const } : { ifMatch: etag };
    await this.#change(
      name,
      { kind: 'swap', expected, value, held: true },
      `conditional put of ${text(name)}`,
      async () => {
        const { bucket, key } = name;
        const answer = await access.local.put(bucket, key, bytes, condition);
        return { kind: 'done', etag: answer.etag };
      },
    );
  }

  async #change(
    name: Name,
    operation: Extract<Operation, { kind: 'write' | 'swap' }>,
    what: string,
    call: () => Promise<Outcome>,
  ): Promise<void> {
    const calledMs = performance.now();
    const outcome = await this.#timed(what, call);
    const { counts } = this.#history;
    if (outcome.kind === 'done') {
      counts.acknowledged++;
      this.#note(name, calledMs, operation);
      if (operation.value !== null) this.#history.learnEtag(operation.value, outcome.etag);
    } else if (outcome.kind === 'condition' && operation.kind === 'swap') {
      counts.acknowledged++;
      this.#note(name, calledMs, { ...operation, held: false });
    } else if (outcome.kind === 'unknown') {
      counts.unknown++;
      const unsure = operation.kind === 'swap' ? { ...operation, held: null } : operation;
      this.#note(name, calledMs, unsure, Number.POSITIVE_INFINITY);
    } else {
      counts.refused++;
      const code = outcome.kind === 'refused' ? outcome.code : outcome.kind;
      this.#history.refused(name, `${operation.value ?? 'nothing'} was refused: ${code} (${what})`);
    }
  }

  #note(name: Name, calledMs: number, operation: Operation, answeredMs = performance.now()): void {
    this.#history.add(name, { operation, who: this.#who, calledMs, answeredMs });
  }

  async #timed(what: string, call: () => Promise<Outcome>): Promise<Outcome> {
    const hung = Promise.withResolvers<Outcome>();
    const timer = setTimeout(() => {
      this.#history.problems.push(`hung: ${what} has no answer after ${HUNG_MS} ms`);
      hung.resolve({ kind: 'unknown', code: 'hung' });
    }, HUNG_MS);
    try {
      return await Promise.race([hung.promise, call()]);
    } catch (thrown) {
      const outcome = judge(thrown);
      if (outcome.kind === 'refused' || outcome.kind === 'unknown') {
        this.#history.count(outcome.code);
        if (WRONG.has(outcome.code)) this.#history.problems.push(`${what}: ${String(thrown)}`);
      }
      return outcome;
    } finally {
      clearTimeout(timer);
    }
  }

  async #get(access: Access, surface: Surface, name: Name): Promise<Outcome> {
    const { bucket, key } = name;
    try {
      if (surface === 'local') {
        const found = await access.local.get(bucket, key);
        return this.#seen(name, await found.bytes(), found.info.etag);
      }
      if (surface === 's3') {
        const get = new GetObjectCommand({ Bucket: bucket, Key: key });
        const { Body, ETag } = await access.s3.send(get);
        return this.#seen(name, (await Body?.transformToByteArray()) ?? new Uint8Array(), ETag);
      }
      const answer = await this.#fetch(access, name, {});
      const etag = answer.headers.get('etag') ?? undefined;
      return this.#seen(name, new Uint8Array(await answer.arrayBuffer()), etag);
    } catch (thrown) {
      if (isMissing(thrown)) return { kind: 'done', value: null };
      throw thrown;
    }
  }

  #seen(name: Name, bytes: Uint8Array, etag: string | undefined): Outcome {
    const value = this.#history.valueOf(bytes);
    if (value !== undefined) return { kind: 'done', value, etag };
    const start = Buffer.from(bytes.subarray(0, 30)).toString('latin1');
    this.#history.problems.push(
      `wrong bytes: ${text(name)} is ${bytes.length} bytes that nobody wrote: ${JSON.stringify(start)}`,
    );
    return { kind: 'unknown', code: 'wrong bytes' };
  }

  async #put(access: Access, surface: Surface, name: Name, bytes: Buffer): Promise<Outcome> {
    const { bucket, key } = name;
    if (surface === 'local') {
      const { etag } = await access.local.put(bucket, key, bytes);
      return { kind: 'done', etag };
    }
    if (surface === 's3') {
      const put = new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes });
      const { ETag } = await access.s3.send(put);
      return { kind: 'done', etag: ETag };
    }
    const body = new Uint8Array(bytes);
    const answer = await this.#fetch(access, name, { method: 'PUT', body });
    await answer.arrayBuffer();
    return { kind: 'done', etag: answer.headers.get('etag') ?? undefined };
  }

  async #fetch({ url }: Access, { bucket, key }: Name, init: RequestInit): Promise<Response> {
    const answer = await fetch(url + objectPath(bucket, key), init);
    if (answer.ok) return answer;
    await answer.arrayBuffer();
    throw new HttpFailure(answer.status, answer.headers.get(HEADERS.errorCode) ?? '');
  }

  #below(end: number): number {
    return Math.floor(this.#random() * end);
  }

  #size(): number {
    return SIZES[this.#below(SIZES.length)] as number;
  }
}

/** No fault of the campaign may lead to one of these. */
const WRONG = new Set(['data_lost', 'data_corrupt', 'internal']);

class HttpFailure extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string) {
    super(`HTTP ${status} ${code}`);
    this.status = status;
    this.code = code;
  }
}

interface Thrown {
  readonly status?: number;
  readonly code?: string;
  readonly name?: string;
  readonly $metadata?: { readonly httpStatusCode?: number };
}

function statusOf(thrown: unknown): number | undefined {
  const { status, $metadata } = thrown as Thrown;
  return status ?? $metadata?.httpStatusCode;
}

function isMissing(thrown: unknown): boolean {
  return isStoreError(thrown, 'not_found') || statusOf(thrown) === 404;
}

/** Whatever is not certain to have changed nothing may have changed something. */
function judge(thrown: unknown): Outcome {
  if (isStoreError(thrown, 'precondition_failed') || isStoreError(thrown, 'already_exists'))
    return { kind: 'condition' };
  if (isStoreError(thrown)) {
    const isCertain = thrown.retry !== 'ambiguous' || thrown.details['notSent'] === true;
    return { kind: isCertain ? 'refused' : 'unknown', code: thrown.code };
  }
  if (thrown instanceof HttpFailure && isStoreErrorCode(thrown.code)) {
    const isCertain = ERRORS[thrown.code].retry !== 'ambiguous';
    return { kind: isCertain ? 'refused' : 'unknown', code: thrown.code };
  }
  const status = statusOf(thrown);
  const code = status === undefined ? 'no answer' : `S3 ${status} ${(thrown as Thrown).name ?? ''}`;
  return { kind: status !== undefined && status < 500 ? 'refused' : 'unknown', code };
}

export function text({ bucket, key }: Name): string {
  return `${bucket}/${key}`;
}
