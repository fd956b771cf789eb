/**
 * Names of tier 2 (`bucket/key`) and the keys of the S3 bucket that they lie under, both ways.
 *
 * I1  Two names never have the same key, and a key leads back to its name.
 * I2  No name leads out of the prefix: one with a `.` or `..` segment has no key, since what lies between us and the store
 *     may take such a path for another one.
 *
 * `accepts` is narrower than what AWS takes. Other stores refuse empty segments and segments above 255 bytes; placement then
 * takes a private name. What others stored under such keys is listed and read all the same.
 */
import { StoreError } from '@ebb/protocol';
import { REMOTE_SEGMENT_BYTES_MAX, S3_KEY_BYTES_MAX } from '../../limits.ts';

/** Which part of a name `bucket/key` is the key in the S3 bucket. */
export type S3Layout = 'bucket/key' | 'key';

export interface S3Names {
  /** Undefined for a name that nothing can lie under. */
  findKey(name: string): string | undefined;
  accepts(name: string): boolean;
  /**
   * What to list for all names that start with `prefix`; undefined when there can be none.
   * @throws `unsupported` when the layout holds no bucket, and neither does `prefix`.
   */
  findListing(prefix: string): S3Listing | undefined;
}

interface S3Listing {
  readonly keyPrefix: string;
  /** Undefined for a key that is none of ours, or whose name does not start with the prefix. */
  findName(key: string): string | undefined;
}

export interface S3NamesOptions {
  readonly prefix: string;
  readonly layout: S3Layout;
  /** With layout `key`: the only bucket of the tier. Names of others are not accepted and not found. */
  readonly bucket?: string;
}

export function createS3Names({ prefix, layout, bucket: onlyBucket }: S3NamesOptions): S3Names {
  const root = prefix === '' ? '' : `${prefix}/`;
  const isServed = (bucket: string): boolean => onlyBucket === undefined || bucket === onlyBucket;

  const findKey = (name: string): string | undefined => {
    const slash = name.indexOf('/');
    const [bucket, key] = [name.slice(0, Math.max(slash, 0)), name.slice(slash + 1)];
    if (bucket === '' || key === '' || !isServed(bucket) || !isPlain(name)) return undefined;
    return root + (layout === 'key' ? key : name);
  };

  const listing = (keyPrefix: string, nameRoot: string, wanted: string): S3Listing => ({
    keyPrefix: root + keyPrefix,
    findName: (key) => {
      if (!key.startsWith(root)) return undefined;
      const name = nameRoot + key.slice(root.length);
      return name.startsWith(wanted) && findKey(name) === key ? name : undefined;
    },
  });

  return {
    findKey,
    accepts: (name) => {
      const key = findKey(name);
      return (
        key !== undefined &&
        Buffer.byteLength(key) <= S3_KEY_BYTES_MAX &&
        !/[\0-\x1f\x7f]/.test(name) &&
        name.split('/').every(isAcceptedSegment)
      );
    },
    findListing: (wanted) => {
      if (layout === 'bucket/key') return listing(wanted, '', wanted);
      const slash = wanted.indexOf('/');
      if (slash === -1) {
        if (onlyBucket === undefined) {
          const message = 'a tier that holds keys without their bucket lists by bucket only';
          throw new StoreError('unsupported', message, { prefix: wanted });
        }
        return onlyBucket.startsWith(wanted) ? listing('', `${onlyBucket}/`, wanted) : undefined;
      }
      const bucket = wanted.slice(0, slash);
      if (!isServed(bucket)) return undefined;
      return listing(wanted.slice(slash + 1), `${bucket}/`, wanted);
    },
  };
}

/** A lone surrogate would be sent as U+FFFD, and two names become one. */
function isPlain(name: string): boolean {
  if (!name.isWellFormed() || name.includes('\0')) return false;
  return name.split('/').every((segment) => segment !== '.' && segment !== '..');
}

function isAcceptedSegment(segment: string): boolean {
  return segment !== '' && Buffer.byteLength(segment) <= REMOTE_SEGMENT_BYTES_MAX;
}
