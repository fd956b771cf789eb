/**
 * Where copies of a blob lie, and the `tier` events that follow from a change of it.
 *
 * A tier holds an object when it holds all its blobs. So a blob that moves changes what holds of an object only if the
 * object's other blobs agree; most objects have one blob. Those of many parts are looked at from both ends, until one part
 * shows that nothing changed: parts move in order, so that is nearly always the first or the last.
 */
import type { Ack, TierIndex } from '@ebb/protocol';
import { isMirrored } from './bucket-policy.ts';
import type { BlobCopies } from './catalog.ts';
import { type EventPlace, recordsEvents } from './events.ts';
import { extentsOf, type PlacedObject, type StoredObject } from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';

/** Objects told about a blob that they share: copies of one object. Beyond, the others' events are left out. */
const SHARERS_MAX = 256;

/** What may hold of a blob; of an object, what holds of all its blobs. */
const IN = { memory: 1, disk: 2, remote: 4, diskOrRemote: 8, anywhere: 16 } as const;
const ALL = 31;
const NO_BLOB = 0;

/** As Catalog.setBlobCopies. */
export function setBlobCopies(
  tables: Tables,
  blobId: number,
  expectedGeneration: number,
  copies: BlobCopies,
): boolean {
  const before = tables.blobs.find(blobId);
  if (!tables.blobs.setCopies(blobId, expectedGeneration, copies)) return false;
  const { remote } = copies;
  if (remote !== null && remote.name !== before?.remote?.name)
    tables.privateCopies.drop(remote.name);
  const change = { from: before === undefined ? 0 : holdsOf(before), to: holdsOf(copies) };
  if (change.from !== change.to) recordTiers(tables, blobId, change);
  return true;
}

interface Change {
  readonly from: number;
  readonly to: number;
}

function recordTiers(tables: Tables, blobId: number, { from, to }: Change): void {
  const { blobs, buckets, objects, events } = tables;
  for (const name of blobs.users(blobId, SHARERS_MAX)) {
    const bucket = buckets.withId(name.bucket);
    if (!recordsEvents(bucket.record)) continue;
    const stored = objects.find(bucket, name.key) as StoredObject;
    const others = holdsOfOthers(tables, stored, { except: blobId, asked: from ^ to });
    if (((from ^ to) & others) === 0) continue;
    // Something changed: then all that holds is told.
    const rest = holdsOfOthers(tables, stored, { except: blobId, asked: ALL });
    events.record('tier', bucket, stored, placeOf(to & rest, { bucket, stored }));
  }
}

/** Where an object's bytes lie now, after its own state in tier 2 changed. */
export function recordPlace(tables: Tables, placed: PlacedObject): void {
  const { bucket, stored } = placed;
  if (!recordsEvents(bucket.record)) return;
  const holds = holdsOfOthers(tables, stored, { except: NO_BLOB, asked: ALL });
  tables.events.record('tier', bucket, stored, placeOf(holds, placed));
}

/** Which bits of `asked` all other blobs of the object have. */
function holdsOfOthers(
  { blobs }: Tables,
  stored: StoredObject,
  { except, asked }: { readonly except: number; readonly asked: number },
): number {
  const extents = extentsOf(stored);
  let holds = asked;
  for (let low = 0, high = extents.length - 1; low <= high && holds !== 0; low++, high--) {
    for (const at of low === high ? [low] : [low, high]) {
      const blobId = extents[at]?.blobId;
      if (blobId === undefined || blobId === except) continue;
      const blob = blobs.find(blobId);
      holds &= blob === undefined ? 0 : holdsOf(blob);
    }
  }
  return holds;
}

function holdsOf({ memoryBytes, diskBytes, remote }: BlobCopies): number {
  const beyondMemory = diskBytes !== null || remote !== null;
  return (
    (memoryBytes === null ? 0 : IN.memory) |
    (diskBytes === null ? 0 : IN.disk) |
    (remote === null ? 0 : IN.remote) |
    (beyondMemory ? IN.diskOrRemote : 0) |
    (beyondMemory || memoryBytes !== null ? IN.anywhere : 0)
  );
}

function placeOf(holds: number, placed: PlacedObject): EventPlace {
  const tiers = ([0, 1, 2] as const).filter((tier: TierIndex) => (holds & (1 << tier)) !== 0);
  return { durability: durabilityOf(holds, placed), tiers };
}

/** As durabilityOfObject (placement/policy.ts) has it. */
function durabilityOf(holds: number, { bucket, stored }: PlacedObject): Ack | null {
  const { policy } = bucket.record;
  if ((holds & IN.anywhere) === 0) return null;
  if (stored.remoteEtag !== null) return 'remote';
  if ((holds & IN.remote) !== 0) return isMirrored(policy) ? 'disk' : 'remote';
  return (holds & IN.diskOrRemote) !== 0 && policy.ack !== 'memory' ? 'disk' : 'memory';
}
