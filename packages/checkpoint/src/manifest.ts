/**
 * The manifest of a snapshot (docs/checkpoint-format.md): written by storing.ts, read back, and looked at closely when another node
 * wrote it. Pure.
 */
import {
  CHECKPOINT_BLOCK_BYTES,
  CHECKPOINT_FORMAT,
  type Manifest,
  type ManifestPart,
  manifestSchema,
  StoreError,
} from '@ebb/protocol';
import { DIGEST_BYTES } from './digest.ts';
import { checkShards } from './image.ts';
import { parseDataKey, parsePartName, type SnapshotRef } from './names.ts';

/** @throws `version_unsupported`, `data_corrupt` */
export function parseManifest(bytes: Buffer): Manifest {
  const value = parseJson(bytes);
  const { format } = (value ?? {}) as { readonly format?: unknown };
  if (typeof format === 'string' && format !== CHECKPOINT_FORMAT)
    throw new StoreError(
      'version_unsupported',
      `it is of format ${JSON.stringify(format.slice(0, 80))}; this node reads ${CHECKPOINT_FORMAT}`,
    );
  const parsed = manifestSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const where = issue?.path.join('.') ?? '';
  throw corrupt(
    `${where === '' ? 'it' : where} is not as it must be: ${issue?.message}`,
    parsed.error,
  );
}

/**
 * Whether it is the whole manifest of this snapshot, of which every byte can be found and compared. Returns how many bytes
 * each data object must have at least, by key.
 * @throws `data_corrupt`, `name_invalid`, `version_unsupported`
 */
export function checkManifest(manifest: Manifest, ref: SnapshotRef): ReadonlyMap<string, number> {
  const { run, step, parts } = manifest;
  if (run !== ref.run || step !== ref.step)
    throw corrupt(`it is the manifest of step ${step} of run ${run}`);
  if (parts.length === 0) throw corrupt('it names no part');
  if (new Set(parts.map(({ name }) => name)).size !== parts.length)
    throw corrupt('it names a part twice');
  const needed = new Map<string, number>();
  for (const part of parts) {
    parsePartName(part.name);
    checkBlocks(part);
    checkRuns(part, run);
    checkShards(part.shards, part.imageBytes, part.name);
    for (const [, length, key, offset] of part.runs)
      needed.set(key, Math.max(needed.get(key) ?? 0, offset + length));
  }
  return needed;
}

function checkBlocks({ name, imageBytes, blockBytes, digests }: ManifestPart): void {
  if (blockBytes !== CHECKPOINT_BLOCK_BYTES)
    throw new StoreError(
      'version_unsupported',
      `part ${name} has blocks of ${blockBytes} bytes; this node reads ${CHECKPOINT_BLOCK_BYTES}`,
    );
  const blocks = Math.ceil(imageBytes / blockBytes);
  const found = Buffer.from(digests, 'base64').length / DIGEST_BYTES;
  if (found !== blocks) throw corrupt(`part ${name} has ${blocks} blocks, and ${found} digests`);
}

/** They cover the image in whole blocks, in order and without gaps, and name data objects of this run alone. */
function checkRuns({ name, imageBytes, blockBytes, runs }: ManifestPart, run: string): void {
  let end = 0;
  for (const [from, length, key] of runs) {
    if (from !== end || from % blockBytes !== 0 || length === 0)
      throw corrupt(`part ${name} has a gap or a piece of a block at ${end}`);
    if (parseDataKey(key)?.run !== run)
      throw corrupt(
        `part ${name} names ${JSON.stringify(key)}, which is no data object of its run`,
      );
    end += length;
  }
  if (end !== imageBytes)
    throw corrupt(`part ${name} has ${imageBytes} bytes, of which ${end} are told`);
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw corrupt('it is no JSON, or not whole', error);
  }
}

function corrupt(problem: string, cause?: unknown): StoreError {
  return new StoreError('data_corrupt', problem, {}, cause);
}
