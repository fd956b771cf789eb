import type { Catalog } from '../catalog/catalog.ts';
import { targetOf } from '../placement/remote-names.ts';

const PAGE = 512;
/** A start looks no further, where nearly all lies in places that buckets name. */
const PAGES_MAX = 100;

/** Whether the catalog knows of bytes in the node's own tier 2: whoever opens that must find it there. */
export async function hasOwnCopies(catalog: Pick<Catalog, 'listBlobs'>): Promise<boolean> {
  let afterBlobId = 0;
  for (let page = 0; page < PAGES_MAX; page++) {
    const blobs = await catalog.listBlobs({ afterBlobId, limit: PAGE, where: 'remote' });
    for (const { blobId, remote } of blobs) {
      if (remote !== null && targetOf(remote.name) === '') return true;
      afterBlobId = blobId;
    }
    if (blobs.length < PAGE) return false;
  }
  return false;
}
