/**
 * `Range: bytes=…` with one range (RFC 9110, 14). A header that is malformed, of another unit, or with several ranges is
 * ignored, as the RFC allows: the answer is the whole object with 200.
 */
export type ByteRange =
  | { readonly kind: 'whole' }
  /** `end` is exclusive. */
  | { readonly kind: 'part'; readonly start: number; readonly end: number }
  | { readonly kind: 'unsatisfiable' };

const WHOLE: ByteRange = { kind: 'whole' };
const UNSATISFIABLE: ByteRange = { kind: 'unsatisfiable' };

export function parseRange(header: string | undefined, sizeBytes: number): ByteRange {
  if (header === undefined) return WHOLE;
  const match = /^bytes=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(header);
  if (match === null) return WHOLE;
  const [first, last] = [match[1] as string, match[2] as string];
  if (first === '') {
    if (last === '') return WHOLE;
    const suffixBytes = Number(last);
    if (suffixBytes === 0 || sizeBytes === 0) return UNSATISFIABLE;
    return { kind: 'part', start: Math.max(0, sizeBytes - suffixBytes), end: sizeBytes };
  }
  const start = Number(first);
  if (last !== '' && Number(last) < start) return WHOLE;
  if (start >= sizeBytes) return UNSATISFIABLE;
  const end = last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  return { kind: 'part', start, end };
}
