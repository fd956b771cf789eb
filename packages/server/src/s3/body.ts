/**
 * The body of an S3 request: its framing taken off, and everything that the client claims about it checked.
 *
 * I1  `finish` must have resolved before anything that was received becomes visible: only then are length, signatures,
 *     payload hash, Content-MD5 and checksums known to be right.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { crc32c, nextTurn } from '@ebb/core';
import type { ReceivedBody, ReceiveOptions } from '../http/data/receive-body.ts';
import { gatherBody } from '../http/gather-body.ts';
import { AwsChunkedDecoder } from './auth/aws-chunked.ts';
import type { S3Call } from './call.ts';
import {
  ALGORITHMS,
  type Algorithm,
  type Checksum,
  checksumHeader,
  crc32Bytes,
  createDigest,
  type Digest,
  parseAlgorithm,
  parseChecksumValue,
} from './checksums.ts';
import { S3Error } from './s3-error.ts';

/** The bytes of a body that are hashed in one turn of the event loop. */
const SUMMED_BYTES = 256 * 1024;

export interface BodyPlan {
  /** Bytes that arrive, framing included; undefined: not announced. */
  readonly arrivingBytes: number | undefined;
  /** Bytes of data; undefined: not announced. */
  readonly dataBytes: number | undefined;
  readonly receive: ReceiveOptions;
  /** @throws {S3Error} `IncompleteBody`, `BadDigest`, `XAmzContentSHA256Mismatch`, `SignatureDoesNotMatch`, `MalformedTrailerError` */
  finish(received: ReceivedBody): Promise<Checksum | undefined>;
}

export interface BodyRequest {
  readonly headers: Headers;
  readonly auth: S3Call['auth'];
  /** The algorithm of the checksum that is computed where the client asks for none. */
  readonly algorithm?: Algorithm | undefined;
}

/** Looks at headers only. @throws {S3Error} `InvalidDigest`, `InvalidRequest`, `MissingContentLength` */
export function planBody({ headers, auth, algorithm: otherwise }: BodyRequest): BodyPlan {
  const { payload, seed } = auth;
  const isChunked = payload.kind === 'chunked';
  const arrivingBytes = lengthOf(
    headers['content-length'] ?? (headers['transfer-encoding'] === undefined ? '0' : undefined),
  );
  const dataBytes = isChunked
    ? lengthOf(headers['x-amz-decoded-content-length'] as string | undefined)
    : arrivingBytes;
  if (isChunked && dataBytes === undefined) throw new S3Error('MissingContentLength');
  const decoder = isChunked
    ? new AwsChunkedDecoder({ seed: payload.signed ? seed : undefined, trailer: payload.trailer })
    : undefined;
  const md5 = parseMd5(headers['content-md5'] as string | undefined);
  const claimed = claimedChecksum(headers);
  const algorithm = claimed?.algorithm ?? announcedAlgorithm(headers) ?? otherwise;
  const sha256 = payload.kind === 'signed' ? payload.sha256 : undefined;

  const digests: Digest[] = [];
  const digestFor = (name: Algorithm): Digest => {
    const digest = createDigest(name);
    digests.push(digest);
    return digest;
  };
  const md5Digest = md5 === undefined ? undefined : digestFor('MD5');
  // The store computes CRC32C of every body anyway.
  const checksumDigest =
    algorithm === undefined || algorithm === 'CRC32C' ? undefined : digestFor(algorithm);
  const shaDigest =
    sha256 === undefined
      ? undefined
      : algorithm === 'SHA256'
        ? checksumDigest
        : digestFor('SHA256');

  const finish = async (received: ReceivedBody): Promise<Checksum | undefined> => {
    const trailers = decoder?.end();
    if (dataBytes !== undefined && received.sizeBytes !== dataBytes)
      throw new S3Error('IncompleteBody');
    const sha = await shaDigest?.digest();
    if (sha256 !== undefined && sha?.toString('hex') !== sha256)
      throw new S3Error('XAmzContentSHA256Mismatch', undefined, {
        ClientComputedContentSHA256: sha256,
        S3ComputedContentSHA256: sha?.toString('hex') ?? '',
      });
    if (md5Digest !== undefined && md5 !== undefined && !(await md5Digest.digest()).equals(md5))
      throw new S3Error(
        'BadDigest',
        'The Content-MD5 you specified did not match what we received.',
      );
    if (algorithm === undefined) return undefined;
    const digest =
      algorithm === 'CRC32C'
        ? crc32Bytes(received.crc32c)
        : checksumDigest === shaDigest && sha !== undefined
          ? sha
          : await (checksumDigest as Digest).digest();
    const value = digest.toString('base64');
    const sent = claimed?.value ?? trailers?.get(checksumHeader(algorithm));
    if (sent !== undefined && sent !== value)
      throw new S3Error(
        'BadDigest',
        `The ${algorithm} you specified did not match the calculated checksum.`,
      );
    if (sent === undefined && headers['x-amz-trailer'] !== undefined)
      throw new S3Error(
        'MalformedTrailerError',
        `The trailer ${checksumHeader(algorithm)} was announced and did not come.`,
      );
    return { algorithm, type: 'FULL_OBJECT', value };
  };
  return {
    arrivingBytes,
    dataBytes,
    receive: {
      digests,
      ...(decoder === undefined
        ? {}
        : {
            unframe: (arrived: Buffer, emit: (data: Buffer) => void) => decoder.push(arrived, emit),
          }),
    },
    finish,
  };
}

