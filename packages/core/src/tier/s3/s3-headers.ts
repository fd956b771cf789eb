/**
 * Content type and user metadata as headers of S3, both ways. S3 keeps names in lower case, and of text beyond ASCII what
 * RFC 2047 makes of it. What it cannot keep at all is left out: the catalog has it.
 */
import { S3_METADATA_BYTES_MAX } from '../../limits.ts';
import type { RemoteHeaders } from '../tier.ts';

const DEFAULT_CONTENT_TYPE = 'application/octet-stream';

export function toS3Headers({ contentType, metadata }: RemoteHeaders): {
  readonly ContentType: string;
  readonly Metadata: Record<string, string>;
} {
  const kept: Record<string, string> = {};
  let bytes = 0;
  for (const [name, value] of Object.entries(metadata)) {
    const text = encodeText(value);
    bytes += name.length + text.length;
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name) || bytes > S3_METADATA_BYTES_MAX) continue;
    kept[name.toLowerCase()] = text;
  }
  return {
    ContentType: /^[\x20-\x7e]+$/.test(contentType) ? contentType : DEFAULT_CONTENT_TYPE,
    Metadata: kept,
  };
}

export function fromS3Headers(output: {
  readonly ContentType?: string | undefined;
  readonly Metadata?: Record<string, string> | undefined;
}): RemoteHeaders {
  const metadata = Object.entries(output.Metadata ?? {});
  return {
    contentType: output.ContentType ?? DEFAULT_CONTENT_TYPE,
    metadata: Object.fromEntries(metadata.map(([name, value]) => [name, decodeText(value)])),
  };
}

/** Blanks at the ends would be trimmed on the way. */
function encodeText(value: string): string {
  const isPlain = /^[\x20-\x7e]*$/.test(value) && value.trim() === value;
  if (isPlain && !value.startsWith('=?')) return value;
  return `=?UTF-8?B?${Buffer.from(value).toString('base64')}?=`;
}

/** Of others, too: in pieces, and in either encoding. */
function decodeText(value: string): string {
  return value
    .replaceAll(/\?=\s+=\?/g, '?==?')
    .replaceAll(/=\?UTF-8\?([BQ])\?([^?]*)\?=/gi, (_, encoding: string, text: string) =>
      encoding.toUpperCase() === 'B'
        ? Buffer.from(text, 'base64').toString()
        : Buffer.from(fromQ(text), 'latin1').toString(),
    );
}

function fromQ(text: string): string {
  return text
    .replaceAll('_', ' ')
    .replaceAll(/=([0-9a-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
}
