/**
 * One writer of the crash drill: random operations on names of its own, one at a time, and what may be found of them.
 *
 * L1  A name holds what the last acknowledged operation left there.
 * L2  An operation without an answer is there whole or not at all, on all its names together.
 * L3  A refused operation changed nothing.
 */
import { createHash } from 'node:crypto';
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import type { EbbClient } from '@ebb/client';
import { isStoreError, KiB, MiB, objectPath } from '@ebb/protocol';

export const ABSENT = 'absent';
/** Deleted, in a bucket that keeps versions. */
export const MARKER = 'marker';
export const VERSIONED = 'kept';
export const PLAIN = ['mirrored', 'fast', 'durable'] as const;

const KEYS = 8;
const FOLDERS = ['a', 'b'] as const;
const SIZES = [0, 1, 5000, 70_000, 300_000] as const;
/** Above what tier 2 takes in one request. */
const LARGE_BYTES = 18 * MiB;
/** The smallest part that may have another behind it. */
const PART_BYTES = 5 * MiB;
const REFUSED_STATUS = new Set([429, 503, 507]);

/** By `bucket/key`: the hash of what is there; of a bucket that keeps versions the hashes of all, oldest first. */
export type State = ReadonlyMap<string, string>;

export interface Access {
  readonly client: EbbClient;
  readonly s3: S3Client;
  readonly url: string;
}

export interface LaneCounts {
  acknowledged: number;
  unanswered: number;
  refused: number;
  readonly byKind: Record<string, number>;
}

export class CrashLane {
  readonly name: string;
  readonly #random: () => number;
  readonly #counts: LaneCounts;
  readonly #settled = new Map<string, string>();
  readonly #recipes = new Map<string, () => Buffer>();
  #pending: State | undefined;
  #kind = '';
  #seed: number;

  constructor(options: {
    readonly number: number;
    readonly seed: number;
    readonly counts: LaneCounts;
  }) {
    this.name = `lane${options.number}`;
    this.#seed = options.seed * 1000 + options.number;
    this.#random = createRandom(this.#seed);
    this.#counts = options.counts;
  }

  get settled(): State {
    return this.#settled;
  }

