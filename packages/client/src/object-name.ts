/** Object names as people write them: `ebb://bucket/key`, or `bucket/key` where nothing else can be meant. */
import { StoreError } from '@ebb/protocol';

export interface ObjectName {
  readonly bucket: string;
  /** '' when only a bucket was named. */
  readonly key: string;
}

const SCHEME = 'ebb://';

export function isObjectUrl(text: string): boolean {
  return text.startsWith(SCHEME);
}

/** Splits, and checks no more than that there is a bucket: which names are allowed is the node's rule. @throws `name_invalid` */
export function parseObjectName(text: string): ObjectName {
  const name = isObjectUrl(text) ? text.slice(SCHEME.length) : text;
  const slash = name.indexOf('/');
  const bucket = slash === -1 ? name : name.slice(0, slash);
  if (bucket === '') {
    throw new StoreError(
      'name_invalid',
      `"${text}" names no bucket; write ebb://bucket/key or bucket/key`,
    );
  }
  return { bucket, key: slash === -1 ? '' : name.slice(slash + 1) };
}

/** As parseObjectName, for places that need one object. @throws `name_invalid` */
export function parseObjectKey(text: string): ObjectName {
  const name = parseObjectName(text);
  if (name.key === '') {
    throw new StoreError(
      'name_invalid',
      `"${text}" names a bucket, not an object; write ${SCHEME}${name.bucket}/key`,
    );
  }
  return name;
}

export function formatObjectName(name: ObjectName): string {
  return `${SCHEME}${name.bucket}/${name.key}`;
}

/** The prefix that means "everything under this name": `a` and `a/` are both `a/`, so that `ab` is never touched. */
export function toPrefix(key: string): string {
  return key === '' || key.endsWith('/') ? key : `${key}/`;
}
