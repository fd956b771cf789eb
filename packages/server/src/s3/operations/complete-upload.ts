/**
 * CompleteMultipartUpload.
 *
 * I1  Completing joins the parts' extents and takes the upload away in one step of the catalog: no byte is copied, and of
 *     two completions one finds no upload. It is told that the first succeeded, if the object is still the one it made.
 * I2  The largest list is read, checked and joined in several turns of the event loop; the parts' own names go afterwards, in
 *     batches (uploads.ts, I1). A part that is replaced in between has lost its blob, or shares it with who keeps it: the step
 *     fails, or joins the very bytes whose ETag the client listed.
 */
import { nextTurn, type ObjectRecord } from '@ebb/core';
import { HEADERS, isStoreError } from '@ebb/protocol';
import { parseWriteCondition } from '../../http/data/conditions.ts';
import { checksumOf, formatChecksum, formatPartSums, formatParts } from '../attributes.ts';
import { readUnsummedBody } from '../body.ts';
import { headerOf, locationOf, parameter, type S3Call, sendXml } from '../call.ts';
import {
  ALGORITHMS,
  type Algorithm,
  type Checksum,
  checksumHeader,
  combineCrcs,
  compositeChecksum,
  isCombinable,
  parseChecksumValue,
} from '../checksums.ts';
import { parseXml, type XmlReader } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';
import {
  allParts,
  dropParts,
  findUpload,
  isETagOf,
  PARTS_MAX,
  type Part,
  partETag,
  type Upload,
} from '../uploads.ts';
import { checksumElement } from './copy-object.ts';
import { assertTargetThere, parseAck } from './put-object.ts';
import { tellVersion } from './versions.ts';

const PART_BYTES_MIN = 5 * 1024 * 1024;
const XML_BYTES_MAX = 8 * 1024 * 1024;
/** What is told of a part: its number, its ETag, and a checksum of each algorithm; and itself. */
const ELEMENTS_MAX = PARTS_MAX * 10 + 1;
/** Parts that are looked at in one turn. */
const TURN_PARTS = 1000;
/** While parts are sent again beside the completion. */
const TRIES = 4;

export async function completeMultipartUpload(call: S3Call): Promise<void> {
  const listed = await readListedParts(await readUnsummedBody(call, XML_BYTES_MAX));
  for (let left = TRIES; ; left--) {
    const object = await completeOnce(call, listed);
    if (object !== undefined) return await sendCompleted(call, object);
    if (left === 1) throw new S3Error('OperationAborted');
  }
}

/** Undefined: a part changed under our hands. */
async function completeOnce(
  call: S3Call,
  listed: readonly ListedPart[],
): Promise<ObjectRecord | undefined> {
  const { store } = call.context;
  let upload: Upload;
  try {
    upload = await findUpload(call);
  } catch (error) {
    const isGone = error instanceof S3Error && error.code === 'NoSuchUpload';
    const made = isGone ? await findMade(call) : undefined;
    if (made === undefined) throw error;
    return made;
  }
  assertSummed(listed, upload);
  const parts = await chooseParts(listed, upload, await allParts(call, upload));
  const sizeBytes = parts.reduce((sum, { record }) => sum + record.sizeBytes, 0);
  assertAnnounced(call, upload, sizeBytes);
  const condition = parseWriteCondition(call.request.headers);
  await assertTargetThere(call, condition);
  const checksum = await joinedChecksum(call, upload, parts);
  const ack = parseAck(headerOf(call, HEADERS.ack));
  const {
    'upload-key': _key,
    'upload-checksum': _checksum,
    ...attributes
  } = upload.record.attributes;
  try {
    const { object, durability } = await store.compose(
      { bucket: call.bucket, key: call.key },
      [
        ...parts.map(({ record: known }) => {
          const { bucket, key, version } = known;
          return { bucket, key, version, known };
        }),
        {
          ...{ bucket: upload.bucket, key: upload.record.key, version: upload.record.version },
          consume: true,
        },
      ],
      {
        contentType: upload.record.contentType,
        metadata: upload.record.metadata,
        attributes: {
          ...attributes,
          ...formatParts(parts.map(({ record }) => record.sizeBytes)),
          ...partSums(upload, parts),
          'upload-id': upload.uploadId,
          ...(checksum === undefined ? {} : { checksum: formatChecksum(checksum) }),
        },
        ...(ack === undefined ? {} : { ack }),
        ...condition,
      },
    );
    call.response.setHeader(HEADERS.durability, durability);
    await dropParts(call, upload);
    return object;
  } catch (error) {
    if (isAboutUpload(error, upload)) return undefined;
    throw error;
  }
}

