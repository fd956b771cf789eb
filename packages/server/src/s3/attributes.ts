/**
 * What S3 keeps with an object beside its metadata, as the store's `attributes`: the standard headers under their own
 * names, and these. Persisted in the catalog: keep the names stable.
 *
 *   tagging    as the x-amz-tagging header: url-encoded pairs
 *   checksum   algorithm, type, value, by blanks
 *   latin1     names of metadata whose bytes were no UTF-8, by blanks
 *   part-sums  checksums of the parts of an upload that declared one, by commas; of a thousand parts at most
 *   parts      sizes of the parts of a multipart upload, `size` or `size*count`, by commas; continued in parts.1, parts.2 …
 */
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http';
import type { ObjectRecord } from '@ebb/core';
import { decodeHeader, encodeHeader } from '../http/header-text.ts';
import { type Checksum, checksumHeader, crc32Bytes, parseAlgorithm } from './checksums.ts';
import { decodeMetadata, encodeMetadata, isLatin1 } from './metadata-text.ts';
import { isXmlText } from './read-xml.ts';
import { S3Error } from './s3-error.ts';

/** Of an object whose client says nothing of it. */
export const DEFAULT_CONTENT_TYPE = 'binary/octet-stream';

export type Attributes = Readonly<Record<string, string>>;

/** Headers that are kept as they come and sent as they are. */
const KEPT_HEADERS = [
  'cache-control',
  'content-disposition',
  'content-encoding',
  'content-language',
  'expires',
  'x-amz-website-redirect-location',
] as const;
const STORAGE_CLASS = 'x-amz-storage-class';
const STORAGE_CLASSES = new Set([
  'STANDARD',
  'REDUCED_REDUNDANCY',
  'STANDARD_IA',
  'ONEZONE_IA',
  'INTELLIGENT_TIERING',
  'GLACIER',
  'DEEP_ARCHIVE',
  'GLACIER_IR',
]);
const METADATA_PREFIX = 'x-amz-meta-';
const LATIN1 = 'latin1';
const PART_SUMS = 'part-sums';
const METADATA_BYTES_MAX = 2048;
const TAGS_MAX = 10;
/** Of one attribute: strings in the catalog end at 64 KiB. */
const PARTS_TEXT_MAX = 60_000;

/** @throws {S3Error} `InvalidStorageClass`, `InvalidTag`, `BadRequest` for too many tags */
export function parseAttributes(headers: IncomingHttpHeaders): Record<string, string> {
  const attributes: Record<string, string> = {};
  for (const name of KEPT_HEADERS) {
    const value = decodeHeader(headers[name]);
    if (value !== undefined && value !== '') attributes[name] = value;
  }
  const encoding = withoutAwsChunked(attributes['content-encoding']);
  if (encoding === undefined) delete attributes['content-encoding'];
  else attributes['content-encoding'] = encoding;
  const storageClass = decodeHeader(headers[STORAGE_CLASS]);
  if (storageClass !== undefined && storageClass !== 'STANDARD') {
    if (!STORAGE_CLASSES.has(storageClass))
      throw new S3Error('InvalidStorageClass', undefined, { StorageClassRequested: storageClass });
    attributes[STORAGE_CLASS] = storageClass;
  }
  const latin1 = Object.keys(headers)
    .filter((name) => name.startsWith(METADATA_PREFIX) && isLatin1(String(headers[name])))
    .map((name) => name.slice(METADATA_PREFIX.length));
  if (latin1.length > 0) attributes[LATIN1] = latin1.join(' ');
  const tagging = decodeHeader(headers['x-amz-tagging']);
  if (tagging !== undefined && tagging !== '') {
    const tags = [...new URLSearchParams(tagging)];
    checkTags(tags);
    Object.assign(attributes, formatTags(tags));
  }
  return attributes;
}

/** `aws-chunked` is how the body came, not what it is. The rest stays as it was written, blanks too. */
function withoutAwsChunked(encoding: string | undefined): string | undefined {
  const rest = encoding
    ?.split(',')
    .filter((name) => !['', 'aws-chunked'].includes(name.trim().toLowerCase()))
    .join(',')
    .trim();
  return rest === '' ? undefined : rest;
}

/** @throws {S3Error} `MetadataTooLarge` */
export function parseMetadata(headers: IncomingHttpHeaders): Record<string, string> {
  const metadata: Record<string, string> = {};
  let bytes = 0;
  for (const name in headers) {
    if (!name.startsWith(METADATA_PREFIX) || name.length === METADATA_PREFIX.length) continue;
    const value = decodeMetadata(String(headers[name]));
    const short = name.slice(METADATA_PREFIX.length);
    metadata[short] = value;
    bytes += Buffer.byteLength(short) + Buffer.byteLength(value);
  }
  if (bytes > METADATA_BYTES_MAX)
    throw new S3Error('MetadataTooLarge', undefined, {
      Size: bytes,
      MaxSizeAllowed: METADATA_BYTES_MAX,
    });
  return metadata;
}