type Headers = IncomingHttpHeaders;

function claimedChecksum(headers: Headers): { algorithm: Algorithm; value: string } | undefined {
  const sent = ALGORITHMS.filter((name) => headers[checksumHeader(name)] !== undefined);
  if (sent.length > 1)
    throw new S3Error(
      'InvalidRequest',
      'Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.',
    );
  const algorithm = sent[0];
  if (algorithm === undefined) return undefined;
  const value = String(headers[checksumHeader(algorithm)]);
  return { algorithm, value: parseChecksumValue(algorithm, value) };
}

/** The one whose value comes in the trailer, or that the client asks us to compute. */
function announcedAlgorithm(headers: Headers): Algorithm | undefined {
  const trailer = String(headers['x-amz-trailer'] ?? '')
    .trim()
    .toLowerCase();
  if (trailer !== '') {
    const prefix = 'x-amz-checksum-';
    if (!trailer.startsWith(prefix))
      throw new S3Error(
        'InvalidRequest',
        'The value specified in the x-amz-trailer header is not supported',
      );
    return parseAlgorithm(trailer.slice(prefix.length));
  }
  const asked = headers['x-amz-sdk-checksum-algorithm'] ?? headers['x-amz-checksum-algorithm'];
  return asked === undefined ? undefined : parseAlgorithm(String(asked));
}

function parseMd5(header: string | undefined): Buffer | undefined {
  if (header === undefined) return undefined;
  const bytes = Buffer.from(header, 'base64');
  if (bytes.length !== 16 || bytes.toString('base64') !== header.trim())
    throw new S3Error('InvalidDigest');
  return bytes;
}

function lengthOf(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  if (!/^\d{1,15}$/.test(header))
    throw new S3Error('InvalidArgument', 'A length is a whole number of bytes.');
  return Number(header);
}

/** Some clients send an empty line where they mean nothing. */
export function isBlank(body: Buffer): boolean {
  return body.toString('latin1').trim() === '';
}

/** Of CompleteMultipartUpload: its checksum headers are those of the object that it makes, not of its own body. */
export async function readUnsummedBody(call: S3Call, bytesMax: number): Promise<Buffer> {
  const headers = Object.fromEntries(
    Object.entries(call.request.headers).filter(([name]) => !name.startsWith('x-amz-checksum-')),
  );
  return await readPlanned(call, planBody({ headers, auth: call.auth }), bytesMax);
}

/**
 * A small body held whole, checked: XML of a request.
 * @throws {S3Error} those of `finish`, and `EntityTooLarge`
 */
export async function readBody(call: S3Call, bytesMax: number): Promise<Buffer> {
  const plan = planBody({ headers: call.request.headers, auth: call.auth });
  return await readPlanned(call, plan, bytesMax);
}

async function readPlanned(call: S3Call, plan: BodyPlan, bytesMax: number): Promise<Buffer> {
  const tooLarge = (): S3Error =>
    new S3Error('EntityTooLarge', undefined, { MaxSizeAllowed: bytesMax });
  if ((plan.arrivingBytes ?? 0) > bytesMax * 2) throw tooLarge();
  if (call.expectsContinue) call.response.writeContinue();
  const { unframe, digests = [] } = plan.receive;
  const body = await gatherBody(call.request, {
    ...{ held: call.context.held, bytesMax, tooLarge, unframe },
  });
  let crc = 0;
  // In pieces, so that no turn of the event loop has all of a long body to sum up.
  for (let at = 0; at < body.length; at += SUMMED_BYTES) {
    if (at > 0) await nextTurn();
    const piece = body.subarray(at, at + SUMMED_BYTES);
    crc = crc32c(piece, crc);
    for (const digest of digests) digest.update(piece);
  }
  await plan.finish({ sizeBytes: body.length, crc32c: crc, blocks: undefined });
  return body;
}
