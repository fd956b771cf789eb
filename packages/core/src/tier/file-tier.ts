/**
 * Tier 0 and 1: a directory of blob files, which clients on the node read and write directly.
 *
 *   root/ebb-tier.json             whose directory this is
 *   root/b/<id & 0xff, 2 hex>/<id, hex>   blobs; 0660, so that the group may write what is staged
 *   root/p/<inode, hex>            pool: files to use again. Of the daemon alone: no client opens them by name
 *   root/t/<n, hex>                on their way out
 *   root/x/                        set aside (set-aside.ts): no blobs any more
 *
 * A fresh tmpfs page costs more than the copy into it, so a freed file is not unlinked but moved to the pool, and from
 * there under the name of the next blob. Names are moved with rename(2) alone: a name never leads to another blob's bytes,
 * and a path that is out of date leads to ENOENT. Node has no fallocate(2); that what was promised is really there is
 * seen to by counting (I1, I2).
 *
 * I1  Budget: charges of blobs and bytes of the pool never pass `capacityBytes`. The exception is `adopt`: what is found
 *     after a restart with a smaller capacity is kept, and nothing new is granted until there is room again.
 * I2  File system: bytes promised (charged, not yet present) never pass what statfs calls available when they are
 *     promised. Others may fill the same file system later; then writers get ENOSPC.
 * I3  Charge: max(what was reserved, pages present in the inode), until `seal`; then max(size, pages present). Pages stay
 *     when a file is recycled, so a large file that is used for a small blob still costs what it holds.
 * I4  A file is in exactly one place: blob, pool, trash. Its `inode` names it across recycling; while a client keeps it
 *     mapped the system cannot give the number to another file.
 * I5  Metadata calls are synchronous, and so two callers never share the same room. They take 2 to 10 µs each on tmpfs; a
 *     create or unlink on ext4 about 20, and more while others wait for its journal. Bytes beyond 64 KiB, and all bytes on disk, go through the thread pool or the mover.
 * I6  Only names of the tier's own pattern are removed, and no link is followed: one that has such a name is removed as a link, or
 *     is no blob. The directories are this user's alone to write in (tier-root.ts).
 * I7  That a file is not there is believed only while the marker of the tier is: a disk that is not mounted, or a directory
 *     that was moved away, is `io_failed`. No copy is given up for it, and no file is removed.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fdatasync,
  fstatSync,
  fsync,
  ftruncateSync,
  lstatSync,
  openSync,
  read,
  readSync,
  renameSync,
  type Stats,
  type StatsFs,
  statfsSync,
  write,
  writeSync,
} from 'node:fs';
import { readdir, unlink } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { promisify } from 'node:util';
import { assert, StoreError } from '@ebb/protocol';
import { ByteBudget } from '../byte-budget.ts';
import { type Clock, systemClock } from '../clock.ts';
import {
  BLOCK_BYTES,
  FILE_HANDLES_MAX,
  POOL_FILES_MAX,
  STATFS_CACHE_MS,
  SYNC_IO_BYTES_MAX,
} from '../limits.ts';
import { FileHandles, withDescriptor } from './file-handles.ts';
import { isMissing, isNoRoom, toStoreError } from './fs-error.ts';
import { SealedFiles } from './sealed-files.ts';
import { setFileAside } from './set-aside.ts';
import { SlotPool } from './slot-pool.ts';
import type { LocalBlob, LocalTier, LocalTierUsage, Mover } from './tier.ts';
import { FAN_OUT, type KnownRoot, openTierRoot, type TierRoot } from './tier-root.ts';
import { Trash } from './trash.ts';

export interface FileTierOptions {
  readonly name: 'memory' | 'disk';
  /** Absolute. Made if missing; else it is empty, or was made by this tier of this node. */
  readonly root: string;
  readonly nodeId: string;
  /** The flag of the setting that names the root, for messages. */
  readonly setting?: string;
  readonly capacityBytes: number;
  /** Grows to this part of what is free and its own, when others give back room. 0 to 1; without it the capacity stays. */
  readonly growsToPart?: number;
  /** Left to others of the same file system: never promised. Default 0. */
  readonly spareBytes?: number;
  /** Use files again. Worth it on tmpfs; on disk a file's pages are gone from memory anyway. */
  readonly recycle: boolean;
  readonly poolBytesMax: number;
  /** For `populate`; stays the caller's to close. */
  readonly mover: Mover;
  /** What the catalog knows of the directory, for a tier that keeps its files over a reboot. */
  readonly known?: KnownRoot;
  readonly poolFilesMax?: number;
  readonly handlesMax?: number;
  readonly clock?: Clock;
}

