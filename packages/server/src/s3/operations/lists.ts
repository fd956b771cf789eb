/** ListObjects, version 1 and 2. All versions are listed by versions.ts. */
import type { ObjectRecord } from '@ebb/core';
import { checksumKindOf, storageClassOf } from '../attributes.ts';
import { integerParameter, parameter, type S3Call, sendXml } from '../call.ts';
import { decodeToken, encodeToken, type NameEncoding, readEncoding } from '../listing.ts';
import type { XmlElement } from '../xml.ts';
import { ownerElement } from './owner.ts';

const KEYS_MAX = 1000;

interface Asked extends NameEncoding {
  readonly prefix: string;
  readonly delimiter: string;
  readonly maxKeys: number;
}

export function readAsked(call: S3Call): Asked {
  return {
    ...readEncoding(call),
    prefix: parameter(call, 'prefix') ?? '',
    delimiter: parameter(call, 'delimiter') ?? '',
    maxKeys: integerParameter(call, 'max-keys', { otherwise: KEYS_MAX, min: 0, max: KEYS_MAX }),
  };
}

export async function listObjects(call: S3Call): Promise<void> {
  const asked = readAsked(call);
  const marker = parameter(call, 'marker') ?? '';
  const page = await list(call, asked, marker);
  sendXml(call, 'ListBucketResult', {
    ...commonElements(call, asked, page),
    Marker: asked.encode(marker),
    ...(page.next === null ? {} : { NextMarker: asked.encode(page.next) }),
    Contents: page.objects.map((object) => contents(call, object, asked.encode, { owner: true })),
  });
}

export async function listObjectsV2(call: S3Call): Promise<void> {
  const asked = readAsked(call);
  const token = parameter(call, 'continuation-token');
  const startAfter = parameter(call, 'start-after') ?? '';
  const owner = parameter(call, 'fetch-owner') === 'true';
  const page = await list(
    call,
    asked,
    token === undefined || token === '' ? startAfter : decodeToken(token),
  );
  sendXml(call, 'ListBucketResult', {
    ...commonElements(call, asked, page),
    ...(token === undefined ? {} : { ContinuationToken: token }),
    ...(page.next === null ? {} : { NextContinuationToken: encodeToken(page.next) }),
    KeyCount: page.objects.length + page.prefixes.length,
    ...(startAfter === '' ? {} : { StartAfter: asked.encode(startAfter) }),
    Contents: page.objects.map((object) => contents(call, object, asked.encode, { owner })),
  });
}

type Page = Awaited<ReturnType<S3Call['context']['store']['listRecords']>>;

/** What all have. The order of elements has no meaning. */
export function commonElements(
  call: S3Call,
  { prefix, delimiter, maxKeys, encode, encodingType }: Asked,
  page: Pick<Page, 'prefixes'> & { readonly next: unknown },
): XmlElement {
  return {
    Name: call.bucket,
    Prefix: encode(prefix),
    MaxKeys: maxKeys,
    ...(delimiter === '' ? {} : { Delimiter: encode(delimiter) }),
    ...(encodingType === undefined ? {} : { EncodingType: encodingType }),
    IsTruncated: page.next !== null,
    CommonPrefixes: page.prefixes.map((name) => ({ Prefix: encode(name) })),
  };
}

async function list(call: S3Call, asked: Asked, startAfter: string): Promise<Page> {
  const { store } = call.context;
  await store.getBucket(call.bucket);
  const { prefix, delimiter, maxKeys } = asked;
  return await store.listRecords(call.bucket, { prefix, delimiter, startAfter, limit: maxKeys });
}

export function contents(
  call: S3Call,
  object: ObjectRecord,
  encode: (name: string) => string,
  { owner }: { readonly owner: boolean },
): XmlElement {
  const checksum = checksumKindOf(object);
  return {
    Key: encode(object.key),
    LastModified: new Date(object.createdAtMs).toISOString(),
    ETag: `"${object.etag}"`,
    ...(checksum === undefined
      ? {}
      : { ChecksumAlgorithm: checksum.algorithm, ChecksumType: checksum.type }),
    Size: object.sizeBytes,
    StorageClass: storageClassOf(object.attributes),
    ...(owner ? { Owner: ownerElement(call) } : {}),
  };
}
