/** How a file of tier 2 as a directory is told from its predecessors. Imported by the mover's worker. */
import type { BigIntStats } from 'node:fs';

/** What a RemoteObject has. */
export interface FileIdentity {
  readonly sizeBytes: number;
  readonly etag: string;
  readonly modifiedAtMs: number;
}

/** Every put makes a new file: its number and time tell it from its predecessor. */
export function identityOf({ ino, size, mtimeNs }: BigIntStats): FileIdentity {
  return {
    sizeBytes: Number(size),
    etag: `${ino.toString(16)}-${size.toString(16)}-${mtimeNs.toString(16)}`,
    modifiedAtMs: Number(mtimeNs / 1_000_000n),
  };
}
