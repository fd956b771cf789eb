/**
 * Multipart uploads. An upload and its parts are objects of the bucket's hidden uploads bucket, so they are stored, spilled,
 * checked and recovered like any other, and go by themselves when an upload is forgotten.
 *
 *   u/<uploadId>              the upload: its properties are those the object will have
 *   p/<uploadId>/<00001>      its parts
 *
 * I1  Completing joins the parts' extents and takes the upload away in one step of the catalog: no byte is copied, and of
 *     two completions one finds no upload. It is told that the first succeeded, if the object is still the one it made.
 */
import { randomBytes } from 'node:crypto';
import type { ObjectRecord } from '@ebb/core';
import { HEADERS } from '@ebb/protocol';
import { parseWriteCondition } from '../../http/data/conditions.ts';
import { schemeOf } from '../../http/foreign-request.ts';
import { nextTurn } from '../../next-turn.ts';
import {
  checksumOf,
  DEFAULT_CONTENT_TYPE,
  formatChecksum,
  formatParts,
  parseAttributes,
  parseMetadata,
  storageClassOf,
} from '../attributes.ts';
import { readUnsummedBody } from '../body.ts';
import { headerOf, integerParameter, parameter, type S3Call, sendEmpty, sendXml } from '../call.ts';
import {
  ALGORITHMS,
  type Algorithm,
  CHECKSUM_TYPES,
  type Checksum,
  type ChecksumType,
  checksumHeader,
  combineCrcs,
  compositeChecksum,
  isCombinable,
  parseAlgorithm,
} from '../checksums.ts';
import { readEncoding } from '../listing.ts';
import { parseXml, type XmlReader } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';
import type { XmlElement } from '../xml.ts';
import { checksumElement, copyResult, findCopySource } from './copy-object.ts';
import { ownerElement } from './owner.ts';
import { assertTargetThere, parseAck, storeBody } from './put-object.ts';
import { tellVersion } from './versions.ts';

const PARTS_MAX = 10_000;
const PART_BYTES_MIN = 5 * 1024 * 1024;
const XML_BYTES_MAX = 8 * 1024 * 1024;
/** Of a part: its number, its ETag, and a checksum of each algorithm; and itself. */
const ELEMENTS_MAX = PARTS_MAX * 10 + 1;
const PAGE = 1000;
/** Uploads under way in one bucket that a listing looks at. */
const UPLOADS_LISTED_MAX = 100_000;

interface Upload {
  readonly uploadId: string;
  readonly key: string;
  /** The hidden bucket. */
  readonly bucket: string;
  readonly record: ObjectRecord;
  readonly checksum: { readonly algorithm: Algorithm; readonly type: ChecksumType } | undefined;
}

interface Part {
  readonly number: number;
  readonly record: ObjectRecord;
}

export async function createMultipartUpload(call: S3Call): Promise<void> {
  const { request, context } = call;
  const { store, owner } = context;
  await store.getBucket(call.bucket);
  const checksum = askedChecksum(call);
  // Nothing that a command line takes for an option.
  const uploadId = randomBytes(18).toString('hex');
  const attributes = {
    ...parseAttributes(request.headers),
    'upload-key': call.key,
    ...(checksum === undefined
      ? {}
      : { 'upload-checksum': `${checksum.algorithm} ${checksum.type}` }),
  };
  const staged = await store.stage(
    owner,
    { bucket: await store.uploadsOf(call.bucket), key: `u/${uploadId}` },
    { reserveBytes: 0 },
  );
  await store.commit(owner, staged.writeId, {
    sizeBytes: 0,
    metadata: parseMetadata(request.headers),
    attributes,
    contentType: headerOf(call, 'content-type') || DEFAULT_CONTENT_TYPE,
  });
  if (checksum !== undefined) {
    call.response.setHeader('x-amz-checksum-algorithm', checksum.algorithm);
    call.response.setHeader('x-amz-checksum-type', checksum.type);
  }
  sendXml(call, 'InitiateMultipartUploadResult', {
    Bucket: call.bucket,
    Key: call.key,
    UploadId: uploadId,
  });
}