  /** Every name that something may be found under. */
  get names(): readonly string[] {
    return [...new Set([...this.#settled.keys(), ...(this.#pending?.keys() ?? [])])];
  }

  /** Works until the node is gone. @throws what is no answer of the protocol while it is there */
  async work(access: Access, isKilled: () => boolean): Promise<void> {
    while (!isKilled()) {
      try {
        await this.#one(access);
      } catch (error) {
        if (isRefusal(error)) {
          this.#pending = undefined;
          this.#counts.refused++;
        } else if (isKilled()) {
          this.#counts.unanswered++;
          return;
        } else throw error;
      }
    }
  }

  /** Compares what was found with L1 and L2, and goes on from it. Returns what does not hold. */
  settle(found: State): string[] {
    const wrong: string[] = [];
    const pending = this.#pending ?? new Map<string, string>();
    const before = (name: string): string => this.#settled.get(name) ?? ABSENT;
    for (const name of this.names)
      if (!pending.has(name) && found.get(name) !== before(name))
        wrong.push(`${name} is ${found.get(name)}, acknowledged was ${before(name)}`);
    const all = [...pending];
    const isOld = all.every(([name]) => found.get(name) === before(name));
    const isNew = all.every(([name, after]) => found.get(name) === after);
    if (!isOld && !isNew)
      wrong.push(
        ...all.map(
          ([name, after]) =>
            `${name} is ${found.get(name)}, which is half of: ${before(name)} before, ${after} after`,
        ),
      );
    if (isNew) this.#apply(pending);
    this.#pending = undefined;
    return wrong;
  }

  forget(bucket: string): void {
    for (const name of this.#settled.keys())
      if (name.startsWith(`${bucket}/`)) this.#settled.delete(name);
  }

  async #one(access: Access): Promise<void> {
    const kinds = [
      ...['putLocal', 'putLocal', 'putHttp', 'putS3', 'putS3', 'copy', 'copy', 'rename'],
      ...['remove', 'remove', 'removeS3', 'renamePrefix', 'file', 'file', 'version', 'version'],
      ...['putRemote', 'multipart', 'compose'],
    ] as const;
    // A large object or multipart upload takes as long as many small ones.
    const isLarge = this.#below(80) === 0;
    const kind = isLarge
      ? 'putLarge'
      : (kinds[this.#below(kinds.length)] as (typeof kinds)[number]);
    if ((kind === 'multipart' || kind === 'compose') && this.#below(4) > 0) return;
    this.#kind = kind;
    await this[`_${kind}`](access);
  }

  /** Nothing of `after` is expected before the call is answered; then all of it is. */
  async #step(after: State, call: () => Promise<unknown>): Promise<void> {
    this.#pending = after;
    await call();
    this.#apply(after);
    this.#pending = undefined;
    this.#counts.acknowledged++;
    this.#counts.byKind[this.#kind] = (this.#counts.byKind[this.#kind] ?? 0) + 1;
  }

  #apply(after: State): void {
    for (const [name, value] of after) {
      if (value === ABSENT) this.#settled.delete(name);
      else this.#settled.set(name, value);
    }
  }

  // ── operations ────────────────────────────────────────────────────────────────────────────────────────────────────

  async _putLocal({ client }: Access): Promise<void> {
    const { bucket, key, bytes, after } = this.#newObject(this.#bucket());
    await this.#step(after, () => client.put(bucket, key, bytes));
  }

  async _putRemote({ client }: Access): Promise<void> {
    const { bucket, key, bytes, after } = this.#newObject('mirrored');
    await this.#step(after, () => client.put(bucket, key, bytes, { ack: 'remote' }));
  }

  async _putLarge({ client }: Access): Promise<void> {
    const { bucket, key, bytes, after } = this.#newObject('mirrored', LARGE_BYTES);
    await this.#step(after, () => client.put(bucket, key, bytes));
  }

  async _putHttp({ url }: Access): Promise<void> {
    const { bucket, key, bytes, after } = this.#newObject(this.#bucket());
    await this.#step(after, async () => {
      const body = new Uint8Array(bytes);
      const answer = await fetch(url + objectPath(bucket, key), { method: 'PUT', body });
      await answer.arrayBuffer();
      if (!answer.ok) throw new HttpFailure(answer.status);
    });
  }

  async _putS3({ s3 }: Access): Promise<void> {
    const { bucket, key, bytes, after } = this.#newObject(this.#bucket());
    const put = { Bucket: bucket, Key: key, Body: bytes };
    await this.#step(after, () => s3.send(new PutObjectCommand(put)));
  }

  async _multipart({ s3 }: Access): Promise<void> {
    const { bucket, key, bytes, after } = this.#newObject('mirrored', PART_BYTES + 5000);
    const ref = { Bucket: bucket, Key: key };
    await this.#complete(s3, ref, after, [
      { Body: bytes.subarray(0, PART_BYTES) },
      { Body: bytes.subarray(PART_BYTES) },
    ]);
  }

