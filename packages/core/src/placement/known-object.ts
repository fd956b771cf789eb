/**
 * Whether what tier 2 has under a name is what this node put or saw there. Others put, change and delete objects in tier 2 too,
 * and nothing of theirs may go with a change of ours.
 *
 * K1  An object is known by its ETag: the one that came with the answer to a put, or that a sync found.
 * K2  A put whose answer was lost left an ETag that nobody knows. Then the object is known by its bytes: it has the length and the
 *     CRC32C of a version that was being sent. That may be the one that is being sent now, before the process was killed.
 * K3  What cannot be told is somebody else's.
 */
import type { Catalog, ObjectRecord, SpoolEntry, StoredContent } from '../catalog/catalog.ts';
import { JoinedContent } from '../catalog/stored-content.ts';
import { createCrc32c } from '../checksum.ts';
import { S3_RANGE_BYTES } from '../limits.ts';
import { takesTurns } from '../store/turns.ts';
import type { RemoteObject, RemoteTier } from '../tier/tier.ts';

/** What is there now; undefined: nothing is. */
export type Known =
  | { readonly there: undefined }
  | { readonly there: RemoteObject; readonly isKnown: boolean };

/** @throws `io_failed`, `aborted`; `precondition_failed` when it is replaced while its bytes are looked at */
export async function lookAt(
  remote: RemoteTier,
  name: string,
  { seenEtag, tried }: Pick<SpoolEntry, 'seenEtag' | 'tried'>,
  signal?: AbortSignal,
): Promise<Known> {
  const there = await remote.head(name);
  if (there === undefined) return { there };
  if (there.etag === seenEtag) return { there, isKnown: true }; // K1
  const alike = tried.filter(({ sizeBytes }) => sizeBytes === there.sizeBytes);
  if (alike.length === 0) return { there, isKnown: false };
  const crc32c = await checksumOf(remote, name, there, signal);
  return { there, isKnown: alike.some((one) => one.crc32c === crc32c) }; // K2
}

/** Undefined where it is not known: of an encrypted object, and of one of which some bytes have no checksum. */
export async function contentOf(
  catalog: Pick<Catalog, 'findBlob'>,
  { sizeBytes, crc32c, extents }: ObjectRecord,
): Promise<StoredContent | undefined> {
  const joined = new JoinedContent();
  let step = 0;
  for (const extent of extents) {
    const turn = takesTurns(step++);
    if (turn !== undefined) await turn;
    const blob = await catalog.findBlob(extent.blobId);
    // Blobs of one object are all encrypted, or none is.
    if (blob === undefined || blob.sealId !== undefined) return undefined;
    if (crc32c !== null) break;
    if (!joined.add(extent, blob)) return undefined;
  }
  return crc32c === null ? joined.of({ sizeBytes }) : { sizeBytes, crc32c };
}

async function checksumOf(
  remote: RemoteTier,
  name: string,
  { sizeBytes, etag }: RemoteObject,
  signal: AbortSignal | undefined,
): Promise<number> {
  const crc = createCrc32c();
  for (let at = 0; at < sizeBytes; ) {
    const piece = Buffer.allocUnsafe(Math.min(S3_RANGE_BYTES, sizeBytes - at));
    await remote.read(name, piece, at, { etag, ...(signal && { signal }) });
    crc.update(piece);
    at += piece.length;
  }
  return crc.value();
}