/** Not about the target, whose condition is the client's. */
function isAboutUpload(error: unknown, { bucket }: Upload): boolean {
  const isOvertaken =
    isStoreError(error, 'precondition_failed') || isStoreError(error, 'not_found');
  return isOvertaken && error.details['bucket'] === bucket;
}

/** What the upload declares, of each part, where all have it. */
function partSums({ checksum: declared }: Upload, parts: readonly Part[]): Record<string, string> {
  const sums = parts.flatMap(({ record }) => {
    const checksum = checksumOf(record);
    return checksum?.algorithm === declared?.algorithm ? [checksum?.value ?? ''] : [];
  });
  return declared !== undefined && sums.length === parts.length ? formatPartSums(sums) : {};
}

/** A composite checksum is made of those that the client knows. @throws {S3Error} `InvalidRequest` */
function assertSummed(listed: readonly ListedPart[], { checksum }: Upload): void {
  if (checksum?.type !== 'COMPOSITE') return;
  const without = listed.find(({ checksums }) => checksums.length === 0);
  if (without === undefined) return;
  const name = checksum.algorithm.toLowerCase();
  throw new S3Error(
    'InvalidRequest',
    `The upload was created using a ${name} checksum. The complete request must include the checksum for each part. It was missing for part ${without.number} in the request.`,
  );
}

/** The stored parts that the list names. @throws {S3Error} `InvalidPart`, `EntityTooSmall` */
async function chooseParts(
  listed: readonly ListedPart[],
  { uploadId }: Upload,
  all: readonly Part[],
): Promise<readonly Part[]> {
  const stored = new Map(all.map((part) => [part.number, part]));
  const parts: Part[] = [];
  for (const [i, wanted] of listed.entries()) {
    if (i % TURN_PARTS === TURN_PARTS - 1) await nextTurn();
    const part = stored.get(wanted.number);
    if (part === undefined || !isETagOf(wanted.etag, part.record))
      throw invalidPart(uploadId, wanted);
    const known = checksumOf(part.record);
    for (const [algorithm, value] of wanted.checksums)
      if (known?.algorithm !== algorithm || known.value !== value)
        throw invalidPart(uploadId, wanted);
    if (i < listed.length - 1 && part.record.sizeBytes < PART_BYTES_MIN)
      throw new S3Error('EntityTooSmall', undefined, {
        ProposedSize: part.record.sizeBytes,
        MinSizeAllowed: PART_BYTES_MIN,
        PartNumber: part.number,
        ETag: partETag(part.record),
      });
    parts.push(part);
  }
  return parts;
}

/** @throws {S3Error} `InvalidRequest` when the completion says another size, or type of checksum, than there is */
function assertAnnounced(call: S3Call, { checksum }: Upload, sizeBytes: number): void {
  const announced = headerOf(call, 'x-amz-mp-object-size');
  if (announced !== undefined && Number(announced) !== sizeBytes)
    throw new S3Error(
      'InvalidRequest',
      `The provided 'x-amz-mp-object-size' header value ${announced} does not match what was computed: ${sizeBytes}`,
    );
  const type = headerOf(call, 'x-amz-checksum-type')?.toUpperCase();
  if (type === undefined || checksum === undefined || type === checksum.type) return;
  throw new S3Error(
    'InvalidRequest',
    `The upload was created using the ${checksum.type} checksum mode. The complete request must use the same checksum mode.`,
  );
}

/** A completion whose answer was lost is sent again: by then the upload is gone, and the object names it. */
async function findMade(call: S3Call): Promise<ObjectRecord | undefined> {
  const found = await call.context.store.find({ bucket: call.bucket, key: call.key });
  const uploadId = parameter(call, 'uploadId');
  return found?.object.attributes['upload-id'] === uploadId ? found?.object : undefined;
}

async function sendCompleted(call: S3Call, object: ObjectRecord): Promise<void> {
  await tellVersion(call, object);
  const checksum = checksumOf(object);
  sendXml(call, 'CompleteMultipartUploadResult', {
    Location: locationOf(call, call.key),
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
    if (parts.length % TURN_PARTS === 0) await nextTurn();
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
  const sent = claimed === undefined ? undefined : headerOf(call, checksumHeader(claimed));
  // The number of parts may stand behind a composite one.
  if (claimed !== undefined && sent !== undefined)
    parseChecksumValue(claimed, sent.replace(/-\d+$/, ''));
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
      ? await combineCrcs(algorithm, each)
      : await compositeChecksum(
          algorithm,
          each.map(({ value }) => value),
        );
  if (sent !== undefined && sent !== joined.value && `${sent}-${parts.length}` !== joined.value)
    throw new S3Error(
      'BadDigest',
      `The ${algorithm} you specified did not match the calculated checksum.`,
    );
  return joined;
}
