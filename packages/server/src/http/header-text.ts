/** Header values are UTF-8 on the wire; Node hands their bytes over, and takes them, as Latin-1. */

/** Several values of one header are joined by commas. */
export function decodeHeader(header: string): string;
export function decodeHeader(header: string | string[] | undefined): string | undefined;
export function decodeHeader(header: string | string[] | undefined): string | undefined {
  const joined = Array.isArray(header) ? header.join(',') : header;
  if (joined === undefined || !/[\x80-\xff]/.test(joined)) return joined;
  return Buffer.from(joined, 'latin1').toString('utf8');
}

/** Control characters, which only frame clients can have stored, cannot travel in a header: they become blanks. */
export function encodeHeader(value: string): string {
  const printable = value.replaceAll(/[\0-\x08\x0a-\x1f\x7f]/g, ' ');
  return /[^\x20-\x7e]/.test(printable)
    ? Buffer.from(printable, 'utf8').toString('latin1')
    : printable;
}
