/** Pure decisions about where bytes go. Nothing here reads or writes. */
import type { Ack } from '@ebb/protocol';
import type { BucketPolicy } from '../catalog/catalog.ts';
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
  readonly events?: boolean | undefined;
}): BucketPolicy {
  const preset = input.preset ?? 'buffered';
  return {
    preset,
    ack: input.ack ?? PRESETS[preset].ack,
    mirror: input.mirror ?? PRESETS[preset].mirror,
    ttlMs: input.ttlMs ?? null,
    quotaBytes: input.quotaBytes ?? null,
    ...(input.events === undefined ? {} : { events: input.events }),
  };
}

export function equalPolicies(a: BucketPolicy, b: BucketPolicy): boolean {
  return (
    a.preset === b.preset &&
    a.ack === b.ack &&
    a.mirror === b.mirror &&
    a.ttlMs === b.ttlMs &&
    a.quotaBytes === b.quotaBytes &&
    wantsEvents(a) === wantsEvents(b)
  );
}

/**
 * Where a new write is staged. What must be on disk or beyond before it is acknowledged goes to disk at once, so that its
 * bytes are written once; what may be lost with the host goes to memory.
 */
export function stagingTiers(policy: BucketPolicy, asked: 0 | 1 | undefined): readonly (0 | 1)[] {
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

/** Names in tier 2: the object's own, so that any S3 client reads it there; a private one where that is taken or not possible. */
export function remoteNames(
  object: { readonly bucket: string; readonly key: string },
  blobId: number,
): { own: string; fallback: string } {
  return { own: `${object.bucket}/${object.key}`, fallback: `${object.bucket}/.ebb/${blobId}` };
}

const DURABILITY_RANK: Readonly<Record<Ack, number>> = { memory: 0, disk: 1, remote: 2 };
export function meets(have: Ack, want: Ack): boolean {
  return DURABILITY_RANK[have] >= DURABILITY_RANK[want];
}

/** What holds for a blob with these copies. */
export function durabilityOf(copies: {
  readonly diskBytes: number | null;
  readonly remoteName: string | null;
}): Ack {
  if (copies.remoteName !== null) return 'remote';
  return copies.diskBytes !== null ? 'disk' : 'memory';
}
