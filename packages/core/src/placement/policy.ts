/** Pure decisions about where bytes go. Nothing here reads or writes. */
import type { Ack } from '@ebb/protocol';
import { isMirrored } from '../catalog/bucket-policy.ts';
import type { BlobCopies, BucketPolicy } from '../catalog/catalog.ts';
import { wantsEvents } from '../catalog/events.ts';

const PRESETS: Readonly<Record<BucketPolicy['preset'], Pick<BucketPolicy, 'ack' | 'mirror'>>> = {
  ephemeral: { ack: 'memory', mirror: false },
  buffered: { ack: 'disk', mirror: true },
  durable: { ack: 'remote', mirror: true },
};

/** A preset, refined by what was said explicitly. */
export function resolvePolicy(input: {
  readonly preset?: BucketPolicy['preset'] | undefined;
  readonly ack?: Ack | undefined;
  readonly mirror?: boolean | undefined;
  readonly ttlMs?: number | null | undefined;
  readonly quotaBytes?: number | null | undefined;
  readonly remote?: string | null | undefined;
  readonly revalidateMs?: number | null | undefined;
  readonly versioning?: BucketPolicy['versioning'] | undefined;
  readonly events?: boolean | undefined;
  readonly encrypted?: boolean | undefined;
}): BucketPolicy {
  const preset = input.preset ?? 'buffered';
  return {
    preset,
    ack: input.ack ?? PRESETS[preset].ack,
    mirror: input.mirror ?? PRESETS[preset].mirror,
    ttlMs: input.ttlMs ?? null,
    quotaBytes: input.quotaBytes ?? null,
    remote: input.remote ?? null,
    revalidateMs: input.revalidateMs ?? null,
    versioning: input.versioning ?? 'off',
    ...(input.events === undefined ? {} : { events: input.events }),
    ...(input.encrypted === true ? { encrypted: true } : {}),
  };
}

export function equalPolicies(a: BucketPolicy, b: BucketPolicy): boolean {
  return (
    a.preset === b.preset &&
    a.ack === b.ack &&
    a.mirror === b.mirror &&
    a.ttlMs === b.ttlMs &&
    a.quotaBytes === b.quotaBytes &&
    a.remote === b.remote &&
    a.revalidateMs === b.revalidateMs &&
    a.versioning === b.versioning &&
    wantsEvents(a) === wantsEvents(b) &&
    (a.encrypted ?? false) === (b.encrypted ?? false)
  );
}

/**
 * Where a new write is staged. What must be on disk or beyond before it is acknowledged goes to disk at once, so that its
 * bytes are written once; what may be lost with the host goes to memory.
 */
export function stagingTiers(policy: BucketPolicy, asked: 0 | 1 | undefined): readonly (0 | 1)[] {
  // Its writer fills the file with plain bytes, which are for memory alone.
  if (policy.encrypted === true) return [0];
  if (asked !== undefined) return [asked];
  return policy.ack === 'memory' ? [0, 1] : [1];
}

export interface WaterMarks {
  /** Of capacity, 0 to 1: above it the spiller begins. */
  readonly high: number;
  /** Down to it the spiller works. */
  readonly low: number;
}

/** Bytes to free, 0 while below the high mark. */
export function bytesToFree(
  usage: {
    readonly usedBytes: number;
    readonly pooledBytes: number;
    readonly capacityBytes: number;
  },
  marks: WaterMarks,
): number {
  const used = usage.usedBytes - usage.pooledBytes; // pooled files are given up by the tier itself when room is needed
  if (used <= usage.capacityBytes * marks.high) return 0;
  return Math.ceil(used - usage.capacityBytes * marks.low);
}

/** Whether a read of a blob on disk should bring it to memory: it was read before, is small beside the tier, and fits without pushing others out. */
export function shouldPromote(
  blob: { readonly sizeBytes: number; readonly readsSeen: number },
  memory: {
    readonly usedBytes: number;
    readonly pooledBytes: number;
    readonly capacityBytes: number;
  },
  marks: WaterMarks,
): boolean {
  if (blob.readsSeen < 2 || blob.sizeBytes > memory.capacityBytes / 8) return false;
  return memory.usedBytes - memory.pooledBytes + blob.sizeBytes <= memory.capacityBytes * marks.low;
}

const DURABILITY_RANK: Readonly<Record<Ack, number>> = { memory: 0, disk: 1, remote: 2 };
export function meets(have: Ack, want: Ack): boolean {
  return DURABILITY_RANK[have] >= DURABILITY_RANK[want];
}

/** What holds for a blob with these copies. */
export function durabilityOf(copies: Pick<BlobCopies, 'diskBytes' | 'remote'>): Ack {
  if (copies.remote !== null) return 'remote';
  return copies.diskBytes !== null ? 'disk' : 'memory';
}

/**
 * What holds for an object. Where objects are mirrored, `remote` means that it is there under its own name: bytes in tier 2
 * that belong to another name, or to a former one, are found again only with the catalog of this node.
 */
export function durabilityOfObject(
  object: { readonly remoteEtag: string | null },
  blobs: readonly Pick<BlobCopies, 'diskBytes' | 'remote'>[],
  policy: BucketPolicy | undefined,
): Ack {
  if (object.remoteEtag !== null) return 'remote';
  const weakest = (least: Ack, next: Ack): Ack => (meets(next, least) ? least : next);
  const held = blobs.length === 0 ? 'disk' : blobs.map(durabilityOf).reduce(weakest, 'remote');
  if (held === 'remote') return policy !== undefined && isMirrored(policy) ? 'disk' : 'remote';
  // In such a bucket a copy on disk was spilled or staged there without a sync: it promises nothing.
  return held === 'disk' && (policy === undefined || policy.ack === 'memory') ? 'memory' : held;
}
