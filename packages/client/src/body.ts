/** What can be stored, in one form: a size if it is known, and chunks, once or again. */
import { createReadStream } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { StoreError } from '@ebb/protocol';
import { PIECE_BYTES } from './limits.ts';
import { givePiece, takePiece } from './piece-pool.ts';
import { orAborted } from './retry.ts';

/**
 * A `file` may be replayed after a failure, so may bytes; a stream is read once. Chunks of a stream must not be changed
 * after they were yielded.
 */
export type PutBody = Uint8Array | AsyncIterable<Uint8Array> | Readable | { readonly file: string };

export interface BodySource {
  readonly sizeBytes: number | undefined;
  readonly bytes: Uint8Array | undefined;
  /** Whether `chunks` may be asked for again. */
  readonly replayable: boolean;
  /** A chunk is valid until the next one is asked for: for consumers that are done with it by then. */
  chunks(): AsyncIterable<Uint8Array>;
  /** Ends a stream that nobody will read on. */
  cancel(): void;
  /** Chunks that stay as they are: for consumers that queue them. */
  keptChunks(): AsyncIterable<Uint8Array>;
}

export async function openBody(body: PutBody): Promise<BodySource> {
  if (typeof (body as unknown) === 'string')
    throw new StoreError(
      'request_invalid',
      'a body is bytes: Buffer.from(text), or { file: path } for a file',
    );
  if (body instanceof Uint8Array) {
    return {
      sizeBytes: body.byteLength,
      bytes: body,
      replayable: true,
      chunks: () => once(body),
      keptChunks: () => once(body),
      cancel: () => undefined,
    };
  }
  if (isFile(body)) {
    const found = await stat(body.file);
    if (found.isDirectory()) {
      throw new StoreError('request_invalid', `${body.file} is a directory, not a file`);
    }
    // A pipe or device has no size, and is read once.
    const sizeBytes = found.isFile() ? found.size : undefined;
    return {
      sizeBytes,
      bytes: undefined,
      replayable: found.isFile(),
      chunks: () => readFileChunks(body.file, sizeBytes),
      keptChunks: () => createReadStream(body.file, { highWaterMark: PIECE_BYTES / 4 }),
      cancel: () => undefined,
    };
  }
  let used = false;
  const chunks = (): AsyncIterable<Uint8Array> => {
    if (used) throw new StoreError('request_invalid', 'a stream cannot be sent a second time');
    used = true;
    return toBytes(body);
  };
  const cancel = (): void => {
    if ('destroy' in body) body.destroy();
  };
  return {
    sizeBytes: undefined,
    bytes: undefined,
    replayable: false,
    chunks,
    keptChunks: chunks,
    cancel,
  };
}

/** The chunks of a source, until the signal says stop, also while the source is silent. */
export async function* chunksUntil(
  source: BodySource,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const iterator = source.chunks()[Symbol.asyncIterator]();
  let ended = false;
  try {
    for (;;) {
      const next = await orAborted(iterator.next(), signal);
      if (next.done === true) {
        ended = true;
        return;
      }
      yield next.value;
    }
  } finally {
    if (!ended) {
      const returned = Promise.resolve(iterator.return?.()).catch(() => undefined);
      // A generator that waits for its source ends only after it: it is told, and not waited for.
      if (signal?.aborted === true) source.cancel();
      else await returned;
    }
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  if (bytes.byteLength > 0) yield bytes;
}

function isFile(body: Exclude<PutBody, Uint8Array>): body is { readonly file: string } {
  return 'file' in body && typeof body.file === 'string';
}

async function* toBytes(chunks: AsyncIterable<unknown>): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    if (chunk instanceof Uint8Array) yield chunk;
    else if (typeof chunk === 'string') yield Buffer.from(chunk);
    else throw new StoreError('request_invalid', 'a body is made of bytes or text');
  }
}

/** Two pieces in turn: the next one fills while the consumer works on this one. */
async function* readFileChunks(
  path: string,
  sizeBytes: number | undefined,
): AsyncGenerator<Uint8Array> {
  const pieces = [takePiece(), takePiece()] as const;
  const file = await open(path, 'r');
  let position = 0;
  const next = (piece: Buffer): Promise<number> => {
    const wanted = Math.min(PIECE_BYTES, (sizeBytes ?? Number.POSITIVE_INFINITY) - position);
    return wanted <= 0
      ? Promise.resolve(0)
      : readUp(file, piece.subarray(0, wanted), sizeBytes === undefined ? null : position);
  };
  let reading = next(pieces[0]);
  try {
    for (let turn = 0; ; turn++) {
      const length = await reading;
      if (length === 0) break;
      position += length;
      reading = next(pieces[(turn + 1) % 2] as Buffer);
      reading.catch(() => undefined); // awaited in the next turn, or below
      yield (pieces[turn % 2] as Buffer).subarray(0, length);
    }
    if (sizeBytes !== undefined && position !== sizeBytes) {
      throw new StoreError('length_mismatch', `${path} became shorter while it was read`, {
        sizeBytes,
        readBytes: position,
      });
    }
  } finally {
    await reading.catch(() => undefined);
    await file.close();
    for (const piece of pieces) givePiece(piece);
  }
}

async function readUp(file: FileHandle, target: Buffer, position: number | null): Promise<number> {
  const { bytesRead } = await file.read(target, 0, target.byteLength, position);
  return bytesRead;
}
