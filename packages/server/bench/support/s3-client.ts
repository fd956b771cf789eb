/**
 * S3 requests by hand over node:http with connections that stay open, so that the client of a measurement costs little. A
 * signature takes one hash and one HMAC; hashes of payloads are computed once, ahead of the measurement.
 */
import { createHash, createHmac } from 'node:crypto';
import { Agent, request } from 'node:http';
import { crc32 } from '@node-rs/crc32';
import { KEY } from './s3-servers.ts';

const REGION = 'us-east-1';
const ALGORITHM = 'AWS4-HMAC-SHA256';
const EMPTY_SHA256 = createHash('sha256').digest('hex');
/** What an SDK sends in one aws-chunked piece. */
const CHUNK_BYTES = 64 * 1024;

/** A body as it goes over the wire, with the headers that say how. */
export interface Payload {
  readonly wire: Buffer;
  readonly contentSha256: string;
  readonly headers: Readonly<Record<string, string>>;
}

export function unsignedPayload(data: Buffer): Payload {
  return { wire: data, contentSha256: 'UNSIGNED-PAYLOAD', headers: {} };
}

export function signedPayload(data: Buffer): Payload {
  const contentSha256 = createHash('sha256').update(data).digest('hex');
  return { wire: data, contentSha256, headers: {} };
}

/** As AWS SDKs send bodies today: chunks, and the CRC32 in the trailer. */
export function trailerPayload(data: Buffer): Payload {
  const parts: Buffer[] = [];
  for (let at = 0; at < data.length; at += CHUNK_BYTES) {
    const chunk = data.subarray(at, at + CHUNK_BYTES);
    parts.push(Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n'));
  }
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(data));
  parts.push(Buffer.from(`0\r\nx-amz-checksum-crc32:${sum.toString('base64')}\r\n\r\n`));
  return {
    wire: Buffer.concat(parts),
    contentSha256: 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
    headers: {
      'content-encoding': 'aws-chunked',
      'x-amz-decoded-content-length': String(data.length),
      'x-amz-sdk-checksum-algorithm': 'CRC32',
      'x-amz-trailer': 'x-amz-checksum-crc32',
    },
  };
}

interface S3Answer {
  readonly status: number;
  readonly sizeBytes: number;
  /** Of answers that are kept. */
  readonly text: string;
}

export interface S3Client {
  /** @param path Needs no percent-encoding; @param query in the order of its names, encoded. */
  send(
    method: string,
    path: string,
    options?: { readonly query?: string; readonly payload?: Payload; readonly keep?: boolean },
  ): Promise<S3Answer>;
  close(): void;
}

export function createS3Client(port: number, connections: number): S3Client {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const host = `127.0.0.1:${port}`;
  let signingKey = Buffer.alloc(0);
  let signingDate = '';

  const headersFor = (
    method: string,
    path: string,
    query: string,
    payload: Payload | undefined,
  ): Record<string, string> => {
    const amzDate = `${new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`;
    const date = amzDate.slice(0, 8);
    if (date !== signingDate) {
      signingDate = date;
      signingKey = [date, REGION, 's3', 'aws4_request'].reduce<Buffer>(
        hmac,
        Buffer.from(`AWS4${KEY.secretAccessKey}`),
      ) as Buffer<ArrayBuffer>;
    }
    const headers: Record<string, string> = {
      host,
      'x-amz-content-sha256': payload?.contentSha256 ?? EMPTY_SHA256,
      'x-amz-date': amzDate,
      ...payload?.headers,
      ...(payload === undefined ? {} : { 'content-length': String(payload.wire.length) }),
    };
    const names = Object.keys(headers).sort();
    const canonical = [
      ...[method, path, query],
      ...names.map((name) => `${name}:${headers[name]}`),
      ...['', names.join(';'), headers['x-amz-content-sha256']],
    ].join('\n');
    const scope = `${date}/${REGION}/s3/aws4_request`;
    const digest = createHash('sha256').update(canonical).digest('hex');
    const toSign = `${ALGORITHM}\n${amzDate}\n${scope}\n${digest}`;
    const signature = hmac(signingKey, toSign).toString('hex');
    headers['authorization'] =
      `${ALGORITHM} Credential=${KEY.accessKeyId}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`;
    return headers;
  };

  return {
    send: (method, path, { query = '', payload, keep = false } = {}) =>
      new Promise((resolve, reject) => {
        const headers = headersFor(method, path, query, payload);
        const target = query === '' ? path : `${path}?${query}`;
        const call = request(
          { agent, host: '127.0.0.1', port, method, path: target, headers },
          (answer) => {
            let sizeBytes = 0;
            const kept: Buffer[] = [];
            answer.on('data', (bytes: Buffer) => {
              sizeBytes += bytes.length;
              if (keep || (answer.statusCode ?? 500) >= 300) kept.push(bytes);
            });
            answer.once('error', reject);
            answer.once('end', () => {
              const text = Buffer.concat(kept).toString('utf8');
              resolve({ status: answer.statusCode ?? 0, sizeBytes, text });
            });
          },
        );
        call.once('error', reject);
        call.end(payload?.wire);
      }),
    close: () => agent.destroy(),
  };
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}
