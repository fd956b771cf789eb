/**
 * Keys of old versions in the hidden bucket `NAME!versions`, in an order that a listing can walk: by the key of the object,
 * in UTF-8 byte order, and within a key from the newest to the oldest. Persisted, keep stable.
 *
 *   escaped key + " v" + 12 hex digits of (2^48 - 1 - version)     a version
 *   escaped key + " n"                                             the null version, of which a key has one at most
 *
 * - The blank that ends a key sorts below every character of an escaped key: characters up to "!" are written as "!" and
 *   one of "0" to "Q", in their own order. So escaping keeps order and prefixes, and the result is printable where the key
 *   is, because it can become a name in tier 2.
 * - The null version stands before all others, whatever its age: it is found by one look, and who lists puts it in its place.
 */
import { assert } from '@ebb/protocol';
import { bucketOfVersions } from '../object-ref.ts';

export const VERSION_MAX = 2 ** 48 - 1;
const DIGITS = 12;
const NULL_TAIL = ' n';
const VERSION_TAIL = ' v';
const ESCAPE = '!';
/** Written for NUL; the 33 characters after it stand for U+0001 to "!". */
const ESCAPED_NUL = 0x30;

/** Keeps order and prefixes: also right for a prefix, or where a scan begins. */
export function escapeKey(key: string): string {
  return key.replaceAll(
    /[\0-!]/g,
    (character) => ESCAPE + String.fromCharCode(ESCAPED_NUL + character.charCodeAt(0)),
  );
}

export function nullVersionKey(key: string): string {
  return escapeKey(key) + NULL_TAIL;
}

export function versionKey(key: string, version: number): string {
  assert(version >= 0 && version <= VERSION_MAX, 'a version has at most 48 bits');
  const digits = (VERSION_MAX - version).toString(16).padStart(DIGITS, '0');
  return escapeKey(key) + VERSION_TAIL + digits;
}

/** What all versions of a key begin with, but the null version. */
export function versionKeyPrefix(key: string): string {
  return escapeKey(key) + VERSION_TAIL;
}

/** Where the versions of the keys after `key` begin. */
export function afterVersionsOf(key: string): string {
  return `${escapeKey(key)}${ESCAPE}`;
}

export function parseVersionKey(hidden: string): {
  readonly key: string;
  readonly version: number | 'null';
} {
  const end = hidden.lastIndexOf(' ');
  assert(end > 0, 'the key of a version has its end marked');
  const tail = hidden.slice(end);
  const digits = tail.slice(VERSION_TAIL.length);
  const version = tail === NULL_TAIL ? 'null' : VERSION_MAX - Number.parseInt(digits, 16);
  return { key: unescapeKey(hidden.slice(0, end)), version };
}

/** As S3 clients see it: opaque, and `null` for the null version. */
export function formatVersionId(version: number | 'null'): string {
  return version === 'null' ? version : version.toString(16).padStart(DIGITS, '0');
}

/** Undefined when it is no id of ours. */
export function parseVersionId(text: string): number | 'null' | undefined {
  if (text === 'null') return text;
  return /^[0-9a-f]{12}$/.test(text) ? Number.parseInt(text, 16) : undefined;
}

function unescapeKey(escaped: string): string {
  return escaped.replaceAll(/!(.)/g, (_, character: string) =>
    String.fromCharCode(character.charCodeAt(0) - ESCAPED_NUL),
  );
}

/** An object as people are told of it, an old version by its id. */
export function displayName({
  bucket,
  key,
}: {
  readonly bucket: string;
  readonly key: string;
}): string {
  const owner = bucketOfVersions(bucket);
  if (owner === undefined) return `${bucket}/${key}`;
  const { key: name, version } = parseVersionKey(key);
  return `${owner}/${name}?versionId=${formatVersionId(version)}`;
}
