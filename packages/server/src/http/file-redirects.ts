/**
 * Lets a proxy on this host send an object's bytes from the node's own file (X-Accel-Redirect, as nginx and Caddy know it): the
 * kernel moves them then, which Node has no way to do (docs/proxy.md).
 *
 * F1  Only a proxy that says so is answered in this way, and only with an object that is one local file, whole. Ranges are the
 *     proxy's to cut; what depends on conditions goes through us.
 * F2  Nobody tells when the proxy has opened the file. So the lease of a file that was offered is not returned: it ends by its
 *     deadline, and its file is unlinked in the end instead of being used again (lease-table.ts, I2). One lease a
 *     file is enough for all who come in its first half.
 */
import { statSync } from 'node:fs';
import type { IncomingHttpHeaders } from 'node:http';
import { join } from 'node:path';
import type { Clock, OpenedObject } from '@ebb/core';
import { KiB } from '@ebb/protocol';

/** Below it a redirect costs more than the bytes. */
const OBJECT_BYTES_MIN = 256 * KiB;
/** Half of the store's default for leases. */
const LEASE_SHARED_MS = 5 * 60_000;
const FILES_MAX = 10_000;
const CONDITIONS = [
  'if-match',
  'if-none-match',
  'if-modified-since',
  'if-unmodified-since',
  'if-range',
];
/** By name, so that the proxy's configuration can say where each is. */
const TIERS = ['memory', 'disk'] as const;

export interface FileRedirectOptions {
  /** What the proxy maps to the directories: `<prefix>/memory/…` and `<prefix>/disk/…`. */
  readonly prefix: string;
  /** Directories of tier 0 and 1. */
  readonly roots: readonly [string, string];
  readonly clock: Pick<Clock, 'monotonic'>;
}

export interface FileRedirect {
  /** Value of X-Accel-Redirect. */
  readonly location: string;
  /** The lease stands for the file now: it must not be released (F2). */
  readonly keepsLease: boolean;
}

export class FileRedirects {
  readonly #options: FileRedirectOptions;
  /** Until when a file's lease is shared, by the clock that nobody sets. */
  readonly #offered = new Map<string, number>();

  constructor(options: FileRedirectOptions) {
    this.#options = options;
  }

  /** Whether the request comes through a proxy that may be offered a file. */
  isFor(headers: IncomingHttpHeaders): boolean {
    return headers['x-sendfile-type'] === 'X-Accel-Redirect';
  }

  /** Undefined when the bytes go through us. The object was opened for reading its files. */
  offer(headers: IncomingHttpHeaders, { object, extents }: OpenedObject): FileRedirect | undefined {
    if (!this.isFor(headers)) return undefined;
    if (object.sizeBytes < OBJECT_BYTES_MIN || extents.length !== 1) return undefined;
    if (CONDITIONS.some((name) => headers[name] !== undefined)) return undefined;
    if (headers.range !== undefined && !/^bytes=\d*-\d*$/.test(headers.range)) return undefined;
    const [extent] = extents;
    if (extent === undefined || extent.tier === 2 || extent.path === '' || extent.offset !== 0)
      return undefined;
    const { prefix, roots, clock } = this.#options;
    const file = join(roots[extent.tier], extent.path);
    if (statSync(file, { throwIfNoEntry: false })?.size !== object.sizeBytes) return undefined;
    const location = `${prefix}/${TIERS[extent.tier]}/${extent.path}`;
    const now = clock.monotonic();
    if ((this.#offered.get(location) ?? 0) > now) return { location, keepsLease: false };
    if (this.#offered.size >= FILES_MAX) this.#offered.clear();
    this.#offered.set(location, now + LEASE_SHARED_MS);
    return { location, keepsLease: true };
  }
}
