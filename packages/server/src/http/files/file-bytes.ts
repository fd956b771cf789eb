/** The bytes of open files over HTTP: raw bodies through pooled pieces, as the data surface has them. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { FILE_READ_BYTES_MAX, StoreError } from '@ebb/protocol';
import { SMALL_BODY_BYTES } from '../../limits.ts';
import type { DataContext } from '../data/data-context.ts';
import { receiveBody, receiveSmallBody } from '../data/receive-body.ts';
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
  else
    throw new StoreError('unsupported', `${request.method} is not offered here, only GET and PUT`);
}

async function sendBytes(
  response: ServerResponse,
  { fileId, query }: FileBytesTarget,
  { store, owner, pieces }: DataContext,
): Promise<void> {
  const offset = parseNumber(query, 'offset', 0);
  const length = parseNumber(query, 'length', FILE_READ_BYTES_MAX);
  if (length > FILE_READ_BYTES_MAX)
    throw new StoreError('too_large', `one read has at most ${FILE_READ_BYTES_MAX} bytes`, {
      limitBytes: FILE_READ_BYTES_MAX,
    });
  const piece = await pieces.take();
  try {
    const got = await store.files.read(owner, fileId, piece.subarray(0, length), offset);
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': got });
    await ended(response, piece.subarray(0, got));
  } finally {
    pieces.give(piece);
  }
}

/** Resolves when the piece is no longer needed: sent, or the client went away. */
function ended(response: ServerResponse, bytes: Buffer): Promise<void> {
  return new Promise((resolve) => {
    if (response.destroyed) {
      resolve();
      return;
    }
    response.once('close', resolve);
    response.end(bytes);
  });
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
  const received =
    length !== undefined && Number(length) <= SMALL_BODY_BYTES
      ? await receiveSmallBody(request, Number(length), writeOut)
      : await receiveBody(request, pieces, writeOut);
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
