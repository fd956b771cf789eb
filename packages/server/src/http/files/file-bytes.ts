/** The bytes of open files over HTTP: raw bodies through pooled pieces, as the data surface has them. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { FILE_READ_BYTES_MAX, StoreError } from '@ebb/protocol';
import type { DataContext } from '../data/data-context.ts';
import { receiveBody } from '../data/receive-body.ts';
import { send } from '../data/send-range.ts';
import { wrongMethod } from '../error-response.ts';
import { holdAnswer } from '../held-answer.ts';
import { parseFileId } from './file-routes.ts';

export interface FileBytesTarget {
  readonly fileId: number;
  readonly query: URLSearchParams;
}

/** Undefined when the path is none of these. */
export function findFileBytesTarget(url: string): FileBytesTarget | undefined {
  const match = /^\/v1\/files\/([^/?]*)\/bytes(?:\?(.*))?$/.exec(url);
  if (match === null) return undefined;
  return { fileId: parseFileId(match[1] as string), query: new URLSearchParams(match[2] ?? '') };
}

export async function answerFileBytes(
  request: IncomingMessage,
  response: ServerResponse,
  target: FileBytesTarget,
  context: DataContext & { readonly expectsContinue: boolean },
): Promise<void> {
  if (request.method === 'GET') await sendBytes(response, target, context);
  else if (request.method === 'PUT') await takeBytes(request, response, target, context);
  else throw wrongMethod(request.method, 'GET, PUT');
}

async function sendBytes(
  response: ServerResponse,
  { fileId, query }: FileBytesTarget,
  { store, owner, pieces, held }: DataContext,
): Promise<void> {
  const offset = parseNumber(query, 'offset', 0);
  const length = parseNumber(query, 'length', FILE_READ_BYTES_MAX);
  if (length > FILE_READ_BYTES_MAX)
    throw new StoreError('too_large', `one read has at most ${FILE_READ_BYTES_MAX} bytes`, {
      limitBytes: FILE_READ_BYTES_MAX,
    });
  const { sizeBytes } = store.files.stat(owner, fileId);
  const lengthMax = Math.min(length, Math.max(0, sizeBytes - offset));
  const piece = pieces.tryTakeForAnswer(response.socket?.remoteAddress ?? '');
  if (piece === undefined) holdAnswer(held, response, lengthMax);
  const bytes = piece ?? Buffer.allocUnsafeSlow(lengthMax);
  try {
    const got = await store.files.read(owner, fileId, bytes.subarray(0, lengthMax), offset);
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': got });
    if (got > 0) await send(response, bytes.subarray(0, got));
  } finally {
    if (piece !== undefined) pieces.give(piece);
  }
  response.end();
}

async function takeBytes(
  request: IncomingMessage,
  response: ServerResponse,
  { fileId, query }: FileBytesTarget,
  { store, owner, pieces, expectsContinue }: DataContext & { readonly expectsContinue: boolean },
): Promise<void> {
  const { files } = store;
  const offset = parseNumber(query, 'offset', 0);
  files.stat(owner, fileId); // refuses before the body is sent
  if (expectsContinue) response.writeContinue();
  let first: number | undefined;
  const writeOut = async (bytes: Buffer, position: number): Promise<void> => {
    const at = await files.write(owner, fileId, bytes, offset + position);
    first ??= at;
  };
  const { headers } = request;
  const length =
    headers['content-length'] ?? (headers['transfer-encoding'] === undefined ? 0 : undefined);
  const received = await receiveBody(request, pieces, writeOut, {
    arrivingBytes: length === undefined ? undefined : Number(length),
  });
  const body = JSON.stringify({
    offset: first ?? offset,
    writtenBytes: received.sizeBytes,
    sizeBytes: files.stat(owner, fileId).sizeBytes,
  });
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
  response.end(body);
}

function parseNumber(query: URLSearchParams, name: string, otherwise: number): number {
  const text = query.get(name);
  if (text === null) return otherwise;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new StoreError('request_invalid', `${name}: "${text}" is no number of bytes`);
}
