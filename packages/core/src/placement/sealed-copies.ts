/**
 * Copies of encrypted blobs between tiers: plain in memory, a segment (encryption/sealed-format.ts) on disk and in tier 2. The
 * work on bytes is the mover's; here is which file becomes which.
 *
 * E1  What is encrypted or decrypted matches the CRC32C of the plain bytes before it counts, in each direction.
 * E2  A segment that goes to tier 2 is the file of tier 1, byte for byte, where there is one and it holds the whole run; else
 *     one that is made for that, in a file of a tier that nobody is shown.
 * E3  Plain bytes are never written to tier 1 or 2, not for a moment.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { BlobRecord, Catalog, RemoteCopy } from '../catalog/catalog.ts';
import { sealedSize } from '../encryption/frames.ts';
import type { SealFacts } from '../encryption/sealed-format.ts';
import { storedSize, type Vault } from '../encryption/vault.ts';
import type { SealableSource } from '../tier/mover-tasks.ts';
import type { LocalTier, Mover, RemoteSource, RemoteTier } from '../tier/tier.ts';

export type SealedBlob = BlobRecord & { readonly sealId: string };

export interface SealedCopiesParts {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  readonly vault: Vault;
  nextId(): Promise<number>;
}

/** A segment in a local file, which goes with `release` if it was made for this. */
interface LocalSegment {
  readonly source: RemoteSource;
  release(): void;
}

export function isSealedBlob(blob: BlobRecord): blob is SealedBlob {
  return blob.sealId !== undefined;
}

export class SealedCopies {
  readonly #parts: SealedCopiesParts;

  constructor(parts: SealedCopiesParts) {
    this.#parts = parts;
  }

  /** Room that a copy in this tier needs while it is made. */
  roomFor(blob: SealedBlob, to: 'memory' | 'disk'): number {
    const isFetched = blob.memoryBytes === null && blob.diskBytes === null;
    return to === 'disk' || isFetched ? storedSize(blob) : blob.sizeBytes;
  }