function askedChecksum(call: S3Call): Upload['checksum'] {
  const name = headerOf(call, 'x-amz-checksum-algorithm');
  if (name === undefined) return undefined;
  const algorithm = parseAlgorithm(name);
  const asked = headerOf(call, 'x-amz-checksum-type')?.toUpperCase();
  const type = CHECKSUM_TYPES.find(
    (known) => known === (asked ?? (algorithm === 'CRC64NVME' ? 'FULL_OBJECT' : 'COMPOSITE')),
  );
  const isPossible = type === 'FULL_OBJECT' ? isCombinable(algorithm) : algorithm !== 'CRC64NVME';
  if (type === undefined || !isPossible)
    throw new S3Error(
      'InvalidRequest',
      `The ${asked} checksum type cannot be used with the ${algorithm} checksum algorithm.`,
    );
  return { algorithm, type };
}

export async function uploadPart(call: S3Call): Promise<void> {
  const upload = await findUpload(call);
  const number = partNumber(call);
  const { store, owner } = call.context;
  const ref = { bucket: upload.bucket, key: partKey(upload, number) };
  const { committed, checksum } = await storeBody(call, ref, async (body) => {
    if (
      upload.checksum !== undefined &&
      body.checksum !== undefined &&
      body.checksum.algorithm !== upload.checksum.algorithm
    )
      throw new S3Error(
        'InvalidRequest',
        `Checksum Type mismatch occurred, expected checksum Type: ${upload.checksum.algorithm.toLowerCase()}, actual checksum Type: ${body.checksum.algorithm.toLowerCase()}`,
      );
    return await store.commit(owner, body.staged.writeId, {
      sizeBytes: body.sizeBytes,
      crc32c: body.crc32c,
      attributes: body.checksum === undefined ? {} : { checksum: formatChecksum(body.checksum) },
    });
  });
  sendEmpty(call, 200, {
    etag: `"${committed.object.etag}"`,
    ...(checksum === undefined ? {} : { [checksumHeader(checksum.algorithm)]: checksum.value }),
  });
}

export async function uploadPartCopy(call: S3Call): Promise<void> {
  const upload = await findUpload(call);
  const number = partNumber(call);
  const source = await findCopySource(call);
  const range = copyRange(call, source.sizeBytes);
  const { object } = await call.context.store.compose(
    { bucket: upload.bucket, key: partKey(upload, number) },
    [{ bucket: source.bucket, key: source.key, version: source.version, ...range }],
    {},
  );
  sendXml(call, 'CopyPartResult', copyResult(object));
}

function copyRange(
  call: S3Call,
  sizeBytes: number,
): { readonly offset: number; readonly length: number } {
  const header = headerOf(call, 'x-amz-copy-source-range');
  if (header === undefined) return { offset: 0, length: sizeBytes };
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(header) ?? [];
  if (first === undefined || last === undefined || Number(last) < Number(first))
    throw new S3Error(
      'InvalidArgument',
      'The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy',
      {
        ArgumentName: 'x-amz-copy-source-range',
        ArgumentValue: header,
      },
    );
  if (Number(last) >= sizeBytes)
    throw new S3Error(
      'InvalidArgument',
      `Range specified is not valid for source object of size: ${sizeBytes}`,
      {
        ArgumentName: 'x-amz-copy-source-range',
        ArgumentValue: header,
      },
    );
  return { offset: Number(first), length: Number(last) - Number(first) + 1 };
}