  /** A fresh part, then one that is copied from another object: their extents are joined. */
  async _compose({ s3 }: Access): Promise<void> {
    const from = this.#existing();
    if (from === undefined) return;
    const tail = this.#settled.get(from) as string;
    const head = this.#content(PART_BYTES);
    const bytes = (): Buffer => Buffer.concat([this.#recipe(head), this.#recipe(tail)]);
    const tailBytes = this.#recipe(tail).length;
    if (tailBytes === 0 || tailBytes >= PART_BYTES) return;
    const { bucket, key, name } = this.#place('mirrored');
    const after = new Map([[name, this.#learn(bytes)]]);
    const parts = [{ Body: this.#recipe(head) }, { CopySource: from }];
    await this.#complete(s3, { Bucket: bucket, Key: key }, after, parts);
  }

  async #complete(
    s3: S3Client,
    ref: { readonly Bucket: string; readonly Key: string },
    after: State,
    parts: readonly ({ readonly Body: Buffer } | { readonly CopySource: string })[],
  ): Promise<void> {
    await this.#step(after, async () => {
      const { UploadId } = await s3.send(new CreateMultipartUploadCommand(ref));
      const Parts: { ETag: string | undefined; PartNumber: number }[] = [];
      for (const [index, part] of parts.entries()) {
        const place = { ...ref, UploadId, PartNumber: index + 1 };
        const ETag =
          'Body' in part
            ? (await s3.send(new UploadPartCommand({ ...place, ...part }))).ETag
            : (await s3.send(new UploadPartCopyCommand({ ...place, ...part }))).CopyPartResult
                ?.ETag;
        Parts.push({ ETag, PartNumber: index + 1 });
      }
      const complete = { ...ref, UploadId, MultipartUpload: { Parts } };
      await s3.send(new CompleteMultipartUploadCommand(complete));
    });
  }

  async _copy({ client }: Access): Promise<void> {
    const from = this.#existing();
    if (from === undefined) return;
    const { name } = this.#place(this.#bucket());
    if (name === from) return;
    const after = new Map([[name, this.#settled.get(from) as string]]);
    await this.#step(after, () => client.copy(toRef(from), toRef(name)));
  }

  async _rename({ client }: Access): Promise<void> {
    const from = this.#existing();
    if (from === undefined) return;
    const { name } = this.#place(this.#bucket());
    if (name === from) return;
    const after = new Map([
      [from, ABSENT],
      [name, this.#settled.get(from) as string],
    ]);
    await this.#step(after, () => client.rename(toRef(from), toRef(name)));
  }

  async _remove({ client }: Access): Promise<void> {
    const from = this.#existing();
    if (from === undefined) return;
    const { bucket, key } = toRef(from);
    await this.#step(new Map([[from, ABSENT]]), () => client.delete(bucket, key));
  }

  async _removeS3({ s3 }: Access): Promise<void> {
    const from = this.#existing();
    if (from === undefined) return;
    const { bucket, key } = toRef(from);
    const remove = new DeleteObjectCommand({ Bucket: bucket, Key: key });
    await this.#step(new Map([[from, ABSENT]]), () => s3.send(remove));
  }

  async _renamePrefix({ client }: Access): Promise<void> {
    const [from, to] = this.#below(2) === 0 ? FOLDERS : [FOLDERS[1], FOLDERS[0]];
    const [fromBucket, toBucket] = [this.#bucket(), this.#bucket()];
    const prefix = `${fromBucket}/${this.name}/${from}/`;
    const after = new Map<string, string>();
    for (const [name, value] of this.#settled) {
      if (!name.startsWith(prefix)) continue;
      after.set(name, ABSENT);
      after.set(`${toBucket}/${this.name}/${to}/${name.slice(prefix.length)}`, value);
    }
    if (after.size === 0) return;
    const source = { bucket: fromBucket, key: `${this.name}/${from}/` };
    const target = { bucket: toBucket, key: `${this.name}/${to}/` };
    await this.#step(after, () => client.renamePrefix(source, target));
  }

  /** Two versions: one by sync, one by close. */
  async _file({ client }: Access): Promise<void> {
    const { bucket, key, name } = this.#place(this.#bucket());
    const first = this.#content(this.#size());
    const second = this.#content(1 + this.#size());
    const both = (): Buffer => Buffer.concat([this.#recipe(first), this.#recipe(second)]);
    const isCut = this.#below(4) === 0;
    await using file = await client.openFile({ bucket, key }, 'w');
    await file.write(this.#recipe(first), 0);
    await this.#step(new Map([[name, first]]), () => file.sync());
    await file.write(this.#recipe(second), this.#recipe(first).length);
    if (isCut) await file.truncate(0);
    const last = isCut ? this.#learn(() => Buffer.alloc(0)) : this.#learn(both);
    await this.#step(new Map([[name, last]]), () => file.close());
  }

  /** A write or a delete in the bucket that keeps what it replaces. */
  async _version({ s3, client }: Access): Promise<void> {
    const name = `${VERSIONED}/${this.name}/k${this.#below(3)}`;
    const { bucket, key } = toRef(name);
    const history = this.#settled.get(name);
    const next = (value: string): State =>
      new Map([[name, history === undefined ? value : `${history} ${value}`]]);
    if (this.#below(4) === 0 && history !== undefined) {
      const remove = new DeleteObjectCommand({ Bucket: bucket, Key: key });
      await this.#step(next(MARKER), () => s3.send(remove));
      return;
    }
    const hash = this.#content(1 + this.#size());
    await this.#step(next(hash), () => client.put(bucket, key, this.#recipe(hash)));
  }

  // ── choices ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #below(end: number): number {
    return Math.floor(this.#random() * end);
  }

  #size(): number {
    return SIZES[this.#below(SIZES.length)] as number;
  }

  #bucket(): string {
    return PLAIN[this.#below(PLAIN.length)] as string;
  }

  #place(bucket: string): { bucket: string; key: string; name: string } {
    const folder = FOLDERS[this.#below(FOLDERS.length)];
    const key = `${this.name}/${folder}/k${this.#below(KEYS)}`;
    return { bucket, key, name: `${bucket}/${key}` };
  }

  #existing(): string | undefined {
    const names = [...this.#settled.keys()].filter((name) => !name.startsWith(`${VERSIONED}/`));
    return names[this.#below(names.length)];
  }

  #newObject(
    bucket: string,
    sizeBytes = this.#size(),
  ): { bucket: string; key: string; bytes: Buffer; after: State } {
    const { key, name } = this.#place(bucket);
    const hash = this.#content(sizeBytes);
    return { bucket, key, bytes: this.#recipe(hash), after: new Map([[name, hash]]) };
  }

  #content(sizeBytes: number): string {
    const seed = ++this.#seed * 64 + this.#below(64);
    return this.#learn(() => content(sizeBytes, seed));
  }

  #learn(recipe: () => Buffer): string {
    const hash = hashOf(recipe());
    // What is made of another content and an empty one has the hash of that other.
    if (!this.#recipes.has(hash)) this.#recipes.set(hash, recipe);
    return hash;
  }

  #recipe(hash: string): Buffer {
    return (this.#recipes.get(hash) as () => Buffer)();
  }
}

export function hashOf(bytes: Uint8Array): string {
  return createHash('sha1').update(bytes).digest('base64');
}

export function toRef(name: string): { bucket: string; key: string } {
  const slash = name.indexOf('/');
  return { bucket: name.slice(0, slash), key: name.slice(slash + 1) };
}

/** Mulberry32: a seed gives the same sequence everywhere. */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function content(sizeBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  const block = Buffer.alloc(Math.min(sizeBytes, 4 * KiB));
  let state = seed | 1;
  for (let at = 0; at < block.length; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    block[at] = state >>> 24;
  }
  for (let at = 0; at < sizeBytes; at += block.length) {
    block.copy(bytes, at);
    if (at + 4 <= sizeBytes) bytes.writeInt32LE(seed ^ at, at);
  }
  return bytes;
}

class HttpFailure extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`HTTP ${status}`);
    this.status = status;
  }
}

/** L3: answers that say so. */
function isRefusal(error: unknown): boolean {
  if (isStoreError(error, 'busy') || isStoreError(error, 'tier_full')) return true;
  const found = error as { status?: number; $metadata?: { httpStatusCode?: number } };
  return REFUSED_STATUS.has(found.status ?? found.$metadata?.httpStatusCode ?? 0);
}
