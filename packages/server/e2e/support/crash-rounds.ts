/**
 * The crash drill: a node under mixed writes is killed with `kill -9` at random moments, again and again, and looked through
 * after each start. Tier 2 is the S3 surface of another node, which lives on.
 *
 * After each kill: L1 to L3 (crash-lane.ts), and the listing of every bucket names exactly what is there.
 * After every second one, when tier 2 has been given what waited: it holds every object of the mirrored buckets under its
 * name, no other name, and no upload with parts is open there.
 * At the end: every stored byte fits its checksum; when all is deleted, no byte is left on the node, and no name in the store,
 * private ones included.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  AbortMultipartUploadCommand,
  CreateBucketCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  ListPartsCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import { type EbbClient, openClient } from '@ebb/client';
import { isStoreError } from '@ebb/protocol';
import { type NodeProcess, startNodeProcess } from '../../../client/e2e/support/node-process.ts';
import {
  ABSENT,
  CrashLane,
  createRandom,
  hashOf,
  type LaneCounts,
  MARKER,
  PLAIN,
  toRef,
  VERSIONED,
} from './crash-lane.ts';

const LANES = 6;
const KILL_AFTER_MS = { min: 30, max: 900 };
const DRAIN_MS_MAX = 60_000;
const POLL_MS = 25;
/** Histories grow; they are looked through version by version. */
const FORGET_VERSIONS_EVERY = 8;
const VERIFY_EVERY = 25;
const KEY = { accessKeyId: 'CRASHDRILLKEY', secretAccessKey: 'a-secret-of-the-crash-drill' };

export interface CrashRoundsOptions {
  readonly rounds: number;
  readonly seed: number;
  readonly onRound?: (round: number, counts: CrashCounts) => void;
}

export interface CrashCounts extends LaneCounts {
  rounds: number;
  /** Objects and versions read back whole, all rounds together. */
  read: number;
  /** Of them in tier 2, by a plain S3 client. */
  readRemote: number;
  /** Names that waited for tier 2 when the node was back, all rounds together. */
  waited: number;
  /** Uploads without parts that kills left open in tier 2. */
  emptyUploads: number;
  /** What did not hold. */
  readonly problems: string[];
}

export async function runCrashRounds(options: CrashRoundsOptions): Promise<CrashCounts> {
  await using drill = await openDrill(options.seed);
  const { counts } = drill;
  for (let round = 1; round <= options.rounds; round++) {
    await drill.crash();
    await drill.checkNode();
    if (round % 2 === 0 || round === options.rounds) await drill.checkTier2();
    if (round % VERIFY_EVERY === 0 || round === options.rounds) await drill.verify();
    if (round % FORGET_VERSIONS_EVERY === 0) await drill.forgetVersions();
    counts.rounds = round;
    options.onRound?.(round, counts);
    if (counts.problems.length > 0) return counts;
  }
  await drill.checkNothingLeft();
  return counts;
}

async function openDrill(seed: number): Promise<Drill> {
  const store = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
    diskLimit: '1GiB',
  });
  const tier2 = connect(store.s3Url);
  await tier2.send(new CreateBucketCommand({ Bucket: 'tier' }));
  const node = await startNodeProcess({
    args: [`--remote=s3://tier/ebb?endpoint=${encodeURIComponent(store.s3Url)}`],
    env: { AWS_ACCESS_KEY_ID: KEY.accessKeyId, AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey },
    ...{ memoryLimit: '48MiB', diskLimit: '512MiB' },
  });
  const client = await openQuick(node);
  await client.buckets.create('mirrored', { preset: 'buffered' });
  await client.buckets.create('fast', { preset: 'ephemeral' });
  await client.buckets.create('durable', { preset: 'durable' });
  await client.buckets.create(VERSIONED, { preset: 'buffered', versioning: 'enabled' });
  return new Drill({ node, store, tier2, client, seed });
}

class Drill implements AsyncDisposable {
  readonly counts: CrashCounts = {
    ...{ rounds: 0, acknowledged: 0, unanswered: 0, refused: 0, read: 0, readRemote: 0 },
    ...{ waited: 0, emptyUploads: 0, byKind: {}, problems: [] },
  };
  readonly #node: NodeProcess;
  readonly #store: NodeProcess;
  readonly #tier2: S3Client;
  readonly #lanes: readonly CrashLane[];
  readonly #random: () => number;
  #client: EbbClient;
  #s3: S3Client;