export async function completeMultipartUpload(call: S3Call): Promise<void> {
  const { store } = call.context;
  const listed = await readListedParts(await readUnsummedBody(call, XML_BYTES_MAX));
  const uploadId = parameter(call, 'uploadId') as string;
  let upload: Upload;
  try {
    upload = await findUpload(call);
  } catch (error) {
    if (
      error instanceof S3Error &&
      error.code === 'NoSuchUpload' &&
      (await answerAgain(call, uploadId))
    )
      return;
    throw error;
  }
  const stored = new Map((await allParts(call, upload)).map((part) => [part.number, part]));
  const parts = listed.map((wanted, i): Part => {
    const part = stored.get(wanted.number);
    if (part === undefined || part.record.etag !== wanted.etag) throw invalidPart(uploadId, wanted);
    const known = checksumOf(part.record);
    for (const [algorithm, value] of wanted.checksums)
      if (known?.algorithm === algorithm && known.value !== value)
        throw invalidPart(uploadId, wanted);
    if (i < listed.length - 1 && part.record.sizeBytes < PART_BYTES_MIN)
      throw new S3Error('EntityTooSmall', undefined, {
        ProposedSize: part.record.sizeBytes,
        MinSizeAllowed: PART_BYTES_MIN,
        PartNumber: part.number,
        ETag: part.record.etag,
      });
    return part;
  });
  const sizeBytes = parts.reduce((sum, { record }) => sum + record.sizeBytes, 0);
  const announced = headerOf(call, 'x-amz-mp-object-size');
  if (announced !== undefined && Number(announced) !== sizeBytes)
    throw new S3Error(
      'InvalidRequest',
      `The provided 'x-amz-mp-object-size' header value ${announced} does not match what was computed: ${sizeBytes}`,
    );
  assertChecksumType(call, upload);
  const condition = parseWriteCondition(call.request.headers);
  await assertTargetThere(call, condition);
  const checksum = await joinedChecksum(call, upload, parts);
  const ack = parseAck(headerOf(call, HEADERS.ack));
  const {
    'upload-key': _key,
    'upload-checksum': _checksum,
    ...attributes
  } = upload.record.attributes;
  const { object, durability } = await store.compose(
    { bucket: call.bucket, key: call.key },
    [
      ...parts.map(({ record: { bucket, key, version } }) => ({
        bucket,
        key,
        version,
        consume: true,
      })),
      {
        bucket: upload.bucket,
        key: upload.record.key,
        version: upload.record.version,
        consume: true,
      },
    ],
    {
      contentType: upload.record.contentType,
      metadata: upload.record.metadata,
      attributes: {
        ...attributes,
        ...formatParts(parts.map(({ record }) => record.sizeBytes)),
        'upload-id': uploadId,
        ...(checksum === undefined ? {} : { checksum: formatChecksum(checksum) }),
      },
      ...(ack === undefined ? {} : { ack }),
      ...condition,
    },
  );
  // Parts that were uploaded and are not in the list.
  if (stored.size > parts.length) await store.deletePrefix(upload.bucket, `p/${uploadId}/`);
  call.response.setHeader(HEADERS.durability, durability);
  await sendCompleted(call, object);
}

/** @throws {S3Error} `InvalidRequest` when the completion says another type than the beginning */
function assertChecksumType(call: S3Call, { checksum }: Upload): void {
  const said = headerOf(call, 'x-amz-checksum-type')?.toUpperCase();
  if (said === undefined || checksum === undefined || said === checksum.type) return;
  throw new S3Error(
    'InvalidRequest',
    `The upload was created using the ${checksum.type} checksum mode. The complete request must use the same checksum mode.`,
  );
}

/** A completion whose answer was lost is sent again: by then the upload is gone, and the object names it. */
async function answerAgain(call: S3Call, uploadId: string): Promise<boolean> {
  const found = await call.context.store.find({ bucket: call.bucket, key: call.key });
  if (found?.object.attributes['upload-id'] !== uploadId) return false;
  await sendCompleted(call, found.object);
  return true;
}

async function sendCompleted(call: S3Call, object: ObjectRecord): Promise<void> {
  await tellVersion(call, object);
  const checksum = checksumOf(object);
  const host = call.request.headers.host ?? 'localhost';
  sendXml(call, 'CompleteMultipartUploadResult', {
    Location: `${schemeOf(call.request)}://${host}/${call.bucket}/${encodeURIComponent(call.key).replaceAll('%2F', '/')}`,
    Bucket: call.bucket,
    Key: call.key,
    ETag: `"${object.etag}"`,
    ...(checksum === undefined
      ? {}
      : { [checksumElement(checksum.algorithm)]: checksum.value, ChecksumType: checksum.type }),
  });
}