/** Without length, range and status, which are the request's. `checksums`: the client asked for them. */
export function objectHeaders(
  object: ObjectRecord,
  { checksums }: { readonly checksums: boolean },
): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {
    'content-type': encodeHeader(object.contentType) || DEFAULT_CONTENT_TYPE,
    etag: `"${object.etag}"`,
    'last-modified': new Date(object.createdAtMs).toUTCString(),
    'accept-ranges': 'bytes',
  };
  const { attributes, metadata } = object;
  for (const name of KEPT_HEADERS)
    if (attributes[name] !== undefined) headers[name] = encodeHeader(attributes[name]);
  if (attributes[STORAGE_CLASS] !== undefined) headers[STORAGE_CLASS] = attributes[STORAGE_CLASS];
  const tags = parseTags(attributes);
  if (tags.length > 0) headers['x-amz-tagging-count'] = tags.length;
  const latin1 = new Set(attributes[LATIN1]?.split(' '));
  for (const name in metadata)
    if (/^[a-z0-9!#$&'*+.^_`|~-]+$/i.test(name))
      headers[METADATA_PREFIX + name] = encodeMetadata(metadata[name] as string, {
        latin1: latin1.has(name),
      });
  if (checksums) Object.assign(headers, checksumHeaders(object));
  return headers;
}

/** Of what the client sent, else the CRC32C that the store has of every blob. */
export function checksumOf(
  object: Pick<ObjectRecord, 'attributes' | 'crc32c'>,
): Checksum | undefined {
  const [algorithm, type, value] = object.attributes['checksum']?.split(' ') ?? [];
  if (algorithm !== undefined && type !== undefined && value !== undefined)
    return {
      algorithm: parseAlgorithm(algorithm),
      type: type === 'COMPOSITE' ? 'COMPOSITE' : 'FULL_OBJECT',
      value,
    };
  if (object.crc32c === null) return undefined;
  const crc = crc32Bytes(object.crc32c).toString('base64');
  return { algorithm: 'CRC32C', type: 'FULL_OBJECT', value: crc };
}

/** `checksumOf` without its value, for listings: no bytes are formatted. */
export function checksumKindOf(
  object: Pick<ObjectRecord, 'attributes' | 'crc32c'>,
): Omit<Checksum, 'value'> | undefined {
  if (object.attributes['checksum'] !== undefined) return checksumOf(object);
  return object.crc32c === null ? undefined : { algorithm: 'CRC32C', type: 'FULL_OBJECT' };
}

function checksumHeaders(object: ObjectRecord): Record<string, string> {
  const checksum = checksumOf(object);
  if (checksum === undefined) return {};
  return {
    [checksumHeader(checksum.algorithm)]: checksum.value,
    'x-amz-checksum-type': checksum.type,
  };
}

export function formatChecksum({ algorithm, type, value }: Checksum): string {
  return `${algorithm} ${type} ${value}`;
}

export function storageClassOf(attributes: Attributes): string {
  return attributes[STORAGE_CLASS] ?? 'STANDARD';
}

export type Tag = readonly [key: string, value: string];

export function parseTags(attributes: Attributes): readonly Tag[] {
  const tagging = attributes['tagging'];
  return tagging === undefined ? [] : [...new URLSearchParams(tagging)];
}

export function withTags(attributes: Attributes, tags: readonly Tag[]): Attributes {
  const { tagging: _, ...rest } = attributes;
  return { ...rest, ...formatTags(tags) };
}

export function formatTags(tags: readonly Tag[]): Record<string, string> {
  if (tags.length === 0) return {};
  return { tagging: new URLSearchParams(tags.map(([key, value]) => [key, value])).toString() };
}

/** @throws {S3Error} `InvalidTag`, `BadRequest` for too many */
export function checkTags(tags: readonly Tag[]): void {
  if (tags.length > TAGS_MAX)
    throw new S3Error('BadRequest', `Object tags cannot be greater than ${TAGS_MAX}`);
  if (new Set(tags.map(([key]) => key)).size !== tags.length)
    throw new S3Error('InvalidTag', 'Cannot provide multiple Tags with the same key');
  for (const [key, value] of tags) {
    if (key === '' || key.length > 128 || !isXmlText(key))
      throw new S3Error('InvalidTag', 'The TagKey you have provided is invalid', { TagKey: key });
    if (value.length > 256 || !isXmlText(value))
      throw new S3Error('InvalidTag', 'The TagValue you have provided is invalid', { TagKey: key });
  }
}

export function formatParts(sizes: readonly number[]): Record<string, string> {
  const runs: string[] = [];
  for (let i = 0; i < sizes.length; ) {
    let end = i + 1;
    while (end < sizes.length && sizes[end] === sizes[i]) end++;
    runs.push(end - i === 1 ? String(sizes[i]) : `${sizes[i]}*${end - i}`);
    i = end;
  }
  const texts: string[] = [];
  for (const run of runs) {
    const last = texts.at(-1);
    if (last !== undefined && last.length + run.length < PARTS_TEXT_MAX)
      texts[texts.length - 1] = `${last},${run}`;
    else texts.push(run);
  }
  return Object.fromEntries(texts.map((part, i) => [i === 0 ? 'parts' : `parts.${i}`, part]));
}

/** The most parts whose sums are kept: each object of a listing carries them along. */
const PART_SUMS_MAX = 1000;

/** Checksums of the parts, in order, of the object's own algorithm. */
export function formatPartSums(sums: readonly string[]): Record<string, string> {
  const text = sums.join(',');
  return sums.length > PART_SUMS_MAX || text.length > PARTS_TEXT_MAX ? {} : { [PART_SUMS]: text };
}

/** Empty where they are not kept. */
export function parsePartSums(attributes: Attributes): readonly string[] {
  return attributes[PART_SUMS]?.split(',') ?? [];
}

/** Sizes in order; empty for an object that was put whole. */
export function parseParts(attributes: Attributes): readonly number[] {
  const sizes: number[] = [];
  for (let i = 0; ; i++) {
    const part = attributes[i === 0 ? 'parts' : `parts.${i}`];
    if (part === undefined) return sizes;
    for (const run of part.split(',')) {
      const [size, count = '1'] = run.split('*');
      for (let n = Number(count); n > 0; n--) sizes.push(Number(size));
    }
  }
}
