/**
 * The runs of local files that become an object: read, checked, and offered as the body of a request. In the worker only.
 *
 * I1  A run's last byte is handed out only when its checksum is right. So a body of wrong content never reaches its length,
 *     and the store throws the request away.
 */
import type { Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { finished, Readable } from 'node:stream';
import { promisify } from 'node:util';
import { StoreError } from '@ebb/protocol';
import { combineCrc32c, crc32c, formatCrc32c } from '../../checksum.ts';
import { S3_CHUNK_BYTES } from '../../limits.ts';
import { isMissing, toStoreError } from '../fs-error.ts';
import type { RemoteSource } from '../tier.ts';
import { type Attempt, stopIfAborted } from './s3-connection.ts';

export function lengthOf(sources: readonly RemoteSource[]): number {
  return sources.reduce((sum, { length }) => sum + length, 0);
}

/** The runs that make up bytes `offset` to `offset + length`. A run that is cut loses its checksum. */
export function sliceSources(
  sources: readonly RemoteSource[],
  { offset, length }: { readonly offset: number; readonly length: number },
): readonly RemoteSource[] {
  const slices: RemoteSource[] = [];
  let begin = 0;
  for (const source of sources) {
    const from = Math.max(begin, offset);
    const to = Math.min(begin + source.length, offset + length);
    if (to > from) {
      const isWhole = to - from === source.length;
      slices.push({
        file: source.file,
        offset: source.offset + (from - begin),
        length: to - from,
        crc32c: isWhole ? source.crc32c : null,
      });
    }
    begin += source.length;
  }
  return slices;
}

/** Undefined when one of them is not known. */
export function combinedCrc32c(
  runs: readonly Pick<RemoteSource, 'length' | 'crc32c'>[],
): number | undefined {
  let crc = 0;
  for (const run of runs) {
    if (run.crc32c === null) return undefined;
    crc = combineCrc32c(crc, run.crc32c, run.length);
  }
  return crc;
}

/** Reads the runs and returns them with their checksums. @throws `data_corrupt`, `data_lost`, `io_failed`, `aborted` */
export async function checkSources(
  sources: readonly RemoteSource[],
  signal: AbortSignal,
): Promise<readonly (RemoteSource & { readonly crc32c: number })[]> {
  const checked: (RemoteSource & { readonly crc32c: number })[] = [];
  for (const source of sources) {
    let crc = 0;
    for await (const chunk of readSource(source)) {
      stopIfAborted(signal);
      crc = crc32c(chunk, crc);
    }
    checked.push({ ...source, crc32c: crc });
  }
  return checked;
}

/** The last chunk of each run comes when the run is verified (I1). @throws as `checkSources` */
async function* readSource(source: RemoteSource): AsyncGenerator<Buffer, void> {
  const { file, offset, length } = source;
  const handle = await openSource(file);
  try {
    let crc = 0;
    for (let at = 0; at < length; ) {
      const chunk = await readChunk(handle, source, at);
      crc = crc32c(chunk, crc);
      at += chunk.length;
      if (at === length) assertMatches(source, crc);
      yield chunk;
    }
    if (length === 0) assertMatches(source, 0);
  } catch (error) {
    throw toStoreError(error, `reading ${file} from ${offset}`);
  } finally {
    await handle.close();
  }
}

export interface SourceBody {
  readonly stream: Readable;
  /** Frees the files, whether it was read to its end or not. */
  close(): Promise<void>;
}

/**
 * A body for one attempt: what fails while reading fails the attempt. With `isObject` the store makes an object of it as soon
 * as it has the last byte, and from there on it is too late to abort. `md5` is given what was handed out.
 */
export function openBody(
  sources: readonly RemoteSource[],
  attempt: Attempt,
  { isObject, md5 }: { readonly isObject: boolean; readonly md5?: Hash | undefined },
): SourceBody {
  const lengthBytes = lengthOf(sources);
  const read = async function* (): AsyncGenerator<Buffer, void> {
    let sent = 0;
    try {
      for (const source of sources) {
        for await (const chunk of readSource(source)) {
          if (attempt.signal.aborted) return;
          attempt.progress();
          sent += chunk.length;
          md5?.update(chunk);
          if (isObject && sent === lengthBytes) attempt.ignoreAbort();
          yield chunk;
        }
      }
    } catch (error) {
      attempt.fail(error);
      throw error;
    }
  };
  const stream = Readable.from(read(), { objectMode: false, highWaterMark: S3_CHUNK_BYTES });
  const ended = promisify(finished)(stream).catch(() => undefined);
  return {
    stream,
    close: async () => {
      stream.destroy();
      await ended;
    },
  };
}

async function openSource(file: string): Promise<FileHandle> {
  try {
    return await open(file, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (!isMissing(error)) throw toStoreError(error, `opening ${file}`);
    throw new StoreError('data_lost', `no file ${file}`, { file }, error);
  }
}

/** @throws `data_lost` where the file ends */
async function readChunk(handle: FileHandle, source: RemoteSource, at: number): Promise<Buffer> {
  const { file, offset, length } = source;
  const buffer = Buffer.allocUnsafeSlow(Math.min(S3_CHUNK_BYTES, length - at));
  const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset + at);
  if (bytesRead > 0) return buffer.subarray(0, bytesRead);
  const [ends, expected] = [offset + at, offset + length];
  throw new StoreError('data_lost', `${file} ends at ${ends} of ${expected}`, { file });
}

/** @throws `data_corrupt` */
function assertMatches({ file, offset, crc32c: expected }: RemoteSource, crc: number): void {
  if (expected === null || crc === expected) return;
  const sums = { file, expected: formatCrc32c(expected), found: formatCrc32c(crc) };
  const message = `${file} from ${offset} has CRC32C ${sums.found}, expected ${sums.expected}`;
  throw new StoreError('data_corrupt', message, sums);
}
