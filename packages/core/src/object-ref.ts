/**
 * Names that come from outside, checked once at the entrance. What S3 accepts is accepted, with these exceptions:
 *
 * - A key has no `.` or `..` segment. Tier 2 can be a directory, where `a/../b` is another object's file, and URL parsers
 *   in browsers, curl and the JDK resolve such segments before the request is sent: the object would be written under one
 *   name and sought under another. Empty segments (`a//b`, `a/`) are ordinary: S3 tools use them, and a tier that
 *   cannot store such a name says so (`RemoteTier.accepts`) and gets another one.
 * - A key does not begin with `.ebb/`: tier 2 keeps blobs there whose own name it cannot take.
 * - A key is well-formed Unicode without NUL: it is stored and ordered as UTF-8, and a lone surrogate has no UTF-8.
 */
import { StoreError } from '@ebb/protocol';

/** Of a key in UTF-8, as S3 has it. */
export const KEY_BYTES_MAX = 1024;
const JOB_ID_CHARS_MAX = 128;

/** Of the bucket that holds parts of uploads, and of the one that holds old versions: no names that a user can give. */
const UPLOADS_SUFFIX = '!uploads';
const VERSIONS_SUFFIX = '!versions';

/** The hidden bucket with the uploads into `bucket`. */
export function uploadsBucketOf(bucket: string): string {
  return bucket + UPLOADS_SUFFIX;
}

/** The hidden bucket with the old versions and delete markers of `bucket`. */
export function versionsBucketOf(bucket: string): string {
  return bucket + VERSIONS_SUFFIX;
}

/** The bucket whose old versions `name` holds; undefined when it is another kind of bucket. */
export function bucketOfVersions(name: string): string | undefined {
  return name.endsWith(VERSIONS_SUFFIX) ? name.slice(0, -VERSIONS_SUFFIX.length) : undefined;
}

export function isHiddenBucket(name: string): boolean {
  return name.endsWith(UPLOADS_SUFFIX) || name.endsWith(VERSIONS_SUFFIX);
}

/** @throws {StoreError} `name_invalid` */
export function parseBucketName(name: string): string {
  const problem = bucketNameProblem(name);
  if (problem !== undefined) throw invalid('bucket name', name, problem);
  return name;
}

/**
 * Hidden buckets of uploads pass: they are read and written like any other. Those of versions do not: the catalog alone
 * writes there.
 * @throws {StoreError} `name_invalid`
 */
export function parseAnyBucketName(name: string): string {
  parseBucketName(name.endsWith(UPLOADS_SUFFIX) ? name.slice(0, -UPLOADS_SUFFIX.length) : name);
  return name;
}

/** @throws {StoreError} `name_invalid` */
export function parseKey(key: string): string {
  const problem = keyProblem(key);
  if (problem !== undefined) throw invalid('key', key, problem);
  return key;
}

/** @throws {StoreError} `name_invalid` */
export function parseJobId(jobId: string): string {
  const problem = jobIdProblem(jobId);
  if (problem !== undefined) throw invalid('job id', jobId, problem);
  return jobId;
}

/** The rule that a key breaks and what to do, or undefined. */
export function keyProblem(key: string): string | undefined {
  if (key === '') return 'is empty; give the object a name';
  const bytes = Buffer.byteLength(key);
  if (bytes > KEY_BYTES_MAX) {
    return `has ${bytes} bytes in UTF-8, at most ${KEY_BYTES_MAX} are allowed; shorten it`;
  }
  if (!key.isWellFormed()) return 'has a lone surrogate, so it is not UTF-8; encode the name first';
  if (key.includes('\0')) return 'contains a NUL character; remove it';
  // Most keys have no dot at the start of a segment: one search settles that.
  if (!DOT_AT_SEGMENT_START.test(key)) return undefined;
  for (const segment of key.split('/')) {
    if (segment === '.' || segment === '..') {
      return `has the path segment "${segment}", which clients and directories resolve to another name; resolve it before you send it`;
    }
  }
  if (key.startsWith('.ebb/')) {
    return 'begins with ".ebb/", which Ebb keeps for itself; choose another prefix';
  }
  return undefined;
}

const DOT_AT_SEGMENT_START = /(?:^|\/)\./;
const BUCKET_CHARACTERS = /^[a-z0-9.-]+$/;
const IP_ADDRESS = /^\d{1,3}(?:\.\d{1,3}){3}$/;
/** S3 gives these names a meaning, and SDKs act on it before any request is sent. */
const RESERVED_BUCKET_PREFIXES = ['xn--', 'sthree-', 'amzn-s3-demo-'];
const RESERVED_BUCKET_SUFFIXES = ['-s3alias', '--ol-s3', '.mrap', '--x-s3', '--table-s3'];

function bucketNameProblem(name: string): string | undefined {
  if (name.length < 3 || name.length > 63) {
    return `has ${name.length} character${name.length === 1 ? '' : 's'}; use 3 to 63`;
  }
  if (!BUCKET_CHARACTERS.test(name)) {
    return 'may have lowercase letters, digits, dots and hyphens only; replace the others';
  }
  if (!isLetterOrDigit(name.charAt(0)) || !isLetterOrDigit(name.charAt(name.length - 1))) {
    return 'must begin and end with a letter or digit; change its ends';
  }
  if (name.includes('..')) return 'has two dots in a row; use one';
  if (IP_ADDRESS.test(name)) return 'looks like an IP address; add a letter';
  const prefix = RESERVED_BUCKET_PREFIXES.find((reserved) => name.startsWith(reserved));
  if (prefix !== undefined) return `begins with "${prefix}", which S3 reserves; choose another`;
  const suffix = RESERVED_BUCKET_SUFFIXES.find((reserved) => name.endsWith(reserved));
  if (suffix !== undefined) return `ends with "${suffix}", which S3 reserves; choose another`;
  return undefined;
}

/** Job ids stand in paths, in labels of metrics and in keys, so they need no escaping anywhere. */
function jobIdProblem(jobId: string): string | undefined {
  if (jobId === '') return 'is empty; use the id your framework gives the run';
  if (jobId.length > JOB_ID_CHARS_MAX) {
    return `has ${jobId.length} characters, at most ${JOB_ID_CHARS_MAX} are allowed; shorten it`;
  }
  if (!/^[A-Za-z0-9._:-]+$/.test(jobId)) {
    return 'may have letters, digits, ".", "_", ":" and "-" only; replace the others';
  }
  if (!/^[A-Za-z0-9]/.test(jobId)) return 'must begin with a letter or digit; put one in front';
  return undefined;
}

function isLetterOrDigit(character: string): boolean {
  return character !== '.' && character !== '-';
}

function invalid(what: string, name: string, problem: string): StoreError {
  const shown = JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name);
  return new StoreError('name_invalid', `${what} ${shown} ${problem}.`, { what, name: shown });
}
