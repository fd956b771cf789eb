/**
 * Whether tier 2 still has an object, asked in two ways: HEAD and a listing. One negative answer says nothing: a proxy whose store
 * is away answers 404 to everything.
 */
import type { RemoteTier } from './tier.ts';

/** A page of S3. */
const LISTED_MAX = 1000;
const PAGES_MAX = 16;

/** False only when it was seen to be another one, or when both questions say that there is none. @throws those of the tier */
export async function isStillThere(
  remote: RemoteTier,
  { name, etag }: { readonly name: string; readonly etag: string },
): Promise<boolean> {
  const found = await remote.head(name);
  return found === undefined ? await isListed(remote, name) : found.etag === etag;
}

/** A store lists an object before all whose names only begin like its own; a directory lists them in no order. */
export async function isListed(remote: RemoteTier, name: string): Promise<boolean> {
  let looked = 0;
  for await (const found of remote.list(name, { pagesMax: PAGES_MAX })) {
    if (found.name === name) return true;
    if (++looked === LISTED_MAX) return false;
  }
  return false;
}
