/**
 * Opens the disk tier that the catalog knows. A disk that is not mounted at one start looks like an empty directory; so the
 * catalog notes the id in the disk's marker, and while it has copies there no other disk is taken (tier/tier-root.ts).
 *
 * The marker comes first and the note after it: a catalog without a note (one of an earlier version, or a crash in between)
 * takes the disk that is there, if it has a marker of this node.
 */
import type { Catalog } from '../catalog/catalog.ts';
import { type FileTierOptions, openFileTier } from '../tier/file-tier.ts';
import type { LocalTier } from '../tier/tier.ts';
import { findTierId, forgetReplaced } from '../tier/tier-root.ts';
import { allBlobs } from './scan.ts';

type Records = Pick<Catalog, 'durable' | 'findRecord' | 'listBlobs' | 'nodeId' | 'putRecord'>;

/** Persisted, keep stable. The value is the id as text. */
const NAMESPACE = 'tiers';
const KEY = 'disk';

/** @throws as `openFileTier`; `config_invalid` where the disk is not the one that has the catalog's copies */
export async function openKnownDisk(
  catalog: Records,
  options: Omit<FileTierOptions, 'name' | 'nodeId' | 'known'>,
): Promise<LocalTier> {
  const noted = await catalog.findRecord(NAMESPACE, KEY);
  const id = noted === undefined ? undefined : Buffer.from(noted).toString();
  const known = { id, holdsCopies: await hasDiskCopies(catalog) };
  const nodeId = await catalog.nodeId();
  const tier = await openFileTier({ ...options, name: 'disk', nodeId, known });
  try {
    const found = findTierId(options.root);
    if (found !== undefined && found !== id) {
      await catalog.putRecord(NAMESPACE, KEY, Buffer.from(found));
      await catalog.durable();
    }
    if (found !== undefined) forgetReplaced(options.root);
  } catch {
    // On a full or failing disk the next start notes it.
  }
  return tier;
}

/** Whether an object needs a file on disk, or may. */
async function hasDiskCopies(catalog: Pick<Catalog, 'listBlobs'>): Promise<boolean> {
  for await (const { refs } of allBlobs(catalog, 'disk')) if (refs > 0) return true;
  return false;
}