interface ListedPart {
  readonly number: number;
  readonly etag: string;
  readonly checksums: readonly (readonly [Algorithm, string])[];
}

const CHECKSUM_ELEMENTS: ReadonlyMap<string, Algorithm> = new Map(
  ALGORITHMS.map((algorithm) => [checksumElement(algorithm), algorithm]),
);

async function readListedParts(xml: Uint8Array): Promise<readonly ListedPart[]> {
  const root = await parseXml(xml, 'CompleteMultipartUpload', { elementsMax: ELEMENTS_MAX });
  const elements = root.all('Part');
  if (elements.length === 0 || elements.length > PARTS_MAX) throw new S3Error('MalformedXML');
  const parts: ListedPart[] = [];
  for (const element of elements) {
    const part = readListedPart(element);
    const before = parts.at(-1);
    if (before !== undefined && part.number <= before.number) throw new S3Error('InvalidPartOrder');
    parts.push(part);
    if (parts.length % PAGE === 0) await nextTurn();
  }
  return parts;
}

/** @throws {S3Error} `MalformedXML` */
function readListedPart(part: XmlReader): ListedPart {
  const text = part.child('PartNumber').text().trim();
  if (!/^\d{1,10}$/.test(text)) throw new S3Error('MalformedXML');
  const checksums: [Algorithm, string][] = [];
  for (const { name } of part.elements) {
    const algorithm = CHECKSUM_ELEMENTS.get(name);
    if (algorithm !== undefined) checksums.push([algorithm, part.child(name).text().trim()]);
  }
  const etag = part.child('ETag').text().replaceAll('"', '').trim();
  return { number: Number(text), etag, checksums };
}

function invalidPart(uploadId: string, { number, etag }: ListedPart): S3Error {
  return new S3Error('InvalidPart', undefined, {
    UploadId: uploadId,
    PartNumber: number,
    ETag: etag,
  });
}

/** What the upload asked for, from its parts' checksums; checked against what the completion claims. */
async function joinedChecksum(
  call: S3Call,
  upload: Upload,
  parts: readonly Part[],
): Promise<Checksum | undefined> {
  const claimed = ALGORITHMS.find((name) => headerOf(call, checksumHeader(name)) !== undefined);
  const algorithm = upload.checksum?.algorithm ?? claimed;
  if (algorithm === undefined) return undefined;
  const values = parts.map(({ record }) => ({
    checksum: checksumOf(record),
    sizeBytes: record.sizeBytes,
  }));
  if (values.some(({ checksum }) => checksum?.algorithm !== algorithm)) {
    if (claimed === undefined) return undefined;
    throw new S3Error(
      'InvalidRequest',
      `The upload was created without the ${algorithm} checksum, so that of the whole cannot be checked.`,
    );
  }
  const each = values.map(({ checksum, sizeBytes }) => ({
    value: (checksum as Checksum).value,
    sizeBytes,
  }));
  const type = upload.checksum?.type ?? 'FULL_OBJECT';
  const joined =
    type === 'FULL_OBJECT' && isCombinable(algorithm)
      ? combineCrcs(algorithm, each)
      : await compositeChecksum(
          algorithm,
          each.map(({ value }) => value),
        );
  const sent = claimed === undefined ? undefined : headerOf(call, checksumHeader(claimed));
  if (sent !== undefined && sent !== joined.value && `${sent}-${parts.length}` !== joined.value)
    throw new S3Error(
      'BadDigest',
      `The ${algorithm} you specified did not match the calculated checksum.`,
    );
  return joined;
}

