/**
 * Reads the image of a snapshot's part, by position: from the image object while it is in memory, else from the data objects.
 *
 * I1  One snapshot: a plan that is asked for anew must be of the same one, else `precondition_failed`.
 * I2  The image may be given up, or lost, at any moment. A read that meets that starts again from the data objects, and so
 *     does every later one; if the plan is older than their storing, a new plan tells where they are.
 * I3  At most HANDLES_MAX data objects are open beside those being read: a snapshot may name thousands.
 */
import {
  assert,
  type ImageRun,
  isStoreError,
  type RestorePart,
  type RestorePlan,
  StoreError,
  type StoreErrorCode,
} from '@ebb/protocol';
import type { ObjectHandle } from './object-reader.ts';

export interface PartReader extends AsyncDisposable {
  readonly part: RestorePart;
  /** Where the last read found its bytes. */
  readonly source: 'image' | 'stored';
  /** Fills `target` from `position` of the image; returns the bytes read: fewer than asked for only at its end. */
  read(target: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}

export interface PartReaderParts {
  readonly open: (
    bucket: string,
    key: string,
    options: { readonly signal?: AbortSignal | undefined },
  ) => Promise<ObjectHandle>;
  readonly replan: () => Promise<RestorePlan>;
  readonly signal: AbortSignal | undefined;
}

const HANDLES_MAX = 32;
/** An image that says so is gone, or no good; what is stored may be. */
const GONE = [
  'not_found',
  'data_lost',
  'data_corrupt',
  'precondition_failed',
  'lease_not_found',
  'superseded',
] as const satisfies readonly StoreErrorCode[];

/** @throws `not_found` for a part that the plan does not have */
export function createPartReader(
  parts: PartReaderParts,
  plan: RestorePlan,
  name: string,
): PartReader {
  return new Reader(parts, plan, partOf(plan, name));
}

function partOf(plan: RestorePlan, name: string): RestorePart {
  const part = plan.parts.find((one) => one.name === name);
  if (part !== undefined) return part;
  const { run, step } = plan.snapshot;
  throw new StoreError('not_found', `step ${step} of run ${run} has no part ${name}`, {
    ...{ run, step, part: name },
  });
}

interface OpenObject {
  readonly opening: Promise<ObjectHandle>;
  users: number;
}

class Reader implements PartReader {
  readonly part: RestorePart;
  readonly #parts: PartReaderParts;
  readonly #bucket: string;
  #image: RestorePart['image'];
  #runs: Promise<readonly ImageRun[]> | undefined;
  /** By bucket and key; those used last are the last. */
  readonly #open = new Map<string, OpenObject>();
  #isClosed = false;

  constructor(parts: PartReaderParts, plan: RestorePlan, part: RestorePart) {
    this.#parts = parts;
    this.part = part;
    this.#bucket = plan.snapshot.bucket;
    this.#image = part.image;
    if (part.runs !== null) this.#runs = Promise.resolve(part.runs);
  }

  get source(): 'image' | 'stored' {
    return this.#image === null ? 'stored' : 'image';
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    if (this.#isClosed) throw new StoreError('lease_not_found', 'this reader was closed');
    if (!Number.isSafeInteger(position) || position < 0)
      throw new StoreError('range_invalid', `${position} is no position in an image`);
    const length = Math.max(0, Math.min(target.byteLength, this.part.imageBytes - position));
    const wanted = target.subarray(0, length);
    if (length === 0) return 0;
    const image = this.#image;
    if (image !== null)
      try {
        await this.#readObject(image.bucket, image.key, wanted, position);
        return length;
      } catch (error) {
        if (!GONE.some((code) => isStoreError(error, code))) throw error;
        this.#image = null; // (I2)
      }
    await this.#readRuns(wanted, position);
    return length;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const open = [...this.#open.values()];
    this.#open.clear();
    await Promise.all(open.map(closeObject));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #readRuns(target: Uint8Array, position: number): Promise<void> {
    this.#runs ??= this.#plannedRuns();
    let done = 0;
    for (const [from, length, key, at] of await this.#runs) {
      const skipped = position + done - from;
      if (skipped >= length) continue;
      assert(skipped >= 0, 'the runs of an image have no gaps');
      const piece = target.subarray(done, done + length - skipped);
      await this.#readObject(this.#bucket, key, piece, at + skipped);
      done += piece.byteLength;
      if (done === target.byteLength) return;
    }
    assert(done === target.byteLength, 'the runs of an image cover it');
  }

  /** The snapshot was not stored when its plan was made. */
  async #plannedRuns(): Promise<readonly ImageRun[]> {
    const { name } = this.part;
    const { runs } = partOf(await this.#parts.replan(), name);
    if (runs !== null) return runs;
    const message = `the image of part ${name} is gone, and it was not stored`;
    throw new StoreError('data_lost', message, { part: name });
  }

  async #readObject(
    bucket: string,
    key: string,
    target: Uint8Array,
    position: number,
  ): Promise<void> {
    const name = `${bucket}/${key}`;
    const { signal } = this.#parts;
    const open = this.#open.get(name) ?? {
      opening: this.#parts.open(bucket, key, { signal }),
      users: 0,
    };
    this.#open.delete(name);
    this.#open.set(name, open);
    open.users++;
    try {
      const handle = await open.opening;
      const bytes = await handle.read(target, position, { signal });
      if (bytes === target.byteLength) return;
      const message = `${name} ends after ${handle.info.sizeBytes} bytes, ${position + target.byteLength} were expected`;
      throw new StoreError('data_corrupt', message, { bucket, key });
    } catch (error) {
      // The next read opens it anew.
      if (this.#open.get(name) === open) this.#open.delete(name);
      throw error;
    } finally {
      open.users--;
      if (open.users === 0 && this.#open.get(name) !== open) await closeObject(open);
      await this.#closeIdle();
    }
  }

  /** I3 */
  async #closeIdle(): Promise<void> {
    const excess = Math.max(0, this.#open.size - HANDLES_MAX);
    const idle = [...this.#open].filter(([, { users }]) => users === 0).slice(0, excess);
    for (const [name] of idle) this.#open.delete(name);
    await Promise.all(idle.map(([, open]) => closeObject(open)));
  }
}

/** One that could not be opened is nothing to close. */
async function closeObject({ opening }: OpenObject): Promise<void> {
  const handle = await opening.catch(() => undefined);
  await handle?.close();
}
