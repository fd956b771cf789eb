/**
 * Open descriptors, kept for the next use. Keyed by the file and not by its name: a recycled file keeps its descriptor.
 * Who dropped a file calls `drop`; a descriptor in use is closed when its last user is done.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { assert } from '@ebb/protocol';

export interface FileHandleUse {
  readonly fd: number;
}

interface Handle extends FileHandleUse {
  users: number;
  isDropped: boolean;
}

export class FileHandles<Key> {
  readonly #handlesMax: number;
  /** Least recently used first. */
  readonly #handles = new Map<Key, Handle>();

  constructor(handlesMax: number) {
    assert(handlesMax > 0, 'at least one handle is kept');
    this.#handlesMax = handlesMax;
  }

  get size(): number {
    return this.#handles.size;
  }

  /** For reading and writing. Each `acquire` is followed by one `release`. @throws the errno of open(2) */
  acquire(key: Key, path: string): FileHandleUse {
    let handle = this.#handles.get(key);
    if (handle === undefined) {
      handle = this.#keep(key, openSync(path, constants.O_RDWR | constants.O_NOFOLLOW));
    } else {
      this.#handles.delete(key);
      this.#handles.set(key, handle);
    }
    handle.users++;
    return handle;
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

  dropAll(): void {
    for (const key of this.#handles.keys()) this.drop(key);
  }

  #keep(key: Key, fd: number): Handle {
    const handle: Handle = { fd, users: 0, isDropped: false };
    this.#handles.set(key, handle);
    if (this.#handles.size > this.#handlesMax) {
      for (const oldest of this.#handles.keys()) {
        this.drop(oldest);
        break;
      }
    }
    return handle;
  }
}

function closeIfUnused(handle: Handle): void {
  if (handle.isDropped && handle.users === 0) closeSync(handle.fd);
}