export async function abortMultipartUpload(call: S3Call): Promise<void> {
  const { bucket, record, uploadId } = await findUpload(call);
  const { store } = call.context;
  await store.delete({ bucket, key: record.key });
  await store.deletePrefix(bucket, `p/${uploadId}/`);
  sendEmpty(call, 204);
}

export async function listParts(call: S3Call): Promise<void> {
  const upload = await findUpload(call);
  const marker = integerParameter(call, 'part-number-marker', {
    otherwise: 0,
    min: 0,
    max: PARTS_MAX,
  });
  const maxParts = integerParameter(call, 'max-parts', { otherwise: PAGE, min: 0, max: PAGE });
  const later = (await allParts(call, upload)).filter(({ number }) => number > marker);
  const shown = later.slice(0, maxParts);
  const last = shown.at(-1);
  sendXml(call, 'ListPartsResult', {
    Bucket: call.bucket,
    Key: call.key,
    UploadId: upload.uploadId,
    Initiator: ownerElement(call),
    Owner: ownerElement(call),
    StorageClass: storageClassOf(upload.record.attributes),
    ...checksumElements(upload),
    PartNumberMarker: marker,
    ...(last === undefined ? {} : { NextPartNumberMarker: last.number }),
    MaxParts: maxParts,
    IsTruncated: later.length > shown.length,
    Part: shown.map(({ number, record }) => {
      const checksum = checksumOf(record);
      return {
        PartNumber: number,
        LastModified: new Date(record.createdAtMs).toISOString(),
        ETag: `"${record.etag}"`,
        Size: record.sizeBytes,
        ...(checksum === undefined
          ? {}
          : { [checksumElement(checksum.algorithm)]: checksum.value }),
      };
    }),
  });
}

export async function listMultipartUploads(call: S3Call): Promise<void> {
  const { store } = call.context;
  await store.getBucket(call.bucket);
  const prefix = parameter(call, 'prefix') ?? '';
  const delimiter = parameter(call, 'delimiter') ?? '';
  const keyMarker = parameter(call, 'key-marker') ?? '';
  const idMarker = parameter(call, 'upload-id-marker') ?? '';
  const { encode, encodingType } = readEncoding(call);
  const maxUploads = integerParameter(call, 'max-uploads', { otherwise: PAGE, min: 0, max: PAGE });
  // A common prefix that ended the page before was shown whole.
  const isRolledUp = delimiter !== '' && idMarker === '' && keyMarker.endsWith(delimiter);
  const uploads = (await allUploads(call)).filter(({ key, uploadId }) => {
    if (!key.startsWith(prefix) || (isRolledUp && key.startsWith(keyMarker))) return false;
    const order = compareKeys(key, keyMarker);
    return order > 0 || (order === 0 && idMarker !== '' && uploadId > idMarker);
  });
  const entries: { readonly upload?: Upload; readonly rolledUp?: string }[] = [];
  for (const upload of uploads) {
    const at = delimiter === '' ? -1 : upload.key.indexOf(delimiter, prefix.length);
    const rolledUp = at === -1 ? undefined : upload.key.slice(0, at + delimiter.length);
    if (rolledUp === undefined) entries.push({ upload });
    else if (entries.at(-1)?.rolledUp !== rolledUp) entries.push({ rolledUp });
  }
  const shown = entries.slice(0, maxUploads);
  const last = shown.at(-1);
  const isTruncated = entries.length > shown.length;
  sendXml(call, 'ListMultipartUploadsResult', {
    Bucket: call.bucket,
    KeyMarker: encode(keyMarker),
    UploadIdMarker: idMarker,
    ...(encodingType === undefined ? {} : { EncodingType: encodingType }),
    ...(isTruncated && last !== undefined
      ? {
          NextKeyMarker: encode(last.upload?.key ?? last.rolledUp ?? ''),
          NextUploadIdMarker: last.upload?.uploadId ?? '',
        }
      : {}),
    Prefix: encode(prefix),
    ...(delimiter === '' ? {} : { Delimiter: encode(delimiter) }),
    MaxUploads: maxUploads,
    IsTruncated: isTruncated,
    Upload: shown.flatMap(({ upload }) =>
      upload === undefined
        ? []
        : [
            {
              Key: encode(upload.key),
              UploadId: upload.uploadId,
              Initiator: ownerElement(call),
              Owner: ownerElement(call),
              StorageClass: storageClassOf(upload.record.attributes),
              Initiated: new Date(upload.record.createdAtMs).toISOString(),
              ...checksumElements(upload),
            },
          ],
    ),
    CommonPrefixes: shown.flatMap(({ rolledUp }) =>
      rolledUp === undefined ? [] : [{ Prefix: encode(rolledUp) }],
    ),
  });
}

