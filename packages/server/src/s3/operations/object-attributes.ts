/** GetObjectAttributes: what `x-amz-object-attributes` asks for, of one object. */
import type { ObjectRecord } from '@ebb/core';
import { checksumOf, parsePartSums, parseParts, storageClassOf } from '../attributes.ts';
import { headerOf, type S3Call, sendXml } from '../call.ts';
import { S3Error } from '../s3-error.ts';
import type { XmlElement } from '../xml.ts';
import { checksumElement } from './copy-object.ts';
import { headNamed } from './versions.ts';

const NAMES = ['ETag', 'Checksum', 'ObjectParts', 'StorageClass', 'ObjectSize'] as const;
type Name = (typeof NAMES)[number];
const PARTS_PAGE = 1000;

export async function getObjectAttributes(call: S3Call): Promise<void> {
  const asked = askedNames(call);
  const object = await headNamed(call);
  call.response.setHeader('last-modified', new Date(object.createdAtMs).toUTCString());
  const elements: Record<Name, () => XmlElement> = {
    ETag: () => ({ ETag: object.etag }),
    Checksum: () => checksumElements(object),
    ObjectParts: () => partElements(call, object),
    StorageClass: () => ({ StorageClass: storageClassOf(object.attributes) }),
    ObjectSize: () => ({ ObjectSize: object.sizeBytes }),
  };
  const found = NAMES.filter((name) => asked.has(name)).map((name) => elements[name]());
  sendXml(call, 'GetObjectAttributesResponse', Object.assign({}, ...found) as XmlElement);
}

function askedNames(call: S3Call): ReadonlySet<string> {
  const header = headerOf(call, 'x-amz-object-attributes') ?? '';
  const asked = new Set(header.split(',').map((name) => name.trim()));
  for (const name of asked)
    if (!NAMES.includes(name as Name))
      throw new S3Error('InvalidArgument', 'Invalid attribute name specified.', {
        ArgumentName: 'x-amz-object-attributes',
        ArgumentValue: name,
      });
  return asked;
}

function checksumElements(object: ObjectRecord): XmlElement {
  const checksum = checksumOf(object);
  if (checksum === undefined) return {};
  const { algorithm, type, value } = checksum;
  return { Checksum: { [checksumElement(algorithm)]: value, ChecksumType: type } };
}

/** Only of an object that was uploaded in parts. */
function partElements(call: S3Call, object: ObjectRecord): XmlElement {
  const sizes = parseParts(object.attributes);
  if (sizes.length === 0) return {};
  const number = (name: string, otherwise: number): number => {
    const value = Number(headerOf(call, name) ?? otherwise);
    if (Number.isInteger(value) && value >= 0) return value;
    throw new S3Error('InvalidArgument', `${name} must be a whole number`, { ArgumentName: name });
  };
  const marker = number('x-amz-part-number-marker', 0);
  const maxParts = Math.min(number('x-amz-max-parts', PARTS_PAGE), PARTS_PAGE);
  const shown = sizes.slice(marker, marker + maxParts);
  const sums = parsePartSums(object.attributes).slice(marker, marker + maxParts);
  const sumOf = (i: number): XmlElement => {
    const algorithm = checksumOf(object)?.algorithm;
    return sums[i] === undefined || algorithm === undefined
      ? {}
      : { [checksumElement(algorithm)]: sums[i] };
  };
  return {
    ObjectParts: {
      PartsCount: sizes.length,
      PartNumberMarker: marker,
      NextPartNumberMarker: marker + shown.length,
      MaxParts: maxParts,
      IsTruncated: marker + shown.length < sizes.length,
      Part: shown.map((Size, i) => ({ PartNumber: marker + i + 1, Size, ...sumOf(i) })),
    },
  };
}