  /** Fills the blob's file in a local tier from another copy. @throws `data_corrupt`, `data_lost`, `key_unavailable` */
  async fill(blob: SealedBlob, to: 'memory' | 'disk'): Promise<void> {
    const { blobId, remote } = blob;
    const hasLocal = to === 'disk' ? blob.memoryBytes !== null : blob.diskBytes !== null;
    if (to === 'disk') this.#parts.vault.note(blobId, blob);
    try {
      if (hasLocal && to === 'disk') await this.sealMemory(blob, { sync: false });
      else if (hasLocal) await this.#openDisk(blob);
      else throw lostBlob(blobId);
    } catch (error) {
      const isBad = isStoreError(error, 'data_corrupt') || isStoreError(error, 'data_lost');
      if (remote === null || !isBad) throw error;
      await (to === 'disk' ? this.#fetchToDisk(blob, remote) : this.#fetchToMemory(blob, remote));
    }
  }

  /** Encrypts the blob's file in tier 0 into that of tier 1, which has room for it. */
  async sealMemory(
    {
      blobId,
      sizeBytes,
      crc32c,
      sealId,
    }: Pick<SealedBlob, 'blobId' | 'sizeBytes' | 'crc32c' | 'sealId'>,
    { sync }: { readonly sync: boolean },
  ): Promise<void> {
    const { memory, disk, mover, vault } = this.#parts;
    const sealed = vault.createSeal({ sealId, sizeBytes });
    const found = await mover.convert({
      from: { file: memory.absolutePath(blobId), offset: 0 },
      to: { file: disk.absolutePath(blobId), sealed },
      sizeBytes,
      sync,
    });
    assertCrc(blobId, crc32c, found);
  }

  /** CRC32C of the plain bytes of the segment in tier 1. */
  async checksumOnDisk(blob: SealedBlob, signal?: AbortSignal): Promise<number> {
    const { disk, mover } = this.#parts;
    return await mover.convert({
      from: await this.#segmentIn(disk.absolutePath(blob.blobId), blob),
      sizeBytes: blob.sizeBytes,
      sync: false,
      ...(signal && { signal }),
    });
  }

  /** Fills `target` from the blob's segment in tier 2, through `readRaw` of the segment's bytes. */
  async readRemote(
    blob: SealedBlob,
    target: Uint8Array,
    position: number,
    readRaw: (part: Uint8Array, at: number) => Promise<void>,
  ): Promise<void> {
    const { name, offset, etag } = blob.remote as RemoteCopy;
    const segment = `${name} ${offset} ${etag}`;
    await this.#parts.vault.readRemote(segment, blob, { target, position, readRaw });
  }

  /**
   * A segment with a run of the blob, checked, from its file in `place`, which the caller holds (E2).
   * @throws `data_corrupt`, `data_lost`, `key_unavailable`; `busy` when there is no room to make one
   */
  async segmentOf(
    blob: SealedBlob,
    { offset, length }: { readonly offset: number; readonly length: number },
    place: 'memory' | 'disk',
  ): Promise<LocalSegment> {
    const isWhole = offset === 0 && length === blob.sizeBytes;
    if (place === 'disk' && isWhole) {
      assertCrc(blob.blobId, blob.crc32c, await this.checksumOnDisk(blob));
      const file = this.#parts.disk.absolutePath(blob.blobId);
      const source = { file, offset: 0, length: storedSize(blob), crc32c: null };
      return { source, release: () => undefined };
    }
    const { memory, mover, vault } = this.#parts;
    const from: SealableSource =
      place === 'memory'
        ? { file: memory.absolutePath(blob.blobId), offset }
        : { ...(await this.#segmentIn(this.#parts.disk.absolutePath(blob.blobId), blob)), offset };
    // A run is no copy of the blob: it gets a name of its own.
    const sealId = isWhole ? blob.sealId : vault.newSealId();
    const sealed = vault.createSeal({ sealId, sizeBytes: length });
    const scratch = await this.#createScratch(sealedSize(length));
    try {
      const sizeBytes = length;
      const found = await mover.convert({
        ...{ from, to: { file: scratch.file, sealed }, sizeBytes, sync: false },
      });
      if (isWhole) assertCrc(blob.blobId, blob.crc32c, found);
    } catch (error) {
      scratch.release();
      throw error;
    }
    const source = { file: scratch.file, offset: 0, length: sealedSize(length), crc32c: null };
    return { source, release: scratch.release };
  }

  async #openDisk(blob: SealedBlob): Promise<void> {
    const { memory, disk, mover } = this.#parts;
    const { blobId, sizeBytes, crc32c } = blob;
    const from = await this.#segmentIn(disk.absolutePath(blobId), blob);
    const to = { file: memory.absolutePath(blobId) };
    assertCrc(blobId, crc32c, await mover.convert({ from, to, sizeBytes, sync: false }));
  }

  async #fetchToDisk(blob: SealedBlob, copy: RemoteCopy): Promise<void> {
    await this.#fetch(blob, copy, this.#parts.disk);
    await this.#noteChecksum(blob, await this.checksumOnDisk(blob));
  }

  /** The segment is decrypted where it lies: plain bytes are written only over frames that were opened. */
  async #fetchToMemory(blob: SealedBlob, copy: RemoteCopy): Promise<void> {
    const { memory, mover } = this.#parts;
    const file = memory.absolutePath(blob.blobId);
    await this.#fetch(blob, copy, memory);
    const from = await this.#segmentIn(file, blob);
    const { sizeBytes } = blob;
    await this.#noteChecksum(
      blob,
      await mover.convert({ from, to: { file }, sizeBytes, sync: false }),
    );
  }

  async #fetch(blob: SealedBlob, { name, offset, etag }: RemoteCopy, to: LocalTier): Promise<void> {
    const run = { offset, length: storedSize(blob), crc32c: null, etag };
    await this.#parts.remote.fetch(name, to.absolutePath(blob.blobId), run);
  }

  async #noteChecksum({ blobId, crc32c }: SealedBlob, found: number): Promise<void> {
    assertCrc(blobId, crc32c, found);
    if (crc32c === null) await this.#parts.catalog.setBlobChecksum(blobId, found);
  }

  async #segmentIn(file: string, facts: SealFacts): Promise<SealableSource> {
    const key = await this.#parts.vault.keyOfFile(file, facts);
    return { file, offset: 0, sealed: { ...key, segmentStart: 0 } };
  }

  /** A file that the store knows nothing of: recovery finds one that is left as an orphan. */
  async #createScratch(bytes: number): Promise<{ readonly file: string; release(): void }> {
    const { disk, memory } = this.#parts;
    const fileId = await this.#parts.nextId();
    for (const tier of [disk, memory]) {
      if (tier.create(fileId, bytes) === undefined) continue;
      const release = (): void => tier.remove(fileId, { recycle: true });
      return { file: tier.absolutePath(fileId), release };
    }
    const message = `no room for ${bytes} encrypted bytes on their way to tier 2`;
    throw new StoreError('busy', message, { needBytes: bytes, retryAfterMs: 1000 });
  }
}

function assertCrc(blobId: number, expected: number | null, found: number): void {
  if (expected === null || expected === found) return;
  const message = `blob ${blobId} does not match its checksum on the way through encryption`;
  throw new StoreError('data_corrupt', message, { blobId });
}

function lostBlob(blobId: number): StoreError {
  return new StoreError('data_lost', `blob ${blobId} has no local copy`, { blobId });
}
