/** Where an endpoint does not do what S3 does, by the name of the case. A case that holds after all makes its test fail. */

export const EBB: Readonly<Record<string, string>> = {
  'Keys: a segment .. is part of the name':
    'clients and directories resolve such segments, so the key is refused with InvalidArgument',
};

const ALGORITHMS = ['CRC32', 'CRC32C', 'CRC64NVME', 'SHA1', 'SHA256'];

/** As of RELEASE 2026-02; what it says instead. */
export const MINIO: Readonly<Record<string, string>> = {
  'CreateBucket: a name with a reserved prefix is invalid': 'reserved prefixes are taken',
  'HeadBucket: the answer names the region': 'no region',
  'ListBuckets: a prefix chooses': 'the prefix is ignored',
  'ListBuckets: pages of MaxBuckets': 'all come at once',
  'PutBucketAcl: public is refused where ACLs are disabled, as they are by default':
    'NotImplemented',
  ...named(['"a//b"', '"a///"'], 'XMinioInvalidObjectName', key),
  ...named(['"kkkkkkkkkk… of 1024 bytes"', '"éééééééééé… of 1024 bytes"'], 'file names', key),
  ...named(['"/leading slash"', '"//"'], 'no leading slashes', key),
  'Keys: a segment .. is part of the name': 'XMinioInvalidResourceName',
  'Keys: bytes that are no UTF-8 are refused': 'AccessDenied, since it is not signed',
  'PutObject: WebsiteRedirectLocation is kept': 'it is dropped',
  'PutObject: a public ACL is refused where ACLs are disabled': 'it is ignored',
  'PutObjectAcl: public, by a word, a header or a document, is refused where ACLs are disabled':
    'NotImplemented',
  'PutObjectAcl: a document that is none, and a word that S3 has not': 'MalformedXML',
  'Authorization: a header and a link at once are one too many': 'InvalidRequest',
  'GetObjectAttributes: what is asked for, and no more': 'lists with blanks are not read',
  'GetObject: Range bytes=5-2 is none, and ignored': 'InvalidRange',
  ...named(
    [
      'DeleteObject: If-Match deletes that version, and no other',
      'DeleteObject: If-Match * needs an object',
      'DeleteObjects: an ETag is a condition on that object',
    ],
    'conditions on deletions are ignored',
  ),
  'CopyObject: copy-source-if-match that holds over if-unmodified-since that does not gives none':
    'both must hold',
  ...named(
    [
      'CopyObject: If-None-Match * makes a new object, once',
      'CopyObject: If-Match replaces that version, and no other',
    ],
    'conditions on the target of a copy are ignored',
  ),
  ...named(
    [
      'ListObjectsV2: pages of 1 with a delimiter give each name once',
      'ListObjects: with a delimiter the next marker is told',
    ],
    'the list ends early behind a directory with an object of its own name',
  ),
  'ListObjectsV2: at most a thousand keys a page': 'the answer repeats what was asked',
  'ListObjectsV2: max-keys=99999999999 is invalid': 'it is taken',
  'CompleteMultipartUpload: asked again, it succeeds again': 'NoSuchUpload',
  'CompleteMultipartUpload: parts in the wrong order, or one twice': 'one twice is taken',
  'CompleteMultipartUpload: a list of nothing is malformed': 'InvalidRequest',
  'CompleteMultipartUpload: a size that was announced is checked': 'it is ignored',
  ...named(['0', '-1'], 'InvalidPart', (number) => `UploadPart: ${number} is no part number`),
  'AbortMultipartUpload: 204, and the upload is gone': 'a second abort is 204',
  ...named(
    [
      'ListMultipartUploads: those under way, by key, in pages',
      'ListMultipartUploads: a delimiter rolls up, over pages too',
      'ListMultipartUploads: names are encoded on demand',
    ],
    'only uploads of a whole key are listed',
  ),
  ...named(
    ALGORITHMS,
    'XAmzContentChecksumMismatch',
    (name) => `PutObject: a wrong ${name} leaves nothing`,
  ),
  ...named(ALGORITHMS, 'InvalidArgument', (name) => `PutObject: a ${name} that is none is invalid`),
  'PutObject: a wrong checksum in the trailer leaves nothing': 'XAmzContentChecksumMismatch',
  'PutObject: two checksums are one too many': 'InvalidArgument',
  'CreateMultipartUpload: SHA256 of the whole cannot be had from parts': 'InvalidArgument',
  'CreateMultipartUpload: CRC64NVME of parts is none': 'it is taken',
  ...named(
    ['SHA512', 'MD5'].flatMap((name) => [
      `PutObject: a right ${name} is kept, and told when it is asked for`,
      `PutObject: a wrong ${name} leaves nothing`,
      `PutObject: a ${name} that is none is invalid`,
      `GetObjectAttributes: the ${name} of an object`,
    ]),
    'the algorithm is ignored',
  ),
  'CopyObject: a checksum of another algorithm is computed when it is asked for': 'it is not',
  'CompleteMultipartUpload: another type of checksum than the upload was begun with': 'it is taken',
  'UploadPart: a checksum of another algorithm than the upload was begun with': 'InvalidArgument',
  'CompleteMultipartUpload: a wrong checksum of the whole leaves the upload':
    'XAmzContentChecksumMismatch',
  'Authorization: an x-amz header that is not signed is denied': 'it is taken',
  'Authorization: version 2 is not supported': 'AccessDenied',
  'Authorization: a header without its parts is malformed': '403',
  'Links: take no x-amz header that they do not bind': 'it is taken',
  'Chunks: a body without its last chunk is incomplete, and leaves nothing': 'it is taken',
  'Errors: a document with code, message, resource and request, as XML':
    'the resource is not encoded',
  'Errors: a method that the resource has not': 'BadRequest',
  'Errors: a length that is missing': 'BadRequest',
  'DeleteObjects: a wrong Content-MD5 deletes nothing': 'another error',
  'Cors: rules are set, read, answered by, and deleted': 'NotImplemented',
};

function key(shown: string): string {
  return `Keys: ${shown} is put, read, listed, copied and deleted`;
}

function named(
  cases: readonly string[],
  reason: string,
  nameOf: (text: string) => string = (text) => text,
): Record<string, string> {
  return Object.fromEntries(cases.map((text) => [nameOf(text), reason]));
}
