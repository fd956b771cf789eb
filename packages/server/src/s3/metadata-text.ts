/**
 * Values of user metadata beyond ASCII. Amazon S3 reads and tells them as RFC 2047 has it (User Guide, "User-defined object
 * metadata"): `=?UTF-8?B?w6Q=?=`. A value that came as UTF-8 is told so too. Bytes that are no UTF-8 are kept and told as they
 * are, one character of Latin-1 each: then clients that read headers as Latin-1 get back what they sent.
 *
 * I1  What is told, sent again, is stored as the same value.
 */
import { isUtf8 } from 'node:buffer';

const ENCODED_WORD = /=\?([\w-]+)\?([BQ])\?([!-~]*?)\?=/gi;
/** Whether the bytes of a header, of which Node gives a character each, are no UTF-8. */
export function isLatin1(header: string): boolean {
  return !isUtf8(Buffer.from(header, 'latin1'));
}

/** @param header As Node gives it: a character a byte. */
export function decodeMetadata(header: string): string {
  if (isLatin1(header)) return header;
  const text = Buffer.from(header, 'latin1').toString('utf8');
  // White space between two encoded words is how one was folded (RFC 2047, 6.2).
  return text.replaceAll(/\?=\s+=\?/g, '?==?').replaceAll(ENCODED_WORD, decodeWord);
}

function decodeWord(word: string, charset: string, encoding: string, text: string): string {
  const bytes = encoding.toUpperCase() === 'B' ? Buffer.from(text, 'base64') : decodeQuoted(text);
  const name = charset.toLowerCase();
  if (name === 'utf-8' && isUtf8(bytes)) return bytes.toString('utf8');
  return name === 'iso-8859-1' || name === 'us-ascii' ? bytes.toString('latin1') : word;
}

function decodeQuoted(text: string): Buffer {
  const latin1 = text
    .replaceAll('_', ' ')
    .replaceAll(/=([0-9A-F]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
  return Buffer.from(latin1, 'latin1');
}

/** The form that Node takes. @param latin1 It came so. */
export function encodeMetadata(value: string, { latin1 }: { readonly latin1: boolean }): string {
  if (/^[\x20-\x7e]*$/.test(value)) return value;
  if (latin1 && /^[\x20-\x7e\xa0-\xff]*$/.test(value)) return value;
  return `=?UTF-8?B?${Buffer.from(value, 'utf8').toString('base64')}?=`;
}