/** @throws `config_invalid`, `data_directory_in_use`, `version_unsupported`, `io_failed` */
export async function openFileTier(options: FileTierOptions): Promise<LocalTier> {
  assertOptions(options);
  try {
    const root = openTierRoot({ setting: `tier ${options.name}`, ...options });
    const tier = new FileTier(options, root);
    await tier.findPooledFiles();
    return tier;
  } catch (error) {
    throw toStoreError(error, `cannot open tier ${options.name} at ${options.root}`);
  }
}

interface FileSlot {
  readonly inode: number;
  /** Pages in the inode as last seen: exact in the pool, a lower bound while somebody writes. */
  presentBytes: number;
}

/** A file that is being written. */
interface OpenFile {
  readonly blobId: number;
  readonly slot: FileSlot;
  allocatedBytes: number;
  /** Charged and not known to be present: counted against what the file system has. */
  promisedBytes: number;
}

class FileTier implements LocalTier {
  readonly name: 'memory' | 'disk';
  readonly root: string;
  readonly #layout: TierRoot;
  readonly #isTmpfs: boolean;
  readonly #spareBytes: number;
  readonly #growsToPart: number;
  readonly #recycle: boolean;
  readonly #poolBytesMax: number;
  readonly #poolFilesMax: number;
  readonly #mover: Mover;
  readonly #clock: Clock;
  readonly #budget: ByteBudget;
  readonly #pool = new SlotPool<FileSlot>();
  readonly #open = new Map<number, OpenFile>();
  readonly #sealed = new SealedFiles();
  /** By inode: as long as a descriptor is kept, no other file has its number. */
  readonly #handles: FileHandles<number>;
  readonly #trash: Trash;
  #populatingBytes = 0;
  #promisedBytes = 0;
  /** What may still be promised, by the last statfs and what was promised since. */
  #headroomBytes = 0;
  #headroomAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: FileTierOptions, layout: TierRoot) {
    this.name = options.name;
    this.root = options.root;
    this.#layout = layout;
    this.#isTmpfs = layout.isTmpfs;
    this.#spareBytes = options.spareBytes ?? 0;
    this.#growsToPart = options.growsToPart ?? 0;
    this.#recycle = options.recycle;
    this.#poolBytesMax = options.recycle ? options.poolBytesMax : 0;
    this.#poolFilesMax = options.recycle ? (options.poolFilesMax ?? POOL_FILES_MAX) : 0;
    this.#mover = options.mover;
    this.#clock = options.clock ?? systemClock;
    this.#budget = new ByteBudget({ capacityBytes: options.capacityBytes });
    this.#handles = new FileHandles(options.handlesMax ?? FILE_HANDLES_MAX);
    this.#trash = new Trash(join(options.root, 't'));
  }

  usage(): LocalTierUsage {
    return {
      capacityBytes: this.#budget.capacityBytes,
      usedBytes: this.#budget.usedBytes,
      pooledBytes: this.#pool.bytes + this.#populatingBytes,
      blobs: this.#open.size + this.#sealed.size,
    };
  }

  availableBytes(): number {
    // Where there was no room for the directories there may be by now: nothing else would notice.
    if (!this.#layout.isLaidOut()) return 0;
    this.#measureHeadroom();
    this.#grow();
    return this.#headroomBytes;
  }

  #grow(): void {
    if (this.#growsToPart === 0 || !Number.isFinite(this.#headroomBytes)) return;
    // The headroom leaves out what was promised, and the budget counts it: the sum is what is free and what is ours.
    const wholeBytes = this.#headroomBytes + this.#spareBytes + this.#budget.usedBytes;
    this.#budget.growTo(Math.max(0, Math.floor(wholeBytes * this.#growsToPart)));
  }

  create(blobId: number, reserveBytes: number): LocalBlob | undefined {
    assert(!this.#has(blobId), `blob ${blobId} is created once`);
    if (!this.#layout.isLaidOut()) return undefined;
    const reserved = roundUpToBlocks(reserveBytes);
    const absolutePath = this.absolutePath(blobId);
    const slot =
      this.#takePooled(reserved, absolutePath) ?? this.#createFile(reserved, absolutePath);
    if (slot === undefined) return undefined;
    const allocatedBytes = Math.max(reserved, slot.presentBytes);
    const promisedBytes = allocatedBytes - slot.presentBytes;
    this.#promisedBytes += promisedBytes;
    const file = { blobId, slot, allocatedBytes, promisedBytes };
    this.#open.set(blobId, file);
    return this.#localBlob(file, slot.inode);
  }

  extend(blobId: number, reserveBytes: number): boolean {
    const file = this.#getOpen(blobId);
    const moreBytes = roundUpToBlocks(reserveBytes) - file.allocatedBytes;
    if (moreBytes <= 0) return true;
    if (!this.#takeRoom(moreBytes)) return false;
    this.#charge(file, file.allocatedBytes + moreBytes, file.promisedBytes + moreBytes);
    return true;
  }

  shrink(blobId: number, reserveBytes: number): void {
    const file = this.#getOpen(blobId);
    const presentBytes = Math.max(file.slot.presentBytes, this.#findPresentBytes(blobId));
    const allocatedBytes = Math.max(roundUpToBlocks(reserveBytes), presentBytes);
    const lessBytes = file.allocatedBytes - allocatedBytes;
    if (lessBytes <= 0) return;
    this.#budget.release(lessBytes);
    this.#charge(file, allocatedBytes, Math.min(file.promisedBytes, allocatedBytes - presentBytes));
  }

  seal(blobId: number, sizeBytes: number): number {
    const file = this.#getOpen(blobId);
    const stats = this.#findStats(this.absolutePath(blobId));
    if (stats === undefined) this.#layout.assertThere(); // I7
    if (stats === undefined) throw this.#lost(blobId);
    if (stats.size < sizeBytes) {
      const message = `blob ${blobId} has ${stats.size} bytes, announced were ${sizeBytes}`;
      throw new StoreError('length_mismatch', message, { blobId, sizeBytes, found: stats.size });
    }
    let presentBytes = this.#presentBytes(stats);
    let allocatedBytes = Math.max(roundUpToBlocks(sizeBytes), presentBytes);
    const moreBytes = allocatedBytes - file.allocatedBytes;
    if (moreBytes > 0 && !this.#takeBudget(moreBytes)) {
      // Its writer went beyond the reservation, and there is no room for that. What lies beyond the size is of no use.
      presentBytes = this.#cutTail(file, sizeBytes);
      allocatedBytes = Math.max(roundUpToBlocks(sizeBytes), presentBytes);
      if (
        allocatedBytes > file.allocatedBytes &&
        !this.#takeBudget(allocatedBytes - file.allocatedBytes)
      ) {
        throw this.#full(`blob ${blobId} is larger than what was reserved for it`, allocatedBytes);
      }
    }
    if (allocatedBytes < file.allocatedBytes)
      this.#budget.release(file.allocatedBytes - allocatedBytes);
    this.#charge(file, allocatedBytes, 0);
    this.#open.delete(blobId);
    const { inode } = file.slot;
    this.#sealed.add({ blobId, inode, sizeBytes, allocatedBytes, presentBytes });
    return allocatedBytes;
  }

  adopt(blobId: number, sizeBytes: number): LocalBlob | undefined {
    const known = this.find(blobId);
    if (known !== undefined) return known;
    const stats = this.#findStats(this.absolutePath(blobId));
    if (stats === undefined) this.#layout.assertThere(); // I7
    if (stats === undefined || !stats.isFile() || stats.size < sizeBytes) return undefined;
    const presentBytes = this.#presentBytes(stats);
    const allocatedBytes = Math.max(roundUpToBlocks(sizeBytes), presentBytes);
    if (!this.#takeBudget(allocatedBytes)) this.#budget.chargeFound(allocatedBytes);
    const file = { blobId, inode: stats.ino, sizeBytes, allocatedBytes, presentBytes };
    this.#sealed.add(file);
    return this.#localBlob(file, file.inode);
  }

  find(blobId: number): LocalBlob | undefined {
    const open = this.#open.get(blobId);
    if (open !== undefined) return this.#localBlob(open, open.slot.inode);
    const sealed = this.#sealed.get(blobId);
    return sealed === undefined ? undefined : this.#localBlob(sealed, sealed.inode);
  }

  absolutePath(blobId: number): string {
    return `${this.root}/${blobPath(blobId)}`;
  }

  async read(blobId: number, target: Uint8Array, position: number): Promise<void> {
    const sealed = this.#sealed.get(blobId);
    const sizeBytes = sealed?.sizeBytes;
    if (sizeBytes !== undefined && position + target.length > sizeBytes) {
      const range = { blobId, position, length: target.length, sizeBytes };
      throw new StoreError('range_invalid', `blob ${blobId} has ${sizeBytes} bytes`, range);
    }
    const handle = this.#openFile(blobId, sealed?.inode ?? this.#getOpen(blobId).slot.inode);
    try {
      const isShort = this.#isSync(target.length)
        ? readFullySync(handle.fd, target, position)
        : await readFully(handle.fd, target, position);
      if (!isShort) return;
    } catch (error) {
      throw toStoreError(error, `reading blob ${blobId} in tier ${this.name}`);
    } finally {
      this.#handles.release(handle);
    }
    // Up to its size a sealed blob was complete: somebody cut it. One that is being written just ends here.
    const code = sizeBytes === undefined ? 'range_invalid' : 'data_lost';
    throw new StoreError(code, `blob ${blobId} ends before ${position + target.length}`, {
      blobId,
    });
  }

  async write(blobId: number, source: Uint8Array, position: number): Promise<void> {
    const file = this.#getOpen(blobId);
    assert(position + source.length <= file.allocatedBytes, `blob ${blobId} has room reserved`);
    const handle = this.#openFile(blobId, file.slot.inode);
    try {
      if (this.#isSync(source.length)) writeFullySync(handle.fd, source, position);
      else await writeFully(handle.fd, source, position);
    } catch (error) {
      throw toStoreError(error, `writing blob ${blobId} in tier ${this.name}`);
    } finally {
      this.#handles.release(handle);
    }
  }

  async sync(blobId: number): Promise<void> {
    const handle = this.#openFile(blobId, this.#inodeOf(blobId));
    // A tmpfs has nothing to sync to, and calls of the thread pool cost the more for that.
    if (this.#isTmpfs) return void this.#handles.release(handle);
    try {
      // Both names and bytes are written already: two syncs at the same time share what the journal does.
      const directory = syncDirectory(join(this.root, fanOut(blobId)));
      for (const done of await Promise.allSettled([fdatasyncOf(handle.fd), directory]))
        if (done.status === 'rejected') throw done.reason;
    } catch (error) {
      throw toStoreError(error, `syncing blob ${blobId} in tier ${this.name}`);
    } finally {
      this.#handles.release(handle);
    }
  }

  remove(blobId: number, { recycle }: { readonly recycle: boolean }): void {
    const open = this.#open.get(blobId);
    const slot = open === undefined ? this.#forgetSealed(blobId) : this.#forgetOpen(open);
    if (slot === undefined) return;
    const absolutePath = this.absolutePath(blobId);
    if (!recycle || !this.#addToPool(slot, absolutePath)) {
      this.#handles.drop(slot.inode);
      this.#trash.discard(absolutePath, slot.presentBytes);
    }
  }

  setAside(blobId: number): void {
    const { capacityBytes } = this.#budget;
    setFileAside(this.absolutePath(blobId), { root: this.root, blobId, capacityBytes });
  }

  assertThere(): void {
    this.#layout.assertThere();
  }

  renew(): boolean {
    const isNew = this.#layout.renew();
    if (isNew) this.trimPool(0); // its files went with the directory
    return isNew;
  }

  async removeOrphans(): Promise<{ readonly files: number; readonly bytes: number }> {
    let files = 0;
    let bytes = 0;
    try {
      this.#layout.assertThere(); // I7
      for (const directory of FAN_OUT) {
        const absolute = join(this.root, directory);
        for (const name of await namesIn(absolute, OWN_NAME)) {
          // Looked up again now: a blob may have come or gone since the directory was read.
          if (this.#isBlobFile(directory, name)) continue;
          const file = join(absolute, name);
          const stats = this.#findStats(file);
          if (stats === undefined || stats.isDirectory()) continue;
          const presentBytes = stats.isFile() ? this.#presentBytes(stats) : 0;
          if (!this.#tryDiscard(file, presentBytes)) continue;
          files++;
          bytes += presentBytes;
        }
      }
    } catch (error) {
      throw toStoreError(error, `removing orphans of tier ${this.name}`);
    }
    return { files, bytes };
  }

  trimPool(bytes: number): number {
    const before = this.#pool.bytes;
    while (this.#pool.bytes > bytes) this.#giveUpPooled();
    return before - this.#pool.bytes;
  }

  /** Stops without an error when there is no more room: being ready ahead of need is not worth pushing anything out. */
  async populate(
    { fileBytes, files }: { readonly fileBytes: number; readonly files: number },
    signal?: AbortSignal,
  ): Promise<void> {
    if (!this.#layout.isLaidOut()) return;
    if (!this.#recycle) {
      throw new StoreError('unsupported', `tier ${this.name} does not recycle files`);
    }
    const bytes = roundUpToBlocks(fileBytes);
    while (this.#pool.countBigEnough(bytes) < files) {
      if (this.#pool.size >= this.#poolFilesMax) return;
      if (this.#pool.bytes + this.#populatingBytes + bytes > this.#poolBytesMax) return;
      if (!this.#budget.tryReserve(bytes)) return;
      if (!this.#promiseOrRelease(bytes)) return;
      this.#populatingBytes += bytes;
      this.#promisedBytes += bytes;
      const fresh = `${this.root}/t/populate-${this.#trash.nextName()}`;
      let slot: FileSlot | undefined;
      try {
        slot = await this.#populateFile(fresh, bytes, signal);
      } finally {
        this.#populatingBytes -= bytes;
        this.#promisedBytes -= bytes;
        this.#budget.release(bytes);
      }
      // Nobody ran since the release: the room is still there for this file.
      if (slot === undefined || !this.#addToPool(slot, fresh)) {
        this.#trash.discard(fresh, bytes);
        return;
      }
    }
  }

  async close(): Promise<void> {
    this.#handles.dropAll();
    await this.#trash.settled();
  }

  /** After a restart the pool is warm again, as far as the limits of now allow. What cannot be had or removed stays as it is. */
  async findPooledFiles(): Promise<void> {
    const pool = join(this.root, 'p');
    for (const name of await namesIn(pool, OWN_NAME)) {
      const file = join(pool, name);
      const stats = lstatSync(file, { throwIfNoEntry: false });
      if (stats === undefined) continue;
      const slot = { inode: stats.ino, presentBytes: this.#presentBytes(stats) };
      if (
        name === pooledName(slot) &&
        // One that has another name elsewhere would be written there, too.
        stats.isFile() &&
        stats.nlink === 1 &&
        this.#mayPool(slot) &&
        this.#budget.tryReserve(slot.presentBytes)
      ) {
        this.#pool.add(slot);
      } else {
        await unlink(file).catch(() => undefined);
      }
    }
    const trash = join(this.root, 't');
    for (const name of await namesIn(trash, TRASHED_NAME))
      await unlink(join(trash, name)).catch(() => undefined);
  }

  // ---- room -------------------------------------------------------------------------------------------------------

  /** Takes bytes that are not there yet from the budget (I1) and from what the file system has (I2), or neither. */
  #takeRoom(bytes: number): boolean {
    if (bytes === 0) return true;
    return this.#takeBudget(bytes) && this.#promiseOrRelease(bytes);
  }

  /** For bytes that the budget holds already: without a promise it gets them back, also when the file system does not answer. */
  #promiseOrRelease(bytes: number): boolean {
    let isPromised = false;
    try {
      isPromised = this.#promise(bytes);
      return isPromised;
    } finally {
      if (!isPromised) this.#budget.release(bytes);
    }
  }

  /** Gives up pooled files, the oldest first, but none when even all of them would not do. */
  #takeBudget(bytes: number): boolean {
    if (bytes === 0 || this.#budget.tryReserve(bytes)) return true;
    const freeBytes = this.#budget.capacityBytes - this.#budget.usedBytes;
    if (bytes > freeBytes + this.#pool.bytes) return false;
    do this.#giveUpPooled();
    while (!this.#budget.tryReserve(bytes));
    return true;
  }

  /** Whether the file system has these bytes beside all that was promised already. The caller adds them to what was. */
  #promise(bytes: number): boolean {
    const ageMs = this.#clock.monotonic() - this.#headroomAtMs;
    if (ageMs < 0 || ageMs >= STATFS_CACHE_MS || bytes > this.#headroomBytes)
      this.#measureHeadroom();
    if (bytes > this.#headroomBytes) {
      this.#recountPromised();
      this.#trash.emptyNow();
      this.#measureHeadroom();
    }
    while (bytes > this.#headroomBytes && this.#giveUpPooled()) {
      this.#trash.emptyNow();
      this.#measureHeadroom();
    }
    if (bytes > this.#headroomBytes) return false;
    this.#headroomBytes -= bytes;
    return true;
  }

  #measureHeadroom(): void {
    const { blocks, bavail, bsize } = this.#statfs();
    // A tmpfs mounted with size=0 has no limit and reports no blocks.
    const availableBytes = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize;
    this.#headroomBytes = availableBytes - this.#spareBytes - this.#promisedBytes;
    this.#headroomAtMs = this.#clock.monotonic();
  }

  /** @throws `io_failed` */
  #statfs(): StatsFs {
    try {
      return statfsSync(this.root);
    } catch (error) {
      this.#layout.assertThere();
      throw toStoreError(error, `looking at ${this.root}`);
    }
  }

  /** Clients write without telling: pages that have come since are no longer a promise. Only asked for when it matters. */
  #recountPromised(): void {
    for (const file of this.#open.values()) {
      const presentBytes = this.#findPresentBytes(file.blobId);
      this.#charge(file, file.allocatedBytes, Math.max(0, file.allocatedBytes - presentBytes));
    }
  }

  #charge(file: OpenFile, allocatedBytes: number, promisedBytes: number): void {
    this.#promisedBytes += promisedBytes - file.promisedBytes;
    file.promisedBytes = promisedBytes;
    file.allocatedBytes = allocatedBytes;
  }

  // ---- files ------------------------------------------------------------------------------------------------------

  #takePooled(reserved: number, to: string): FileSlot | undefined {
    for (;;) {
      const slot = this.#pool.take(reserved);
      if (slot === undefined) return undefined;
      // Its own bytes stay charged; they become the blob's.
      let hasRoom = false;
      try {
        hasRoom = this.#takeRoom(Math.max(0, reserved - slot.presentBytes));
        if (!hasRoom) return undefined;
      } finally {
        if (!hasRoom) this.#pool.add(slot);
      }
      try {
        renameSync(this.#pooledPath(slot), to);
        return slot;
      } catch (error) {
        this.#handles.drop(slot.inode);
        this.#budget.release(Math.max(reserved, slot.presentBytes));
        // Somebody cleaned the pool behind our back: the next one, or a fresh file.
        if (!isMissing(error)) throw toStoreError(error, `recycling a file of tier ${this.name}`);
      }
    }
  }

  #createFile(reserved: number, absolutePath: string): FileSlot | undefined {
    if (!this.#takeRoom(reserved)) return undefined;
    try {
      // A file of tier 1 is written and synced by the daemon, or opened by clients: mostly the former.
      if (this.#recycle) return createBlobFile(absolutePath, closeSync);
      return createBlobFile(absolutePath, (fd, inode) => this.#handles.adopt(inode, fd));
    } catch (error) {
      this.#budget.release(reserved);
      // A file system can also be out of inodes.
      if (isNoRoom(error)) return undefined;
      if (isMissing(error)) this.#layout.assertThere();
      throw toStoreError(error, `creating ${absolutePath}`);
    }
  }

  /** Returns undefined when there was no room after all. */
  async #populateFile(
    file: string,
    bytes: number,
    signal: AbortSignal | undefined,
  ): Promise<FileSlot | undefined> {
    try {
      const { inode } = createBlobFile(file, closeSync);
      await this.#mover.populate(file, bytes, signal);
      return { inode, presentBytes: this.#presentBytes(lstatSync(file)) };
    } catch (error) {
      const failure = toStoreError(error, `populating tier ${this.name}`);
      if (failure.code === 'tier_full') return undefined;
      this.#trash.discard(file, bytes);
      throw failure;
    }
  }

  #mayPool(slot: FileSlot): boolean {
    // An empty file saves nothing, and one larger than the whole pool would only push the others out.
    return (
      slot.presentBytes > 0 && slot.presentBytes <= this.#poolBytesMax && this.#poolFilesMax > 0
    );
  }

  /** Pools a file whose bytes the budget does not hold now. Makes place by giving up the oldest ones. */
  #addToPool(slot: FileSlot, path: string): boolean {
    if (!this.#mayPool(slot)) return false;
    while (
      this.#pool.size >= this.#poolFilesMax ||
      this.#pool.bytes + this.#populatingBytes + slot.presentBytes > this.#poolBytesMax
    ) {
      if (!this.#giveUpPooled()) return false;
    }
    if (!this.#budget.tryReserve(slot.presentBytes)) return false;
    try {
      renameSync(path, this.#pooledPath(slot));
    } catch {
      this.#budget.release(slot.presentBytes);
      return false;
    }
    this.#pool.add(slot);
    return true;
  }

  #giveUpPooled(): boolean {
    const slot = this.#pool.takeOldest();
    if (slot === undefined) return false;
    this.#handles.drop(slot.inode);
    this.#budget.release(slot.presentBytes);
    this.#trash.discard(this.#pooledPath(slot), slot.presentBytes);
    return true;
  }

  #pooledPath(slot: FileSlot): string {
    return `${this.root}/p/${pooledName(slot)}`;
  }

  #isBlobFile(directory: string, name: string): boolean {
    const blobId = Number.parseInt(name, 16);
    return this.#has(blobId) && blobPath(blobId) === `${directory}/${name}`;
  }

  #has(blobId: number): boolean {
    return this.#open.has(blobId) || this.#sealed.has(blobId);
  }

  /** What cannot be removed now is tried again at the next start. */
  #tryDiscard(file: string, bytes: number): boolean {
    try {
      this.#trash.discard(file, bytes);
      return true;
    } catch {
      return false;
    }
  }

  #localBlob(file: { blobId: number; allocatedBytes: number }, inode: number): LocalBlob {
    const { blobId, allocatedBytes } = file;
    return { blobId, allocatedBytes, path: blobPath(blobId), slotId: this.#recycle ? inode : 0 };
  }

  #getOpen(blobId: number): OpenFile {
    const file = this.#open.get(blobId);
    if (file !== undefined) return file;
    assert(!this.#sealed.has(blobId), `blob ${blobId} is not sealed`);
    throw this.#unknown(blobId);
  }

  #inodeOf(blobId: number): number {
    const inode = this.#open.get(blobId)?.slot.inode ?? this.#sealed.get(blobId)?.inode;
    if (inode === undefined) throw this.#unknown(blobId);
    return inode;
  }

  #forgetOpen(file: OpenFile): FileSlot {
    file.slot.presentBytes = this.#findPresentBytes(file.blobId);
    this.#open.delete(file.blobId);
    this.#promisedBytes -= file.promisedBytes;
    this.#budget.release(file.allocatedBytes);
    return file.slot;
  }

  #forgetSealed(blobId: number): FileSlot | undefined {
    const file = this.#sealed.delete(blobId);
    if (file === undefined) return undefined;
    this.#budget.release(file.allocatedBytes);
    return { inode: file.inode, presentBytes: file.presentBytes };
  }

  #openFile(blobId: number, inode: number): { readonly fd: number } {
    try {
      return this.#handles.acquire(inode, this.absolutePath(blobId));
    } catch (error) {
      if (!isMissing(error)) throw toStoreError(error, `opening blob ${blobId}`);
      this.#layout.assertThere(); // I7
      throw this.#lost(blobId, error);
    }
  }

  #findPresentBytes(blobId: number): number {
    const stats = this.#findStats(this.absolutePath(blobId));
    return stats === undefined ? 0 : this.#presentBytes(stats);
  }

  #findStats(file: string): Stats | undefined {
    try {
      return lstatSync(file, { throwIfNoEntry: false });
    } catch (error) {
      throw toStoreError(error, `looking at ${file}`);
    }
  }

  #cutTail({ blobId, slot }: OpenFile, sizeBytes: number): number {
    const handle = this.#openFile(blobId, slot.inode);
    try {
      ftruncateSync(handle.fd, sizeBytes);
      return this.#presentBytes(fstatSync(handle.fd));
    } catch (error) {
      throw toStoreError(error, `cutting blob ${blobId}`);
    } finally {
      this.#handles.release(handle);
    }
  }

  /** What the file really takes: not its length, which a client raises to map it. stat(2) counts in 512 bytes everywhere. */
  #presentBytes({ blocks, size }: Stats): number {
    const presentBytes = roundUpToBlocks(blocks * 512);
    // A file that is not used again has nothing beyond its end but what xfs allocates ahead of a writer and takes back.
    return this.#recycle ? presentBytes : Math.min(presentBytes, roundUpToBlocks(size));
  }

  #isSync(bytes: number): boolean {
    return this.#isTmpfs && bytes <= SYNC_IO_BYTES_MAX;
  }

  #unknown(blobId: number): StoreError {
    return new StoreError('data_lost', `no blob ${blobId} in tier ${this.name}`, { blobId });
  }

  #lost(blobId: number, cause?: unknown): StoreError {
    const message = `the file of blob ${blobId} is gone from tier ${this.name}`;
    return new StoreError('data_lost', message, { blobId }, cause);
  }

  #full(what: string, needBytes: number): StoreError {
    const { capacityBytes, freeBytes } = this.#budget;
    const details = { tier: this.name, needBytes, freeBytes, capacityBytes };
    return new StoreError('tier_full', `${what}, and tier ${this.name} has no room`, details);
  }
}

