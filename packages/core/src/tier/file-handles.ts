/**
 * Open descriptors, kept for the next use. Keyed by the file and not by its name: a recycled file keeps its descriptor.
 * Who dropped a file calls `drop`; a descriptor in use is closed when its last user is done.
 *
 * I1  When the process has no descriptor left, all caches of it give up those that nobody uses, and the file is opened once
 *     more: descriptors that are kept for speed never keep anything from working.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { assert } from '@ebb/protocol';
import { isOutOfDescriptors } from './fs-error.ts';

export interface FileHandleUse {
  readonly fd: number;
}

interface Handle extends FileHandleUse {
  users: number;
  isDropped: boolean;
}

/** Every cache of the process, for I1. */
const caches = new Set<{ dropUnused(): void }>();

/** Runs what opens a file; without a descriptor left, once more after the caches gave theirs up. */
export function withDescriptor<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    if (!isOutOfDescriptors(error)) throw error;
    for (const cache of caches) cache.dropUnused();
    return open();
  }
}

export class FileHandles<Key> {
  readonly #handlesMax: number;
  /** Least recently used first. */
  readonly #handles = new Map<Key, Handle>();

  constructor(handlesMax: number) {
    assert(handlesMax > 0, 'at least one handle is kept');
    this.#handlesMax = handlesMax;
    caches.add(this);
  }

  get size(): number {
    return this.#handles.size;
  }

  /** For reading and writing. Each `acquire` is followed by one `release`. @throws the errno of open(2) */
  acquire(key: Key, path: string): FileHandleUse {
    let handle = this.#handles.get(key);
    if (handle === undefined) {
      handle = this.#keep(
        key,
        withDescriptor(() => openSync(path, constants.O_RDWR | constants.O_NOFOLLOW)),
      );
    } else {
      this.#handles.delete(key);
      this.#handles.set(key, handle);
    }
    handle.users++;
    return handle;
  }

  /** Keeps a descriptor that is open already, for reading and writing, of a file that has none here. */
  adopt(key: Key, fd: number): void {
    this.drop(key);
    this.#keep(key, fd);
  }

  release(use: FileHandleUse): void {
    const handle = use as Handle;
    assert(handle.users > 0, 'a handle is released as often as it was acquired');
    handle.users--;
    closeIfUnused(handle);
  }

  drop(key: Key): void {
    const handle = this.#handles.get(key);
    if (handle === undefined) return;
    this.#handles.delete(key);
    handle.isDropped = true;
    closeIfUnused(handle);
  }

  dropUnused(): void {
    for (const [key, { users }] of this.#handles) if (users === 0) this.drop(key);
  }

  /** At the end. */
  dropAll(): void {
    for (const key of this.#handles.keys()) this.drop(key);
    caches.delete(this);
  }

  #keep(key: Key, fd: number): Handle {
    for (const oldest of this.#handles.keys()) {
      if (this.#handles.size < this.#handlesMax) break;
      this.drop(oldest);
    }
    const handle: Handle = { fd, users: 0, isDropped: false };
    this.#handles.set(key, handle);
    return handle;
  }
}

function closeIfUnused(handle: Handle): void {
  if (!handle.isDropped || handle.users > 0) return;
  try {
    closeSync(handle.fd);
  } catch {
    // Closed all the same (close(2)); what was to be durable was synced before.
  }
}