function checksumElements({ checksum }: Upload): XmlElement {
  if (checksum === undefined) return {};
  return { ChecksumAlgorithm: checksum.algorithm, ChecksumType: checksum.type };
}

/** @throws {S3Error} `NoSuchUpload` */
async function findUpload(call: S3Call): Promise<Upload> {
  const { store } = call.context;
  const uploadId = parameter(call, 'uploadId') ?? '';
  await store.getBucket(call.bucket);
  if (/^[\w-]{1,100}$/.test(uploadId)) {
    const bucket = await store.uploadsOf(call.bucket);
    const found = await store.find({ bucket, key: `u/${uploadId}` });
    if (found !== undefined && found.object.attributes['upload-key'] === call.key)
      return toUpload(bucket, found.object);
  }
  throw new S3Error('NoSuchUpload', undefined, { UploadId: uploadId });
}

function toUpload(bucket: string, record: ObjectRecord): Upload {
  const [algorithm, type] = record.attributes['upload-checksum']?.split(' ') ?? [];
  return {
    uploadId: record.key.slice(2),
    key: record.attributes['upload-key'] as string,
    bucket,
    record,
    checksum:
      algorithm === undefined
        ? undefined
        : {
            algorithm: parseAlgorithm(algorithm),
            type: type === 'FULL_OBJECT' ? type : 'COMPOSITE',
          },
  };
}

async function allParts(call: S3Call, { bucket, uploadId }: Upload): Promise<readonly Part[]> {
  const records = await allRecords(call, bucket, `p/${uploadId}/`, PARTS_MAX);
  return records.map((record) => ({ number: Number(record.key.slice(-5)), record }));
}

/** In the order that S3 lists them: by key, then by id. */
async function allUploads(call: S3Call): Promise<readonly Upload[]> {
  const bucket = await call.context.store.uploadsOf(call.bucket);
  const records = await allRecords(call, bucket, 'u/', UPLOADS_LISTED_MAX);
  return records
    .map((record) => toUpload(bucket, record))
    .sort((a, b) => compareKeys(a.key, b.key) || (a.uploadId < b.uploadId ? -1 : 1));
}

/** As UTF-8, which is the order of every listing. */
function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

async function allRecords(
  call: S3Call,
  bucket: string,
  prefix: string,
  max: number,
): Promise<ObjectRecord[]> {
  const records: ObjectRecord[] = [];
  let startAfter = '';
  while (records.length < max) {
    const page = await call.context.store.list(bucket, {
      prefix,
      delimiter: '',
      startAfter,
      limit: PAGE,
    });
    records.push(...page.objects.map(({ object }) => object));
    if (page.next === null) break;
    startAfter = page.next;
  }
  return records;
}

function partKey({ uploadId }: Upload, number: number): string {
  return `p/${uploadId}/${String(number).padStart(5, '0')}`;
}

function partNumber(call: S3Call): number {
  const text = parameter(call, 'partNumber') ?? '';
  const number = Number(text);
  if (/^\d+$/.test(text) && number >= 1 && number <= PARTS_MAX) return number;
  throw new S3Error(
    'InvalidArgument',
    `Part number must be an integer between 1 and ${PARTS_MAX}, inclusive`,
    {
      ArgumentName: 'partNumber',
      ArgumentValue: text,
    },
  );
}