const SHARED_FILE = 0o660;
/** The names of blobs and pooled files. */
const OWN_NAME = /^[0-9a-f]+$/;
const TRASHED_NAME = /^(populate-)?[0-9a-f]+$/;

function assertOptions(options: FileTierOptions): void {
  assert(isAbsolute(options.root), "a tier's root is an absolute path");
  assert(Number.isSafeInteger(options.capacityBytes), 'a capacity is a whole number of bytes');
  assert(options.capacityBytes >= 0, 'a capacity is not negative');
  assert(options.poolBytesMax >= 0, "a pool's size is not negative");
}

/** None where there is no such directory: a tier for which there was no room yet has none. */
async function namesIn(directory: string, pattern: RegExp): Promise<readonly string[]> {
  try {
    return (await readdir(directory)).filter((name) => pattern.test(name));
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

function fanOut(blobId: number): string {
  return FAN_OUT[blobId % FAN_OUT.length] as string;
}

function blobPath(blobId: number): string {
  return `${fanOut(blobId)}/${blobId.toString(16)}`;
}

function pooledName(slot: FileSlot): string {
  return slot.inode.toString(16);
}

/** @param keep Takes the descriptor, also when it throws: by then the number may be another file's. */
function createBlobFile(path: string, keep: (fd: number, inode: number) => void): FileSlot {
  const flags = constants.O_CREAT | constants.O_EXCL | constants.O_RDWR;
  const fd = withDescriptor(() => openSync(path, flags, SHARED_FILE));
  let inode: number;
  try {
    const { ino, mode } = fstatSync(fd);
    // The umask may have taken the group's right to write.
    if ((mode & 0o777) !== SHARED_FILE) fchmodSync(fd, SHARED_FILE);
    inode = ino;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  keep(fd, inode);
  return { inode, presentBytes: 0 };
}

function roundUpToBlocks(bytes: number): number {
  assert(Number.isSafeInteger(bytes) && bytes >= 0, 'a size is a whole number of bytes');
  return Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES;
}

const readAt = promisify(read);
const writeAt = promisify(write);
const fdatasyncOf = promisify(fdatasync);
const fsyncOf = promisify(fsync);

/** True when the file ends before `target` is full. */
function readFullySync(fd: number, target: Uint8Array, position: number): boolean {
  for (let done = 0; done < target.length; ) {
    const got = readSync(fd, target, done, target.length - done, position + done);
    if (got === 0) return true;
    done += got;
  }
  return false;
}

async function readFully(fd: number, target: Uint8Array, position: number): Promise<boolean> {
  for (let done = 0; done < target.length; ) {
    const length = target.length - done;
    const { bytesRead } = await readAt(fd, target, done, length, position + done);
    if (bytesRead === 0) return true;
    done += bytesRead;
  }
  return false;
}

function writeFullySync(fd: number, source: Uint8Array, position: number): void {
  for (let done = 0; done < source.length; ) {
    done += writeSync(fd, source, done, source.length - done, position + done);
  }
}

async function writeFully(fd: number, source: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < source.length; ) {
    const length = source.length - done;
    done += (await writeAt(fd, source, done, length, position + done)).bytesWritten;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await fsyncOf(fd);
  } finally {
    closeSync(fd);
  }
}
