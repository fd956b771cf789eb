/**
 * Makes one object of ranges of others without moving bytes: parts of an upload that are complete, a copy of a range, a
 * copy with other properties.
 *
 * I1  Sources are read first and joined in one step of the catalog. One that changed in between makes the step fail as a
 *     whole, and it is tried again from the start, unless the caller named the version.
 * I2  An object has at most EXTENTS_MAX extents, so that what is done with one has a bound. What would have more is for the
 *     caller to write anew; nothing was changed then.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { Extent, Freed, ObjectRecord } from '../catalog/catalog.ts';
import { combineCrc32c } from '../checksum.ts';
import { EXTENTS_MAX } from '../limits.ts';
import { parseAnyBucketName, parseKey } from '../object-ref.ts';
import { assertObjectBytes } from '../object-size.ts';
import { ExtentIndex } from './extent-index.ts';
import type { ComposeOptions, ComposeSource, ObjectRef } from './object-store.ts';
import type { StoreParts } from './parts.ts';
import { takesTurns } from './turns.ts';

const TRIES = 4;

type Composed = Freed & { readonly object: ObjectRecord };
type Parts = Pick<StoreParts, 'catalog' | 'clock' | 'nextId'>;

export async function composeObject(
  parts: Parts,
  to: ObjectRef,
  sources: readonly ComposeSource[],
  options: ComposeOptions,
): Promise<Composed | 'too many extents'> {
  parseAnyBucketName(to.bucket);
  parseKey(to.key);
  for (let left = TRIES; ; left--) {
    try {
      return await composeOnce(parts, to, left === TRIES ? sources : looked(sources), options);
    } catch (error) {
      const isOvertaken = isStoreError(error, 'data_lost') || isStoreError(error, 'superseded');
      if (!isOvertaken || left === 1) throw error;
    }
  }
}

/** What was known may have been overtaken. */
function looked(sources: readonly ComposeSource[]): readonly ComposeSource[] {
  return sources.map(({ known: _, ...source }) => source);
}

async function composeOnce(
  { catalog, clock, nextId }: Parts,
  to: ObjectRef,
  sources: readonly ComposeSource[],
  options: ComposeOptions,
): Promise<Composed | 'too many extents'> {
  const found: Found[] = [];
  const extents: Extent[] = [];
  let crc: number | null = 0;
  let sizeBytes = 0;
  for (const [at, source] of sources.entries()) {
    const one = await findSource(catalog, source);
    const { offset, length } = one.range;
    sizeBytes += length;
    assertObjectBytes(sizeBytes, to);
    for (const extent of (await ExtentIndex.of(one.object)).slice(offset, offset + length)) {
      joinTo(extents, extent);
      if (extents.length > EXTENTS_MAX) return 'too many extents';
    }
    crc = joinCrc(crc, one);
    found.push(one);
    await takesTurns(at);
  }
  const version = await nextId();
  const object: ObjectRecord = {
    bucket: to.bucket,
    key: to.key,
    version,
    sizeBytes,
    etag: `${version.toString(16)}-${Math.max(1, found.filter(({ range }) => range.length > 0).length)}`,
    crc32c: crc,
    contentType: options.contentType ?? 'application/octet-stream',
    metadata: options.metadata ?? {},
    attributes: options.attributes ?? {},
    createdAtMs: clock.now(),
    jobId: null,
    pinned: false,
    extents,
    remoteEtag: null,
  };
  const removes = found
    .filter(({ source }) => source.consume === true)
    .map(({ object: gone }) => gone);
  return await catalog.commitObject({
    object,
    newBlobs: [],
    condition: options,
    removes,
    ...(options.requires === undefined ? {} : { requires: options.requires }),
    mirror: options.ack === 'remote',
  });
}

interface Found {
  readonly source: ComposeSource;
  readonly object: ObjectRecord;
  readonly range: { readonly offset: number; readonly length: number };
}

async function findSource(catalog: Parts['catalog'], source: ComposeSource): Promise<Found> {
  const { bucket, key, version, known } = source;
  const current = known ?? (await catalog.findObject(bucket, key));
  const old =
    version === undefined || current?.version === version
      ? undefined
      : await catalog.findVersion(bucket, key, version);
  const object = old === undefined || old.isDeleteMarker ? current : old.object;
  if (object === undefined)
    throw new StoreError('not_found', `no object ${bucket}/${key}`, { bucket, key });
  if (version !== undefined && object.version !== version)
    throw new StoreError(
      'precondition_failed',
      `${bucket}/${key} has version ${object.version}, ${version} was asked for`,
      { bucket, key, version, found: object.version },
    );
  const offset = source.offset ?? 0;
  const length = source.length ?? object.sizeBytes - offset;
  if (offset < 0 || length < 0 || offset + length > object.sizeBytes)
    throw new StoreError(
      'range_invalid',
      `${length} bytes from ${offset} of ${bucket}/${key}, which has ${object.sizeBytes}`,
      { bucket, key, offset, length, sizeBytes: object.sizeBytes },
    );
  return { source, object, range: { offset, length } };
}

/** Neighbours in one blob become one extent again. */
function joinTo(extents: Extent[], { blobId, offset, length }: Extent): void {
  const last = extents.at(-1);
  if (last?.blobId === blobId && last.offset + last.length === offset)
    extents[extents.length - 1] = { ...last, length: last.length + length };
  else extents.push({ blobId, offset, length });
}

/** Null when a source is taken in part, or has none itself. */
function joinCrc(crc: number | null, { object, range }: Found): number | null {
  if (crc === null || object.crc32c === null || range.length !== object.sizeBytes) return null;
  return combineCrc32c(crc, object.crc32c, object.sizeBytes);
}
