/**
 * What a node knows of encryption: its master keys, and which blobs lie encrypted in tier 1.
 *
 * V1  Bytes are given out only after their frame, its place, its segment's size and seal id were authenticated.
 * V2  A blob that is noted here reads as plain bytes through `readableDisk`, whoever asks; its file is shown to no client.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { StoreError } from '@ebb/protocol';
import type { BlobRecord } from '../catalog/catalog.ts';
import { RecentMap } from '../store/recent-map.ts';
import { toStoreError } from '../tier/fs-error.ts';
import type { LocalTier } from '../tier/tier.ts';
import {
  FRAME_BYTES,
  type FrameKey,
  frameLength,
  frameStart,
  HEADER_BYTES,
  openFrame,
  SEALED_FRAME_BYTES,
  sealedSize,
} from './frames.ts';
import type { Keyring } from './keyring.ts';
import { createSeal, newSealId, openSeal, type Seal, type SealFacts } from './sealed-format.ts';

/** Fills `target` with stored bytes, from `position` of the segment on. */
export type ReadRaw = (target: Uint8Array, position: number) => Promise<void>;

const FRAMES_AT_ONCE = 16;
const REMOTE_KEYS_MIN = 4096;

interface NotedBlob extends SealFacts {
  key: FrameKey | undefined;
}

/** What a blob takes where it lies encrypted: on disk and in tier 2. */
export function storedSize({
  sizeBytes,
  sealId,
}: Pick<BlobRecord, 'sizeBytes' | 'sealId'>): number {
  return sealId === undefined ? sizeBytes : sealedSize(sizeBytes);
}

export class Vault {
  readonly #keyring: Keyring | null;
  readonly #onDisk = new Map<number, NotedBlob>();
  readonly #remoteKeys = new RecentMap<string, FrameKey>(REMOTE_KEYS_MIN);

  constructor(keyring: Keyring | null) {
    this.#keyring = keyring;
  }

