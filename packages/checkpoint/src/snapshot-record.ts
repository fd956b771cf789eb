/** What the catalog keeps of a snapshot. Persisted: fields are added, never changed. */
import type { Ack } from '@ebb/protocol';
import { StoreError } from '@ebb/protocol';

export const SNAPSHOTS = 'checkpoint-snapshots';
export const RUNS = 'checkpoint-runs';

export interface SnapshotRecord {
  readonly session: string;
  readonly committedAtMs: number;
  readonly parts: readonly { readonly name: string; readonly imageBytes: number }[];
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

export function encodeRecord(record: SnapshotRecord): Buffer {
  return Buffer.from(JSON.stringify(record));
}

/** @throws `data_corrupt` */
export function decodeRecord(key: string, value: Uint8Array): SnapshotRecord {
  try {
    return JSON.parse(Buffer.from(value).toString('utf8')) as SnapshotRecord;
  } catch (error) {
    throw new StoreError(
      'data_corrupt',
      `the record of snapshot ${key} is no JSON`,
      { key },
      error,
    );
  }
}
