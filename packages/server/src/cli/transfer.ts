/** Bytes between local files and objects, one or many at a time. */
import { open, opendir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import type { EbbClient, ObjectName, PutOptions } from '@ebb/client';
import { makeDirectories } from '@ebb/core';
import { MiB, StoreError } from '@ebb/protocol';
import type { Progress } from './progress.ts';
import type { Session } from './session.ts';

export interface Transferred {
  readonly name: string;
  readonly sizeBytes: number;
}

/** Objects of a directory or prefix under way at a time. */
export const PARALLEL_DEFAULT = 8;

/** Key of a file put under `to`: a bucket or a name that ends in `/` takes the file's own name. */
export function targetKey(to: ObjectName, file: string): ObjectName {
  const isFolder = to.key === '' || to.key.endsWith('/');
  return isFolder ? { bucket: to.bucket, key: to.key + basename(file) } : to;
}

export async function uploadFile(
  { client, signal }: Session,
  file: string,
  to: ObjectName,
  options: PutOptions & { readonly progress: Progress },
): Promise<Transferred> {
  const { progress, ...put } = options;
  const found = await stat(file);
  if (found.isDirectory()) {
    throw new StoreError('request_invalid', `${file} is a directory; use -r for all files in it`);
  }
  if (found.isFile()) progress.expect(found.size);
  const onProgress = reportTo(progress);
  const { sizeBytes } = await client.put(
    to.bucket,
    to.key,
    { file },
    { ...put, signal, onProgress },
  );
  return { name: to.key, sizeBytes };
}

/** Standard input to an object. */
export async function uploadStdin(
  { client, signal }: Session,
  to: ObjectName,
  options: PutOptions & { readonly progress: Progress },
): Promise<Transferred> {
  const { progress, ...put } = options;
  const onProgress = reportTo(progress);
  const { sizeBytes } = await client.put(to.bucket, to.key, process.stdin, {
    ...{ ...put, signal, onProgress },
  });
  return { name: to.key, sizeBytes };
}

/** Of one object: the client says how far it is, and what is shown is the sum over all. */
function reportTo(progress: Progress): NonNullable<PutOptions['onProgress']> {
  let reportedBytes = 0;
  return ({ doneBytes }) => {
    progress.add(doneBytes - reportedBytes);
    reportedBytes = doneBytes;
  };
}

/** Regular files below a directory, with `/` between the parts of their relative names. Links are followed to files only. */
export async function* walkFiles(root: string): AsyncGenerator<{ path: string; name: string }> {
  for await (const item of await opendir(root, { recursive: true })) {
    const path = join(item.parentPath, item.name);
    const isFile = item.isFile() || (item.isSymbolicLink() && (await isRegularFile(path)));
    if (isFile) yield { path, name: relative(root, path).split(sep).join('/') };
  }
}

async function isRegularFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}

/** Where an object under a prefix goes in a directory. @throws when the key would leave it */
export function localPath(directory: string, relativeKey: string): string {
  const root = resolve(directory);
  const path = resolve(root, ...relativeKey.split('/'));
  const escapes = path === root || !path.startsWith(root.endsWith(sep) ? root : root + sep);
  if (escapes || relativeKey.endsWith('/') || relativeKey.startsWith('/')) {
    throw new StoreError(
      'name_invalid',
      `the object "${relativeKey}" has no place in ${directory}`,
    );
  }
  return path;
}

/** Publishes last: the file appears under its name when it is whole. */
export async function downloadFile(
  { client, signal }: Session,
  from: ObjectName,
  file: string,
  options: { readonly progress: Progress },
): Promise<Transferred> {
  await makeDirectories(dirname(resolve(file)));
  const part = join(dirname(file), `.${basename(file)}.ebb-${process.pid}.part`);
  const target = await open(part, 'w');
  try {
    const sizeBytes = await readInto(client, from, {
      signal,
      progress: options.progress,
      write: async (chunk, position) => {
        for (let done = 0; done < chunk.byteLength; ) {
          const left = chunk.byteLength - done;
          done += (await target.write(chunk, done, left, position + done)).bytesWritten;
        }
      },
    });
    await target.close();
    await rename(part, file);
    return { name: from.key, sizeBytes };
  } catch (error) {
    await target.close().catch(() => undefined);
    await rm(part, { force: true });
    throw error;
  }
}

const CHUNK_BYTES = 1 * MiB;

/** Reads a whole object through two buffers in turn: the next one fills while this one is written. */
export async function readInto(
  client: EbbClient,
  from: ObjectName,
  to: {
    readonly signal: AbortSignal;
    readonly progress?: Progress;
    readonly range?: { readonly offset: number; readonly length?: number | undefined };
    /** Resolves when the chunk may be used again. */
    readonly write: (chunk: Buffer, position: number) => Promise<void>;
  },
): Promise<number> {
  const { signal, progress } = to;
  // Over HTTP one streamed answer is cheaper than many ranges.
  if (client.path === 'http') {
    await using got = await client.get(from.bucket, from.key, { signal, range: to.range });
    progress?.expect(got.range.length);
    let position = 0;
    for await (const chunk of got.body) {
      await to.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength), position);
      position += chunk.byteLength;
      progress?.add(chunk.byteLength);
    }
    return position;
  }
  await using handle = await client.open(from.bucket, from.key, { signal });
  const { sizeBytes } = handle.info;
  const start = to.range?.offset ?? 0;
  const end = Math.min(sizeBytes, start + (to.range?.length ?? sizeBytes));
  if (start > sizeBytes) {
    throw new StoreError('range_invalid', undefined, { offset: start, sizeBytes });
  }
  progress?.expect(end - start);
  const chunkBytes = Math.min(CHUNK_BYTES, Math.max(1, end - start));
  const buffers = [Buffer.allocUnsafeSlow(chunkBytes), Buffer.allocUnsafeSlow(chunkBytes)];
  const fill = (turn: number, at: number): Promise<number> => {
    const buffer = (buffers[turn % 2] as Buffer).subarray(0, Math.min(chunkBytes, end - at));
    const reading = handle.read(buffer, at, { signal });
    reading.catch(() => undefined); // awaited in the next turn; `close` waits for it otherwise
    return reading;
  };
  let reading = fill(0, start);
  let position = start;
  for (let turn = 0; position < end; turn++) {
    const bytes = await reading;
    const chunk = (buffers[turn % 2] as Buffer).subarray(0, bytes);
    const next = position + bytes;
    if (next < end) reading = fill(turn + 1, next);
    await to.write(chunk, position - start);
    progress?.add(bytes);
    position = next;
  }
  return end - start;
}

/** To a stream such as standard output. */
export async function readIntoStream(
  client: EbbClient,
  from: ObjectName,
  options: {
    readonly signal: AbortSignal;
    readonly range?: { readonly offset: number; readonly length?: number | undefined };
  },
): Promise<number> {
  const { writeTaken } = await import('./output.ts');
  return await readInto(client, from, { ...options, write: writeTaken });
}

/**
 * Runs `work` on items with a bounded number under way. The first failure stops the start of others; it is thrown when
 * those under way have ended.
 */
export async function forEachParallel<T>(
  items: AsyncIterable<T> | Iterable<T>,
  parallel: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  for await (const item of items) {
    if (failure !== undefined) break;
    const run = work(item)
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => running.delete(run));
    running.add(run);
    if (running.size >= parallel) await Promise.race(running);
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure.error;
}