  /** @throws `key_unavailable` when this node has no key to encrypt with */
  assertCanSeal(): Keyring {
    if (this.#keyring !== null) return this.#keyring;
    throw new StoreError(
      'key_unavailable',
      'this node has no encryption keys: start it with --encryption-keys',
    );
  }

  newSealId(): string {
    this.assertCanSeal();
    return newSealId();
  }

  createSeal(facts: SealFacts): Seal {
    return createSeal(this.assertCanSeal(), facts);
  }

  /** What a header says, whichever blob it is of. @throws as `openSeal` */
  inspect(header: Uint8Array): SealFacts {
    const { sealId, sizeBytes } = openSeal(this.#keyring, header);
    return { sealId, sizeBytes };
  }

  /** @throws as `openSeal`; `data_corrupt` when the segment is of another blob */
  openSeal(header: Uint8Array, expected: SealFacts): FrameKey {
    const found = openSeal(this.#keyring, header);
    if (found.sealId === expected.sealId && found.sizeBytes === expected.sizeBytes)
      return found.key;
    throw new StoreError('data_corrupt', 'encrypted bytes of another blob are in its place', {
      sizeBytes: expected.sizeBytes,
      found: found.sizeBytes,
    });
  }

  async keyOfFile(file: string, expected: SealFacts): Promise<FrameKey> {
    const header = Buffer.alloc(HEADER_BYTES);
    try {
      await using handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW);
      const { bytesRead } = await handle.read(header, 0, HEADER_BYTES, 0);
      if (bytesRead < HEADER_BYTES) throw new StoreError('data_lost', `${file} is too short`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT')
        throw new StoreError('data_lost', `no file ${file}`, {}, error);
      throw toStoreError(error, `reading ${file}`);
    }
    return this.openSeal(header, expected);
  }

  /** `segment` names one content of tier 2: its key is kept. */
  async readRemote(
    segment: string,
    expected: SealFacts,
    { target, position, readRaw }: { target: Uint8Array; position: number; readRaw: ReadRaw },
  ): Promise<void> {
    const name = `${segment} ${expected.sealId}`;
    let key = this.#remoteKeys.get(name);
    if (key === undefined) {
      key = await readKey(this, expected, readRaw);
      this.#remoteKeys.set(name, key);
    }
    await readFrames(key, { target, position, readRaw });
  }

  /** From now on the file of this blob in tier 1 is a segment. */
  note(blobId: number, { sealId, sizeBytes }: SealFacts): void {
    this.#onDisk.set(blobId, { sealId, sizeBytes, key: undefined });
  }

  isSealedOnDisk(blobId: number): boolean {
    return this.#onDisk.has(blobId);
  }

  /** Tier 1, whose `read` gives plain bytes of every blob (V2). All else is of the files as they are. */
  readableDisk(disk: LocalTier): LocalTier {
    const read: LocalTier['read'] = async (blobId, target, position) => {
      const noted = this.#onDisk.get(blobId);
      if (noted === undefined) return await disk.read(blobId, target, position);
      if (position + target.length > noted.sizeBytes)
        throw new StoreError('range_invalid', `blob ${blobId} has ${noted.sizeBytes} bytes`, {
          ...{ blobId, position, length: target.length, sizeBytes: noted.sizeBytes },
        });
      const readRaw: ReadRaw = async (part, at) => await disk.read(blobId, part, at);
      noted.key ??= await readKey(this, noted, readRaw);
      await readFrames(noted.key, { target, position, readRaw });
    };
    return {
      name: disk.name,
      root: disk.root,
      usage: () => disk.usage(),
      availableBytes: () => disk.availableBytes(),
      create: (blobId, reserveBytes) => disk.create(blobId, reserveBytes),
      extend: (blobId, reserveBytes) => disk.extend(blobId, reserveBytes),
      shrink: (blobId, reserveBytes) => disk.shrink(blobId, reserveBytes),
      seal: (blobId, sizeBytes) => disk.seal(blobId, sizeBytes),
      adopt: (blobId, sizeBytes) => disk.adopt(blobId, sizeBytes),
      find: (blobId) => disk.find(blobId),
      absolutePath: (blobId) => disk.absolutePath(blobId),
      read,
      write: (blobId, source, position) => disk.write(blobId, source, position),
      sync: (blobId) => disk.sync(blobId),
      remove: (blobId, options) => {
        this.#onDisk.delete(blobId);
        disk.remove(blobId, options);
      },
      setAside: (blobId) => disk.setAside(blobId),
      assertThere: () => disk.assertThere(),
      renew: () => disk.renew(),
      removeOrphans: () => disk.removeOrphans(),
      trimPool: (bytes) => disk.trimPool(bytes),
      populate: (options, signal) => disk.populate(options, signal),
      close: () => disk.close(),
    };
  }
}

async function readKey(vault: Vault, expected: SealFacts, readRaw: ReadRaw): Promise<FrameKey> {
  const header = Buffer.alloc(HEADER_BYTES);
  await readRaw(header, 0);
  return vault.openSeal(header, expected);
}

/** Reads no more than the frames that have bytes of the range. */
async function readFrames(
  key: FrameKey,
  { target, position, readRaw }: { target: Uint8Array; position: number; readRaw: ReadRaw },
): Promise<void> {
  if (target.length === 0) return;
  const end = position + target.length;
  const last = Math.floor((end - 1) / FRAME_BYTES);
  for (let first = Math.floor(position / FRAME_BYTES); first <= last; first += FRAMES_AT_ONCE) {
    const until = Math.min(last, first + FRAMES_AT_ONCE - 1);
    const start = frameStart(first);
    const stop = Math.min(frameStart(until + 1), sealedSize(key.sizeBytes));
    const raw = Buffer.allocUnsafe(stop - start);
    await readRaw(raw, start);
    for (let index = first; index <= until; index++) {
      const at = (index - first) * SEALED_FRAME_BYTES;
      const plain = openFrame(key, index, raw.subarray(at, at + SEALED_FRAME_BYTES));
      if (plain === undefined) throw damagedFrame(index);
      const from = Math.max(position, index * FRAME_BYTES);
      const to = Math.min(end, index * FRAME_BYTES + frameLength(key, index));
      target.set(
        plain.subarray(from - index * FRAME_BYTES, to - index * FRAME_BYTES),
        from - position,
      );
    }
  }
}

function damagedFrame(index: number): StoreError {
  const message = `encrypted bytes were changed: frame ${index} does not open`;
  return new StoreError('data_corrupt', message, { frame: index });
}