  constructor(parts: {
    readonly node: NodeProcess;
    readonly store: NodeProcess;
    readonly tier2: S3Client;
    readonly client: EbbClient;
    readonly seed: number;
  }) {
    this.#node = parts.node;
    this.#store = parts.store;
    this.#tier2 = parts.tier2;
    this.#client = parts.client;
    this.#s3 = connect(parts.node.s3Url);
    this.#random = createRandom(parts.seed);
    this.#lanes = Array.from(
      { length: LANES },
      (_, number) => new CrashLane({ number, seed: parts.seed, counts: this.counts }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.close().catch(() => undefined);
    this.#s3.destroy();
    this.#tier2.destroy();
    await this.#node[Symbol.asyncDispose]();
    await this.#store[Symbol.asyncDispose]();
  }

  /** Writes, a kill in the middle of them, and a start. */
  async crash(): Promise<void> {
    let isKilled = false;
    const access = { client: this.#client, s3: this.#s3, url: this.#node.url };
    const lanes = Promise.all(this.#lanes.map((lane) => lane.work(access, () => isKilled)));
    lanes.catch(() => undefined);
    const { min, max } = KILL_AFTER_MS;
    await Promise.race([sleep(min + this.#random() * (max - min)), lanes]);
    isKilled = true;
    await this.#node.kill();
    await lanes;
    await this.#client.close().catch(() => undefined);
    this.#s3.destroy();
    await this.#node.start();
    this.#client = await openQuick(this.#node);
    this.#s3 = connect(this.#node.s3Url);
    this.counts.waited += (await this.#client.status()).mirrorBacklogObjects;
  }

  async checkNode(): Promise<void> {
    for (const lane of this.#lanes) {
      const found = new Map<string, string>();
      for (const name of lane.names)
        found.set(
          name,
          name.startsWith(`${VERSIONED}/`) ? await this.#history(name) : await this.#hash(name),
        );
      this.counts.problems.push(...lane.settle(found));
    }
    for (const bucket of [...PLAIN, VERSIONED]) {
      const listed = await Array.fromAsync(this.#client.listAll(bucket), ({ key }) => key);
      this.#same(`the listing of ${bucket}`, listed, [...this.#newest(bucket).keys()]);
      await this.#abortUploads(this.#s3, bucket);
    }
    const { tiers } = await this.#client.status();
    for (const { tier, stagedBytes } of tiers)
      if (stagedBytes !== 0) this.counts.problems.push(`${stagedBytes} bytes staged in ${tier}`);
    const { orphanFiles, lostObjects } = await this.#client.gc();
    if (orphanFiles + lostObjects > 0)
      this.counts.problems.push(`gc: ${orphanFiles} orphans, ${lostObjects} lost objects`);
  }

  async checkTier2(): Promise<void> {
    await this.#drained();
    for (const bucket of ['mirrored', 'durable', VERSIONED]) {
      const newest = this.#newest(bucket);
      const prefix = `ebb/${bucket}/`;
      // What bytes that live on elsewhere lie under; those are read through the node.
      const names = (await this.#stored(prefix)).filter((name) => !name.includes('/.ebb/'));
      const keys = names.map((name) => name.slice(prefix.length));
      this.#same(`tier 2 of ${bucket}`, keys, [...newest.keys()]);
      for (const [key, hash] of newest) {
        const command = new GetObjectCommand({ Bucket: 'tier', Key: prefix + key });
        const { Body } = await this.#tier2.send(command);
        const found = hashOf((await Body?.transformToByteArray()) ?? new Uint8Array());
        if (found !== hash) this.counts.problems.push(`tier 2 has other bytes of ${bucket}/${key}`);
        this.counts.readRemote++;
      }
    }
    await this.#checkUploads();
  }

  /** One whose creation a kill left unanswered stays without parts: its id is known to nobody (LIMITATIONS.md). */
  async #checkUploads(): Promise<void> {
    const list = new ListMultipartUploadsCommand({ Bucket: 'tier' });
    const { Uploads = [] } = await this.#tier2.send(list);
    for (const { Key, UploadId } of Uploads) {
      const upload = { Bucket: 'tier', Key, UploadId };
      const { Parts = [] } = await this.#tier2.send(new ListPartsCommand(upload));
      if (Parts.length > 0)
        this.counts.problems.push(
          `an upload of ${Key} is open in tier 2, with ${Parts.length} parts`,
        );
      this.counts.emptyUploads++;
      await this.#tier2.send(new AbortMultipartUploadCommand(upload));
    }
  }

  async verify(): Promise<void> {
    const { broken } = await this.#client.verify();
    this.counts.problems.push(...broken.map((blob) => JSON.stringify(blob)));
  }

  async forgetVersions(): Promise<void> {
    await this.#client.deletePrefix(VERSIONED, '', { allVersions: true });
    for (const lane of this.#lanes) lane.forget(VERSIONED);
  }

  async checkNothingLeft(): Promise<void> {
    for (const bucket of PLAIN) await this.#client.deletePrefix(bucket, '');
    await this.forgetVersions();
    await this.#drained();
    await this.#client.gc();
    const tiers = async (): Promise<number[]> =>
      (await this.#client.status()).tiers.map((tier) => tier.usedBytes - tier.pooledBytes);
    await until('no bytes are used', async () => (await tiers()).every((bytes) => bytes === 0));
    // What kills left there under private names goes in the background.
    const isEmpty = async (): Promise<boolean> => (await this.#stored('')).length === 0;
    await until('tier 2 is empty', isEmpty).catch(() => undefined);
    this.#same('tier 2, with all deleted,', await this.#stored(''), []);
    // Beside the blobs there are the tier's own record and the file that shows to clients that they see it.
    for (const file of filesOf(join(this.#node.dataDir, 'disk', 'b')))
      this.counts.problems.push(`${file} is left on disk`);
  }

  /** By key: the newest version of what is there. */
  #newest(bucket: string): Map<string, string> {
    const found = new Map<string, string>();
    for (const lane of this.#lanes)
      for (const [name, value] of lane.settled) {
        const { bucket: its, key } = toRef(name);
        const newest = value.split(' ').at(-1) as string;
        if (its === bucket && newest !== MARKER) found.set(key, newest);
      }
    return found;
  }

  async #hash(name: string): Promise<string> {
    const { bucket, key } = toRef(name);
    try {
      const bytes = await (await this.#client.get(bucket, key)).bytes();
      this.counts.read++;
      return hashOf(bytes);
    } catch (error) {
      if (isStoreError(error, 'not_found')) return ABSENT;
      return `unreadable (${String(error)})`;
    }
  }

  /** Of one key: the hashes of its versions, oldest first. */
  async #history(name: string): Promise<string> {
    const { bucket: Bucket, key: Key } = toRef(name);
    const list = new ListObjectVersionsCommand({ Bucket, Prefix: Key });
    const { Versions = [], DeleteMarkers = [], IsTruncated } = await this.#s3.send(list);
    if (IsTruncated === true) return 'too many versions to look through';
    const all = [
      ...Versions.map((version) => ({ ...version, isMarker: false })),
      ...DeleteMarkers.map((marker) => ({ ...marker, isMarker: true })),
    ];
    // The time of versions has seconds; the listing has the newest of either kind first.
    const order = await this.#versionOrder(Bucket, Key);
    all.sort((a, b) => order(a.VersionId) - order(b.VersionId));
    const hashes: string[] = [];
    for (const { VersionId, isMarker } of all) {
      if (isMarker) hashes.push(MARKER);
      else {
        const get = new GetObjectCommand({ Bucket, Key, VersionId });
        const { Body } = await this.#s3.send(get);
        hashes.push(hashOf((await Body?.transformToByteArray()) ?? new Uint8Array()));
        this.counts.read++;
      }
    }
    return hashes.length === 0 ? ABSENT : hashes.join(' ');
  }

  /** The document has versions and markers in one order, newest first, which the SDK takes apart. */
  async #versionOrder(bucket: string, key: string): Promise<(versionId?: string) => number> {
    const query = new URLSearchParams({ versions: '', prefix: key });
    const answer = await fetch(`${this.#node.s3Url}/${bucket}?${query}`);
    const ids = [...(await answer.text()).matchAll(/<VersionId>([^<]*)</g)].map(([, id]) => id);
    return (versionId) => -ids.indexOf(versionId);
  }

  async #stored(Prefix: string): Promise<string[]> {
    const names: string[] = [];
    const pages = paginateListObjectsV2({ client: this.#tier2 }, { Bucket: 'tier', Prefix });
    for await (const { Contents = [] } of pages)
      names.push(...Contents.map(({ Key }) => Key ?? ''));
    return names;
  }

  async #abortUploads(s3: S3Client, Bucket: string): Promise<void> {
    const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket }));
    for (const { Key, UploadId } of Uploads)
      await s3.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }));
  }

  async #drained(): Promise<void> {
    await until(
      'everything is in tier 2',
      async () => (await this.#client.status()).mirrorBacklogObjects === 0,
    );
  }

  #same(what: string, found: readonly string[], wanted: readonly string[]): void {
    const more = found.filter((name) => !wanted.includes(name));
    const less = wanted.filter((name) => !found.includes(name));
    if (more.length > 0) this.counts.problems.push(`${what} has more: ${more.join(' ')}`);
    if (less.length > 0) this.counts.problems.push(`${what} lacks: ${less.join(' ')}`);
  }
}

export function describeCounts(counts: CrashCounts): string {
  const { rounds, acknowledged, unanswered, refused, read, readRemote, waited, byKind } = counts;
  const kinds = Object.entries(byKind).map(([kind, count]) => `${kind} ${count}`);
  return [
    `kill -9 × ${rounds}: ${acknowledged} operations acknowledged, ${unanswered} unanswered, ${refused} refused`,
    `${read} objects read back, ${readRemote} in tier 2; ${waited} names waited for tier 2 at the starts`,
    `${counts.emptyUploads} uploads without parts left there`,
    `${counts.problems.length} problems (${kinds.toSorted().join(', ')})`,
  ].join('; ');
}

function connect(endpoint: string): S3Client {
  const place = { endpoint, region: 'us-east-1', forcePathStyle: true, credentials: { ...KEY } };
  return new S3Client({ ...place, maxAttempts: 1 });
}

/** Without retries: after a kill the answer is that there is none. */
async function openQuick(node: NodeProcess): Promise<EbbClient> {
  const retry = { attemptsMax: 1, unreachableMs: 0 };
  return await openClient({ node: node.unixUrl, retry });
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + DRAIN_MS_MAX;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${DRAIN_MS_MAX} ms`);
    await sleep(POLL_MS);
  }
}

function filesOf(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
