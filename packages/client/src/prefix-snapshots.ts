/** Snapshots of an object, or of all below a prefix: kept and brought back in one step each, without a copy of their bytes. */
import {
  PATHS,
  type PrefixSnapshotInfo,
  type PrefixSnapshotRestored,
  type PrefixSnapshotSource,
  prefixSnapshotInfoSchema,
  prefixSnapshotRestoredSchema,
} from '@ebb/protocol';
import type { Abortable } from './client.ts';
import type { HttpClient } from './http-client.ts';
import { listOf } from './lists.ts';

export interface RestoreSnapshotOptions extends Abortable {
  /** Default: where it was taken. An object for an object, a prefix for a prefix. */
  readonly to?: PrefixSnapshotSource | undefined;
  /** Replaces objects that are there. Default: refuse with `already_exists`. */
  readonly overwrite?: boolean | undefined;
  /** Deletes what the snapshot does not have, in the same step; needs `overwrite`. */
  readonly exact?: boolean | undefined;
}

export interface PrefixSnapshots {
  /** @throws `already_exists`, `not_found` when there is nothing to keep; `unsupported` */
  create(
    name: string,
    source: PrefixSnapshotSource,
    options?: Abortable,
  ): Promise<PrefixSnapshotInfo>;
  /** By name. */
  list(options?: Abortable): Promise<PrefixSnapshotInfo[]>;
  get(name: string, options?: Abortable): Promise<PrefixSnapshotInfo>;
  restore(name: string, options?: RestoreSnapshotOptions): Promise<PrefixSnapshotRestored>;
  remove(name: string, options?: Abortable): Promise<void>;
}

export function createPrefixSnapshots(parts: {
  readonly http: HttpClient;
  /** Adds the signal of the client. */
  readonly withSignal: <T extends Abortable>(options: T) => T;
}): PrefixSnapshots {
  const { http, withSignal } = parts;
  const pathOf = (template: string, name: string): string =>
    template.replace('{name}', encodeURIComponent(name));
  return {
    async create(name, source, options = {}) {
      const request = { body: { name, source }, signal: withSignal(options).signal };
      return await http.json('POST', PATHS.prefixSnapshots, prefixSnapshotInfoSchema, request);
    },
    async list(options = {}) {
      const parser = listOf('snapshots', prefixSnapshotInfoSchema);
      const { signal } = withSignal(options);
      return await http.json('GET', PATHS.prefixSnapshots, parser, { signal });
    },
    async get(name, options = {}) {
      const path = pathOf(PATHS.prefixSnapshot, name);
      const { signal } = withSignal(options);
      return await http.json('GET', path, prefixSnapshotInfoSchema, { signal });
    },
    async restore(name, options = {}) {
      const { to, overwrite = false, exact = false, signal } = withSignal(options);
      const path = pathOf(PATHS.prefixSnapshotRestore, name);
      const request = { body: { to, overwrite, exact }, idempotent: overwrite, signal };
      return await http.json('POST', path, prefixSnapshotRestoredSchema, request);
    },
    async remove(name, options = {}) {
      const { signal } = withSignal(options);
      await http.plain('DELETE', pathOf(PATHS.prefixSnapshot, name), { signal });
    },
  };
}
