/** Multipart uploads: begun, filled, aborted and listed. How they lie in the store: uploads.ts. */
import type { ObjectRecord } from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import {
  checksumOf,
  DEFAULT_CONTENT_TYPE,
  formatChecksum,
  parseAttributes,
  parseMetadata,
  storageClassOf,
} from '../attributes.ts';
import { headerOf, integerParameter, parameter, type S3Call, sendEmpty, sendXml } from '../call.ts';
import { CHECKSUM_TYPES, checksumHeader, isCombinable, parseAlgorithm } from '../checksums.ts';
import { readEncoding } from '../listing.ts';
import { S3Error } from '../s3-error.ts';
import {
  allParts,
  allUploads,
  compareKeys,
  dropParts,
  findUpload,
  newUploadId,
  PARTS_MAX,
  partETag,
  partKey,
  rangeETag,
  type Upload,
  uploadKey,
} from '../uploads.ts';
import type { XmlElement } from '../xml.ts';
import { checksumElement, copyingFrom, copyResult, digestObject } from './copy-object.ts';
import { ownerElement } from './owner.ts';
import { storeBody } from './put-object.ts';

const PAGE = 1000;

export async function createMultipartUpload(call: S3Call): Promise<void> {
  const { request, context } = call;
  const { store, owner } = context;
  await store.getBucket(call.bucket);
  const checksum = askedChecksum(call);
  const uploadId = newUploadId();
  const attributes = {
    ...parseAttributes(request.headers),
    'upload-key': call.key,
    ...(checksum === undefined
      ? {}
      : { 'upload-checksum': `${checksum.algorithm} ${checksum.type}` }),
  };
  const staged = await store.stage(
    owner,
    { bucket: await store.uploadsOf(call.bucket), key: uploadKey(uploadId) },
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
  const asked = headerOf(call, 'x-amz-checksum-type')?.toUpperCase();
  if (name === undefined && asked !== undefined)
    throw new S3Error(
      'InvalidRequest',
      'The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.',
    );
  if (name === undefined) return undefined;
  const algorithm = parseAlgorithm(name);
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
  const { store, owner, partsInFlight } = call.context;
  const ref = { bucket: upload.bucket, key: partKey(upload, number) };
  let writeId: number | undefined;
  const options = {
    // What the upload declares, S3 computes where the client does not.
    ...(upload.checksum === undefined ? {} : { algorithm: upload.checksum.algorithm }),
    onStaged: (staged: number) => {
      writeId = staged;
      partsInFlight.add(upload, staged);
    },
  };
  try {
    const { committed, checksum } = await storeBody(
      call,
      ref,
      async (body) => {
        assertAlgorithm(upload, body.checksum?.algorithm);
        return await store.commit(owner, body.staged.writeId, {
          ...{
            sizeBytes: body.sizeBytes,
            crc32c: body.crc32c,
            blocks: body.blocks,
            requires: upload.record,
          },
          attributes:
            body.checksum === undefined ? {} : { checksum: formatChecksum(body.checksum) },
        });
      },
      options,
    );
    sendEmpty(call, 200, {
      etag: `"${partETag(committed.object)}"`,
      ...(checksum === undefined ? {} : { [checksumHeader(checksum.algorithm)]: checksum.value }),
    });
  } catch (error) {
    await assertStillThere(call, error);
    throw error;
  } finally {
    if (writeId !== undefined) partsInFlight.remove(upload, writeId);
  }
}

/** @throws {S3Error} `InvalidRequest` */
function assertAlgorithm({ checksum }: Upload, sent: string | undefined): void {
  if (checksum === undefined || sent === undefined || sent === checksum.algorithm) return;
  throw new S3Error(
    'InvalidRequest',
    `Checksum Type mismatch occurred, expected checksum Type: ${checksum.algorithm.toLowerCase()}, actual checksum Type: ${sent.toLowerCase()}`,
  );
}

/** A part fails when its upload ends before it: then that is what its sender is told. @throws {S3Error} `NoSuchUpload` */
async function assertStillThere(call: S3Call, error: unknown): Promise<void> {
  const codes = ['not_found', 'precondition_failed', 'write_not_found'] as const;
  if (codes.some((code) => isStoreError(error, code))) await findUpload(call);
}

export async function uploadPartCopy(call: S3Call): Promise<void> {
  const upload = await findUpload(call);
  const number = partNumber(call);
  try {
    const { object } = await copyingFrom(call, async (source) => {
      const range = copyRange(call, source.sizeBytes);
      const { offset, length } = range;
      const { bucket, key, version } = source;
      return await call.context.store.compose(
        { bucket: upload.bucket, key: partKey(upload, number) },
        [{ bucket, key, version, offset, length }],
        {
          requires: upload.record,
          attributes: {
            ...rangeETag(source, range),
            ...(await copiedChecksum(call, upload, source, range)),
          },
        },
      );
    });
    sendXml(call, 'CopyPartResult', copyResult({ ...object, etag: partETag(object) }));
  } catch (error) {
    await assertStillThere(call, error);
    throw error;
  }
}

/** What the upload declares, of the bytes that are copied: they are read for it where it is not known. */
async function copiedChecksum(
  call: S3Call,
  { checksum: declared }: Upload,
  source: ObjectRecord,
  { offset, length }: { readonly offset: number; readonly length: number },
): Promise<Record<string, string>> {
  if (declared === undefined) return {};
  const { algorithm } = declared;
  const isWhole = offset === 0 && length === source.sizeBytes;
  const known = isWhole ? checksumOf(source) : undefined;
  const isKnown = known?.algorithm === algorithm && known.type === 'FULL_OBJECT';
  const value = isKnown
    ? known.value
    : await digestObject(call, source, algorithm, { offset, length });
  return { checksum: formatChecksum({ algorithm, type: 'FULL_OBJECT', value }) };
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
      'InvalidRange',
      `Range specified is not valid for source object of size: ${sizeBytes}`,
      {
        ArgumentName: 'x-amz-copy-source-range',
        ArgumentValue: header,
      },
    );
  return { offset: Number(first), length: Number(last) - Number(first) + 1 };
}

export async function abortMultipartUpload(call: S3Call): Promise<void> {
  const upload = await findUpload(call);
  await call.context.store.delete({ bucket: upload.bucket, key: upload.record.key });
  await dropParts(call, upload);
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
    NextPartNumberMarker: last?.number ?? 0,
    MaxParts: maxParts,
    IsTruncated: later.length > shown.length,
    Part: shown.map(({ number, record }) => {
      const checksum = checksumOf(record);
      return {
        PartNumber: number,
        LastModified: new Date(record.createdAtMs).toISOString(),
        ETag: `"${partETag(record)}"`,
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
