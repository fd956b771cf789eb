import type { ObjectStore, Owner } from '@ebb/core';
import type { BufferPool } from '../buffer-pool.ts';

export interface DataContext {
  readonly store: ObjectStore;
  /** Of all HTTP requests: each gives back its own write or lease before it ends. */
  readonly owner: Owner;
  readonly pieces: BufferPool;
}
