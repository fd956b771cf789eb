/** What the catalog keeps of a snapshot. Persisted: fields are added, never changed. */
import type { Ack } from '@ebb/protocol';
import { StoreError } from '@ebb/protocol';
import { imageKey, isAfter, jobOf, type SnapshotRef } from './names.ts';

export const SNAPSHOTS = 'checkpoint-snapshots';
export const RUNS = 'checkpoint-runs';
export const JOBS = 'checkpoint-jobs';

/** A part of a snapshot, and the image that was handed over for it. */
export interface SnapshotPart {
  readonly name: string;
  readonly imageBytes: number;
  /** What follows the session in the key of the image. Earlier records have none: it is the name of the part there. */
  readonly image?: string;
  /** The version of the object under that key; another one is not this snapshot's. Earlier records have none. */
  readonly version?: number;
}

export interface SnapshotRecord {
  readonly session: string;
  /**
   * The session of the same job that counts highest of those that have committed this step, when it is another one: it was
   * replaced by one that began before it. No name up to that is given again.
   */
  readonly lastSession?: string;
  /** Order of the commits on this node. Records of 0.1.0 have none: `inSequence` gives them theirs. */
  readonly sequence: number;
  /** For people, and for the age at which a snapshot goes. */
  readonly committedAtMs: number;
  readonly parts: readonly SnapshotPart[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly pinned: boolean;
  readonly bad: string | null;
  /** Its images are given up. */
  readonly imagesGone: boolean;
  readonly stored: StoredSnapshot | null;
  /** What this one replaced, until it is stored itself: the loss of memory brings that back. */
  readonly previous: SnapshotRecord | null;
  /** Another node made it: its manifest is the one in the run's bucket. */
  readonly isImported?: true;
  /** It is seen no more; what it stored is being deleted. */
  readonly isRemoved: boolean;
}

interface StoredSnapshot {
  /** Its manifest is in the bucket of the run. */
  readonly isPublished?: true;
  /** What holds of it. */
  readonly durability: Ack;
  /** Bytes of the data objects that it names, by key. */
  readonly objects: Readonly<Record<string, number>>;
  readonly newBytes: number;
}

/** The form in which it may lie in a catalog. */
export type StoredRecord = Omit<SnapshotRecord, 'previous' | 'sequence'> & {
  readonly sequence?: number;
  readonly previous: StoredRecord | null;
};

/**
 * Gives those a sequence that have none: by the time of their commit, which is all there is to know of them. Where others
 * have one, a node of 0.1.0 ran once more in between, and made the youngest.
 */
export function inSequence(records: readonly StoredRecord[]): readonly SnapshotRecord[] {
  const all = records.flatMap((record) =>
    record.previous === null ? record : [record, record.previous],
  );
  let last = all.reduce((most, { sequence = 0 }) => Math.max(most, sequence), 0);
  const given = new Map<StoredRecord, number>();
  for (const record of all.toSorted((a, b) => a.committedAtMs - b.committedAtMs))
    given.set(record, record.sequence ?? ++last);
  const withSequence = (record: StoredRecord): SnapshotRecord => ({
    ...record,
    sequence: given.get(record) ?? 0,
    previous: record.previous === null ? null : withSequence(record.previous),
  });
  return records.map(withSequence);
}

/** Where the image of a part lies, or lay. */
export function imageKeyOf(ref: SnapshotRef, session: string, part: SnapshotPart): string {
  return imageKey(ref, session, part.image ?? part.name);
}

/** @throws `data_lost` when another object lies under the key of a part's image than the one that was handed over */
export function assertIsImage(
  { image, version }: SnapshotPart,
  object: { readonly key: string; readonly version: number },
): void {
  if (version === undefined || object.version === version) return;
  const message = `the image ${image} was handed over as version ${version}, and another object took its place`;
  throw new StoreError('data_lost', message, { key: object.key });
}

/** The session that counts highest, of the job that committed this step last. */
export function lastSessionOf({ session, lastSession = session }: SnapshotRecord): string {
  return lastSession;
}

/** What the record of `session` says, which takes the place of this one. */
export function lastSessionAfter(
  there: SnapshotRecord | undefined,
  session: string,
): Pick<SnapshotRecord, 'lastSession'> {
  if (there === undefined) return {};
  const last = lastSessionOf(there);
  return jobOf(last) === jobOf(session) && isAfter(last, session) ? { lastSession: last } : {};
}

export function encodeRecord(record: SnapshotRecord): Buffer {
  return Buffer.from(JSON.stringify(record));
}

/** @throws `data_corrupt` */
export function decodeRecord(key: string, value: Uint8Array): StoredRecord {
  try {
    return JSON.parse(Buffer.from(value).toString('utf8')) as StoredRecord;
  } catch (error) {
    throw new StoreError(
      'data_corrupt',
      `the record of snapshot ${key} is no JSON`,
      { key },
      error,
    );
  }
}
