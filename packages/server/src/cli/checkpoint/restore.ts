/** `ebb checkpoint restore`: images and a manifest as plain files. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from '@commander-js/extra-typings';
import type { PartReader } from '@ebb/client';
import {
  CHECKPOINT_BLOCK_BYTES,
  CHECKPOINT_FORMAT,
  formatBytes,
  type Manifest,
  type ManifestPart,
  MiB,
  type RestorePart,
  type RestorePlan,
  StoreError,
} from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { examples, jsonOption, nodeOption } from '../options.ts';
import { count, printJson, printLine } from '../output.ts';
import { createProgress, type Progress } from '../progress.ts';
import { type Session, withClient } from '../session.ts';
import { forEachParallel } from '../transfer.ts';
import { bucketOption, runArgument, stepChoiceArgument } from './arguments.ts';
import { writeWhole } from './files.ts';

const PARTS_AT_ONCE = 4;
/** Over HTTP each is a request. */
const READ_BYTES = 4 * MiB;
const MANIFEST = 'manifest.json';

export function createRestore(): AnyCommand {
  return new Command('restore')
    .description('write a snapshot to a directory: the image of each part, and a manifest')
    .addArgument(runArgument())
    .addArgument(stepChoiceArgument())
    .requiredOption('--to <directory>', 'it is made; it must be empty, or not there')
    .option('--overwrite', 'whatever is in the directory')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint restore gpt --to ./gpt-latest', 'ebb checkpoint restore gpt 1200 --to /mnt/backup/gpt-1200')}

PART.image holds the bytes of a part as the training job staged them, and ${MANIFEST}, which comes last, what is where in it:
docs/checkpoint-format.md says how to read them. Every block is compared with its digest on the way. For other programs:
"ebb checkpoint export" writes tensors as safetensors.`,
    )
    .action(async (run, step, options) => {
      await assertEmpty(options.to, options.overwrite === true);
      await withClient(options, async (session) => {
        const { bucket } = options;
        const { signal } = session;
        const plan = await session.client.snapshots.plan(run, step, { bucket, signal });
        await restore(session, plan, options.to);
        const { step: restored, imageBytes } = plan.snapshot;
        const files = [...plan.parts.map(({ name }) => fileOf(name)), MANIFEST];
        if (options.json === true)
          await printJson({ run, step: restored, directory: options.to, files, imageBytes });
        else
          await printLine(
            `step ${restored} of run ${run}: ${count(plan.parts.length, 'image')} (${formatBytes(imageBytes)}) in ${options.to}`,
          );
      });
    });
}

function fileOf(part: string): string {
  return `${part}.image`;
}

/** @throws `already_exists` */
async function assertEmpty(directory: string, overwrite: boolean): Promise<void> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  if (names.length === 0 || overwrite) return;
  throw new StoreError('already_exists', `${directory} is not empty; --overwrite writes into it`);
}

async function restore(session: Session, plan: RestorePlan, directory: string): Promise<void> {
  const { snapshot } = plan;
  const progress = createProgress(`step ${snapshot.step} of ${snapshot.run}`);
  progress.expect(snapshot.imageBytes);
  const done = new Map<string, ManifestPart>();
  try {
    await forEachParallel(plan.parts, PARTS_AT_ONCE, async ({ name }) => {
      await using reader = session.client.snapshots.openPart(plan, name, session);
      const file = join(directory, fileOf(name));
      let digests = '';
      await writeWhole(file, async (write) => {
        digests = await copyImage(reader, write, progress);
      });
      done.set(name, manifestPart(reader, digests));
    });
  } finally {
    progress.end();
  }
  const { run, step, session: made, metadata } = snapshot;
  const manifest: Manifest = {
    ...{ format: CHECKPOINT_FORMAT, run, step, session: made, metadata },
    committedAt: new Date(snapshot.committedAtMs).toISOString(),
    parts: plan.parts.map(({ name }) => done.get(name) as ManifestPart),
  };
  const text = Buffer.from(`${JSON.stringify(manifest)}\n`);
  await writeWhole(join(directory, MANIFEST), async (write) => await write(text));
}

/** As in the bucket, with the one file as its data object. */
function manifestPart({ part }: PartReader, digests: string): ManifestPart {
  const { name, imageBytes, shards } = part;
  return {
    ...{ name, imageBytes, shards, digests },
    ...{ blockBytes: blockBytesOf(part), digest: 'gmac-aes-128' },
    runs: [[0, imageBytes, fileOf(name), 0]],
  };
}

/** Of one that is not stored yet we choose. */
function blockBytesOf({ blockBytes, digests }: RestorePart): number {
  return digests === null ? CHECKPOINT_BLOCK_BYTES : blockBytes;
}

/** Piece by piece: the next is read while one is written. Returns the digests of its blocks. @throws `data_corrupt` */
async function copyImage(
  reader: PartReader,
  write: (bytes: Uint8Array) => Promise<void>,
  progress: Progress,
): Promise<string> {
  const { DIGEST_BYTES, digestOf } = await import('@ebb/checkpoint');
  const { imageBytes, digests } = reader.part;
  const known = digests === null ? undefined : Buffer.from(digests, 'base64');
  const blockBytes = blockBytesOf(reader.part);
  const pieceBytes = Math.max(1, Math.floor(READ_BYTES / blockBytes)) * blockBytes;
  const found: Buffer[] = [];
  const buffers = [0, 1].map(() => Buffer.allocUnsafeSlow(Math.min(pieceBytes, imageBytes)));
  const fill = async (at: number): Promise<Buffer> => {
    const buffer = buffers[(at / pieceBytes) % 2] as Buffer;
    return buffer.subarray(0, await reader.read(buffer, at));
  };
  let reading = fill(0);
  for (let at = 0; at < imageBytes; at += pieceBytes) {
    const piece = await reading;
    for (let from = 0; from < piece.length; from += blockBytes) {
      const digest = digestOf(piece.subarray(from, from + blockBytes));
      const slot = (found.push(digest) - 1) * DIGEST_BYTES;
      const isKnown =
        known === undefined || digest.equals(known.subarray(slot, slot + DIGEST_BYTES));
      if (!isKnown) throw mismatch(reader.part, at + from, at + from + blockBytes);
    }
    const next = at + pieceBytes;
    if (next < imageBytes) {
      reading = fill(next);
      reading.catch(() => undefined); // awaited in the next turn
    }
    await write(piece);
    progress.add(piece.length);
  }
  return Buffer.concat(found).toString('base64');
}

function mismatch({ name, shards, imageBytes }: RestorePart, from: number, to: number): StoreError {
  const end = Math.min(to, imageBytes);
  const hit = shards.filter(({ offset, length }) => offset < end && offset + length > from);
  return new StoreError(
    'data_corrupt',
    `part ${name}: bytes ${from} to ${end} are not what was stored (${hit.map((shard) => shard.name).join(', ')}); "ebb checkpoint verify" tells more`,
    { part: name, offset: from },
  );
}
