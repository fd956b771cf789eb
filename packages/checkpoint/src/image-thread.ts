/** The main thread's side of image-worker.ts: one worker, started with the first task, ended with the service. */
import { Worker } from 'node:worker_threads';
import { StoreError } from '@ebb/protocol';
import type { ImageReply, ImageRequest, ImageTask } from './image-worker.ts';

interface Waiting {
  readonly resolve: (reply: ImageReply) => void;
  readonly reject: (error: unknown) => void;
}

export class ImageThread {
  #worker: Worker | undefined;
  readonly #waiting = new Map<number, Waiting>();
  #lastTaskId = 0;
  #isClosed = false;

  /** @throws `io_failed`, `data_lost` (no such file), `tier_full`, `draining` */
  async digest(task: Omit<Extract<ImageTask, { kind: 'digest' }>, 'kind'>): Promise<Uint8Array> {
    const reply = await this.#ask({ kind: 'digest', ...task });
    if ('digests' in reply) return reply.digests;
    throw failureOf(reply);
  }

  /** Resolves with the CRC32C of what was written. @throws as digest */
  async gather(task: Omit<Extract<ImageTask, { kind: 'gather' }>, 'kind'>): Promise<number> {
    const reply = await this.#ask({ kind: 'gather', ...task });
    if ('crc32c' in reply) return reply.crc32c;
    throw failureOf(reply);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#worker?.terminate();
    this.#failAll(new StoreError('draining', 'the node is stopping'));
  }

  async #ask(task: ImageTask): Promise<ImageReply> {
    if (this.#isClosed) throw new StoreError('draining', 'the node is stopping');
    const worker = (this.#worker ??= this.#start());
    const taskId = ++this.#lastTaskId;
    const { promise, resolve, reject } = Promise.withResolvers<ImageReply>();
    this.#waiting.set(taskId, { resolve, reject });
    worker.postMessage({ taskId, task } satisfies ImageRequest);
    return await promise;
  }

  #start(): Worker {
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    const worker = new Worker(new URL(`./image-worker.${extension}`, import.meta.url), {
      name: 'ebb-images',
    });
    worker.unref();
    worker.on('message', (reply: ImageReply) => {
      this.#waiting.get(reply.taskId)?.resolve(reply);
      this.#waiting.delete(reply.taskId);
    });
    worker.on('error', (error) => this.#ended(worker, error));
    worker.on('exit', (status) => this.#ended(worker, new Error(`it exited with ${status}`)));
    return worker;
  }

  #ended(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    this.#failAll(new StoreError('io_failed', 'the worker that reads images stopped', {}, cause));
  }

  #failAll(error: unknown): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

function failureOf(reply: ImageReply): StoreError {
  const { errno, message } = 'errno' in reply ? reply : { errno: '', message: 'another answer' };
  const code =
    errno === 'ENOENT'
      ? 'data_lost'
      : errno === 'ENOSPC' || errno === 'EDQUOT'
        ? 'tier_full'
        : 'io_failed';
  return new StoreError(code, message, { errno });
}
