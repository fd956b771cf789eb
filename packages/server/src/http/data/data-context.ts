import type { ObjectStore, Owner } from '@ebb/core';
import type { BufferPool } from '../buffer-pool.ts';
import type { PeerMemory } from '../peer-memory.ts';

export interface DataContext {
  readonly store: ObjectStore;
  /** Of all HTTP requests: each gives back its own write or lease before it ends. */
  readonly owner: Owner;
  /** For bodies on their way through. */
  readonly pieces: BufferPool;
  /** For what is held whole. */
  readonly held: PeerMemory;
}
