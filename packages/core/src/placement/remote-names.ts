/**
 * Names in tier 2.
 *
 * - A mirrored object has its own name, `bucket/key`: any S3 client reads it there.
 * - What goes there for want of room, or has to stay when its object is replaced, has a private one: `bucket/.ebb/<node>-<id>`, by
 *   the ids of the node and the blob, which nothing else ever has: others may share the place, and count their blobs from 1 too.
 *   (0.1.0 left the node out.) Until its record is written, private-copies.ts knows it. No key begins with `.ebb/` (object-ref.ts).
 * - What cannot have its own name in a store lies there blob by blob, each under a private one. In place of the ETag of an object
 *   it has NO_OWN_NAME.
 * - A bucket with a target of its own (`policy.remote`) has names that begin with `|target|` (tier/routed-tier.ts).
 */
interface ObjectName {
  readonly bucket: string;
  readonly key: string;
}

/** No store gives such an ETag. Persisted, keep stable. */
export const NO_OWN_NAME = '.ebb';

const PRIVATE = /^(?:\|[^|]*\|)?[^/]+\/\.ebb\//;

export function ownName(target: string | null, { bucket, key }: ObjectName): string {
  return `${prefixOf(target)}${bucket}/${key}`;
}

/** Whose private name it is. */
export interface PrivateId {
  readonly nodeId: string;
  readonly blobId: number;
}

export function privateName(target: string | null, bucket: string, id: PrivateId): string {
  return `${prefixOf(target)}${bucket}/.ebb/${id.nodeId}-${id.blobId}`;
}

export function isPrivateName(name: string): boolean {
  return PRIVATE.test(name);
}

/** A private name beside `name`, in the same target and bucket. */
export function privateNameBeside(name: string, id: PrivateId): string {
  const start = name.startsWith('|') ? name.indexOf('|', 1) + 1 : 0;
  return `${name.slice(0, name.indexOf('/', start))}/.ebb/${id.nodeId}-${id.blobId}`;
}

/** '' for the node's own. */
export function targetOf(name: string): string {
  return name.startsWith('|') ? name.slice(1, name.indexOf('|', 1)) : '';
}

function prefixOf(target: string | null): string {
  return target === null ? '' : `|${target}|`;
}
