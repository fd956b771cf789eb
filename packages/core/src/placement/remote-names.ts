/**
 * Names in tier 2.
 *
 * - A mirrored object has its own name, `bucket/key`: any S3 client reads it there.
 * - What goes there for want of room, or has to stay when its object is replaced, has a private one: `bucket/.ebb/<id>`, by
 *   the id of the blob or the version, which nothing else ever has. No key begins with `.ebb/` (object-ref.ts).
 * - A bucket with a target of its own (`policy.remote`) has names that begin with `|target|` (tier/routed-tier.ts).
 */
interface ObjectName {
  readonly bucket: string;
  readonly key: string;
}

const PRIVATE = /^(?:\|[^|]*\|)?[^/]+\/\.ebb\//;

export function ownName(target: string | null, { bucket, key }: ObjectName): string {
  return `${prefixOf(target)}${bucket}/${key}`;
}

export function privateName(target: string | null, bucket: string, id: number): string {
  return `${prefixOf(target)}${bucket}/.ebb/${id}`;
}

export function isPrivateName(name: string): boolean {
  return PRIVATE.test(name);
}

/** A private name beside `name`, in the same target and bucket. */
export function privateNameBeside(name: string, id: number): string {
  const start = name.startsWith('|') ? name.indexOf('|', 1) + 1 : 0;
  return `${name.slice(0, name.indexOf('/', start))}/.ebb/${id}`;
}

function prefixOf(target: string | null): string {
  return target === null ? '' : `|${target}|`;
}
