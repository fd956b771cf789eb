/**
 * `ebb sync`: all that tier 2 has under a prefix of a bucket is compared with the catalog (importer.ts).
 *
 * S1  An object that the listing does not have is asked for by its name before it counts as gone: a listing may come back short.
 * S2  What went is removed at the end, all of it or nothing. Nothing is, when it is so much that tier 2 looks broken: all that was
 *     known, with nothing listed; or more than a quarter, beyond a few. Whoever knows better says so (`force`).
 * S3  One object that the store does not show is told, and the others are compared. A store that shows none ends the sync.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import PQueue from 'p-queue';
import type { Catalog } from '../catalog/catalog.ts';
import { keyProblem } from '../object-ref.ts';
import { NO_OWN_NAME, ownName } from '../placement/remote-names.ts';
import type { RemoteObject, RemoteTier } from '../tier/tier.ts';
import type { Importer } from './importer.ts';
import type { SyncOptions, SyncReport } from './object-store.ts';
import { objectsUnder } from './scan.ts';

/** Not one of ours, in an encrypted bucket, or larger than an object may be. */
const NOT_OURS: ReadonlySet<string> = new Set([
  'data_corrupt',
  'key_unavailable',
  'version_unsupported',
  'too_large',
]);
const LOOKS_AT_ONCE = 16;
/** So few may always go, unless nothing is left. */
const REMOVED_FREELY = 10;
const REMOVED_SHARE_MAX = 0.25;
/** More than so many objects that the store does not show are a matter of the store. */
const NOT_SHOWN_MAX = 1000;

export interface BucketSyncParts {
  readonly catalog: Catalog;
  readonly remote: RemoteTier;
  readonly importer: Importer;
}

/** @throws `bucket_not_found`, `aborted`, and those of the tier */
export async function syncBucket(
  parts: BucketSyncParts,
  where: { readonly bucket: string; readonly prefix: string },
  options: SyncOptions,
): Promise<SyncReport> {
  return await new BucketSync(parts, where, options).run();
}

class BucketSync {
  readonly #parts: BucketSyncParts;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #options: SyncOptions;
  readonly #counts = { added: 0, updated: 0, removed: 0, unchanged: 0, bytes: 0 };
  readonly #refused: { key: string; problem: string }[] = [];
  readonly #queue = new PQueue({ concurrency: LOOKS_AT_ONCE });
  readonly #failures: unknown[] = [];
  #notShown = 0;

  constructor(
    parts: BucketSyncParts,
    { bucket, prefix }: { readonly bucket: string; readonly prefix: string },
    options: SyncOptions,
  ) {
    this.#parts = parts;
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#options = options;
  }

  async run(): Promise<SyncReport> {
    const { remove } = this.#options;
    try {
      const listed = await this.#follow();
      const removal = remove ? await this.#removeGone(listed) : { missing: 0 };
      return { ...this.#counts, refused: this.#refused, ...removal };
    } finally {
      // Nothing goes on after the answer.
      this.#queue.clear();
      await this.#queue.onIdle();
    }
  }

  /** What is there. Resolves with the keys, where it matters which are missing. */
  async #follow(): Promise<ReadonlySet<string>> {
    const { catalog, remote } = this.#parts;
    const target = (await catalog.findBucket(this.#bucket))?.policy.remote ?? null;
    const base = ownName(target, { bucket: this.#bucket, key: '' });
    const seen = new Set<string>();
    const { signal } = this.#options;
    const cancel = signal === undefined ? {} : { signal };
    for await (const { name, ...found } of remote.list(base + this.#prefix, cancel)) {
      const key = name.slice(base.length);
      if (key.startsWith('.ebb/')) continue;
      const problem = keyProblem(key);
      if (problem !== undefined) {
        this.#refused.push({ key, problem });
        continue;
      }
      if (this.#options.remove) seen.add(key);
      await this.#look(key, async () => await this.#compare(key, found));
    }
    await this.#settled();
    return seen;
  }

  async #removeGone(
    listed: ReadonlySet<string>,
  ): Promise<Pick<SyncReport, 'missing' | 'removalRefused'>> {
    const { catalog, remote } = this.#parts;
    const target = (await catalog.findBucket(this.#bucket))?.policy.remote ?? null;
    const gone: string[] = [];
    let known = 0;
    for await (const { key, remoteEtag } of objectsUnder(catalog, this.#bucket, this.#prefix)) {
      if (remoteEtag === null || remoteEtag === NO_OWN_NAME) continue;
      known++;
      if (listed.has(key)) continue;
      await this.#look(key, async () => {
        const found = await remote.head(ownName(target, { bucket: this.#bucket, key })); // S1
        if (found === undefined) gone.push(key);
        else await this.#compare(key, found);
      });
    }
    await this.#settled();
    const isTooMuch =
      (listed.size === 0 && gone.length > 1) ||
      (gone.length > REMOVED_FREELY && gone.length > known * REMOVED_SHARE_MAX);
    if (isTooMuch && this.#options.force !== true) {
      const removalRefused = `${gone.length} of ${known} objects that were there are not in tier 2 now, and none was removed here: see that tier 2 is whole, then say so (--force)`;
      return { missing: gone.length, removalRefused };
    }
    for (const key of gone) await this.#look(key, async () => await this.#compare(key, undefined));
    await this.#settled();
    return { missing: gone.length };
  }

  async #compare(key: string, found: RemoteObject | undefined): Promise<void> {
    const ref = { bucket: this.#bucket, key };
    const dryRun = this.#options.dryRun === true;
    const outcome = await this.#parts.importer.compare(ref, found, { dryRun });
    this.#counts[outcome]++;
    if (outcome === 'added' || outcome === 'updated') this.#counts.bytes += found?.sizeBytes ?? 0;
  }

  /** Waits for a place, and not for the end. */
  async #look(key: string, work: () => Promise<void>): Promise<void> {
    await this.#queue.onSizeLessThan(LOOKS_AT_ONCE);
    this.#stopIfOver();
    void this.#queue.add(work).catch((error: unknown) => this.#failed(key, error));
  }

  #failed(key: string, error: unknown): void {
    const isNotOurs = error instanceof StoreError && NOT_OURS.has(error.code);
    const isHidden = isNotShown(error) && ++this.#notShown <= NOT_SHOWN_MAX;
    if (isNotOurs || isHidden) this.#refused.push({ key, problem: (error as StoreError).message });
    else this.#failures.push(error);
  }

  async #settled(): Promise<void> {
    await this.#queue.onIdle();
    this.#stopIfOver();
  }

  #stopIfOver(): void {
    this.#options.signal?.throwIfAborted();
    if (this.#failures.length > 0) throw this.#failures[0];
  }
}

/** S3: it is there, and these credentials may not see it. */
function isNotShown(error: unknown): error is StoreError {
  if (!isStoreError(error, 'io_failed')) return false;
  const { status, errno } = error.details;
  return status === 401 || status === 403 || errno === 'EACCES' || errno === 'EPERM';
}
