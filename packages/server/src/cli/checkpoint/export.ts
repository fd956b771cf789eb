/** `ebb checkpoint export`: the tensors of a snapshot as one safetensors file. */
import { Command } from '@commander-js/extra-typings';
import type { PartReader } from '@ebb/client';
import { formatBytes, MiB, type RestorePlan, StoreError } from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { examples, jsonOption, nodeOption } from '../options.ts';
import { count, printJson, printLine, writeTaken } from '../output.ts';
import { createProgress } from '../progress.ts';
import { type Session, withClient } from '../session.ts';
import { printable } from '../table.ts';
import { bucketOption, runArgument, stepChoiceArgument } from './arguments.ts';
import { writeWhole } from './files.ts';
import { otherNames, TIED, TREE } from './other-names.ts';
import { problemOf, safetensorsHeader } from './safetensors.ts';
import {
  gatherTensors,
  type PartShards,
  type ReadPart,
  type Tensor,
  tensorChunks,
} from './tensors.ts';

/** The tree of a state with millions of values is smaller. */
const TREE_BYTES_MAX = 256 * MiB;

export function createExport(): AnyCommand {
  return new Command('export')
    .description('write the tensors of a snapshot to one safetensors file')
    .addArgument(runArgument())
    .addArgument(stepChoiceArgument())
    .requiredOption('--to <file>', 'such as model.safetensors; "-" for standard output')
    .option('--part <part>', 'only this part; again for more', collect)
    .option('--prefix <prefix>', 'only tensors whose name begins so, such as model.')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint export gpt --to gpt.safetensors', 'ebb checkpoint export gpt 1200 --prefix model. --to weights.safetensors')}

Pieces of one tensor that lie in several parts become the whole tensor; replicas must have the same bytes. Tied tensors are written
under each of their names. What is no tensor, and what safetensors cannot hold, is left out and named on standard error.`,
    )
    .action(async (run, step, options) => {
      await withClient(options, async (session) => {
        const asked = { bucket: options.bucket, digests: false, signal: session.signal };
        const plan = await session.client.snapshots.plan(run, step, asked);
        await using parts = new OpenParts(session, plan);
        const { tensors, leftOut } = await choose(plan, options, parts.read);
        for (const { part, name, why } of leftOut)
          process.stderr.write(`left out: ${printable(name)} of part ${part}: ${why}\n`);
        const sizeBytes = await exportTensors(parts.read, plan, tensors, options.to);
        if (options.to === '-') return;
        const { step: exported } = plan.snapshot;
        if (options.json === true)
          await printJson({
            ...{ run, step: exported, file: options.to },
            ...{ tensors: tensors.length, sizeBytes, leftOut },
          });
        else
          await printLine(
            `step ${exported} of run ${run}: ${count(tensors.length, 'tensor')} (${formatBytes(sizeBytes)}) in ${options.to}`,
          );
      });
    });
}

function collect(part: string, before: readonly string[] = []): string[] {
  return [...before, part];
}

interface LeftOut {
  readonly part: string;
  readonly name: string;
  readonly why: string;
}

async function choose(
  plan: RestorePlan,
  { part: names, prefix = '' }: { readonly part?: string[]; readonly prefix?: string },
  read: ReadPart,
): Promise<{ readonly tensors: readonly Tensor[]; readonly leftOut: readonly LeftOut[] }> {
  for (const name of names ?? [])
    if (!plan.parts.some((part) => part.name === name))
      throw new StoreError('not_found', `the snapshot has no part ${name}`, { part: name });
  const parts: PartShards[] = [];
  const unwritten: LeftOut[] = [];
  const tied = await readTrees(TIED, plan.parts, read);
  for (const part of plan.parts) {
    const { name, shards } = part;
    if (names !== undefined && !names.includes(name)) continue;
    const trees = [...(await readTrees(TREE, [part], read)), ...tied];
    const others = trees.map((tree) => otherNames(tree, shards));
    const all = [...shards, ...others.flatMap((one) => one.shards)];
    const isAsked = (one: { readonly name: string }): boolean =>
      one.name !== TIED && one.name.startsWith(prefix);
    parts.push({ name, shards: all.filter(isAsked) });
    for (const one of others.flatMap(({ leftOut }) => leftOut))
      if (isAsked(one)) unwritten.push({ part: name, ...one });
  }
  const { tensors, others } = gatherTensors(parts);
  if (tensors.length === 0) throw new StoreError('not_found', 'there are no such tensors');
  const refused = tensors.flatMap((tensor) => {
    const why = problemOf(tensor);
    if (why === undefined) return [];
    return [{ part: tensor.pieces[0]?.part ?? '', name: tensor.name, why }];
  });
  const plain = others.map(({ part, shard }) => {
    const why = `${formatBytes(shard.length)} of plain bytes, no tensor`;
    return { part, name: shard.name === '' ? '(what is no tensor)' : shard.name, why };
  });
  return {
    tensors: tensors.filter((tensor) => problemOf(tensor) === undefined),
    leftOut: [...refused, ...unwritten, ...plain],
  };
}

/** The trees that name tensors without a shard of their own: of a part, or of all parts. */
async function readTrees(
  name: typeof TREE | typeof TIED,
  parts: RestorePlan['parts'],
  read: ReadPart,
): Promise<readonly string[]> {
  const trees: string[] = [];
  for (const { name: part, shards } of parts)
    for (const shard of shards) {
      if (shard.name !== name || shard.dtype !== undefined) continue;
      if (shard.length > TREE_BYTES_MAX)
        throw new StoreError('unsupported', `part ${part}: a tree of ${formatBytes(shard.length)}`);
      const text = Buffer.alloc(shard.length);
      await read(part, text, shard.offset);
      trees.push(text.toString());
    }
  return trees;
}

/** Returns the size of the file. */
async function exportTensors(
  read: ReadPart,
  plan: RestorePlan,
  tensors: readonly Tensor[],
  target: string,
): Promise<number> {
  const { run, step, metadata } = plan.snapshot;
  const facts = { format: 'pt', ...metadata, 'ebb.run': run, 'ebb.step': String(step) };
  const { header, order, dataBytes } = safetensorsHeader(tensors, facts);
  const progress = createProgress(target);
  progress.expect(dataBytes);
  const writeAll = async (write: (bytes: Uint8Array) => Promise<void>): Promise<void> => {
    await write(header);
    for (const tensor of order)
      for await (const chunk of tensorChunks(tensor, read)) {
        await write(chunk);
        progress.add(chunk.length);
      }
  };
  try {
    await (target === '-' ? writeAll(writeTaken) : writeWhole(target, writeAll));
  } finally {
    progress.end();
  }
  return header.length + dataBytes;
}

class OpenParts implements AsyncDisposable {
  readonly #session: Session;
  readonly #plan: RestorePlan;
  readonly #readers = new Map<string, PartReader>();

  constructor(session: Session, plan: RestorePlan) {
    this.#session = session;
    this.#plan = plan;
  }

  readonly read: ReadPart = async (part, target, position) => {
    const { client, signal } = this.#session;
    const reader =
      this.#readers.get(part) ?? client.snapshots.openPart(this.#plan, part, { signal });
    this.#readers.set(part, reader);
    const bytes = await reader.read(target, position);
    if (bytes === target.byteLength) return;
    throw new StoreError('data_corrupt', `part ${part} ends before one of its shards`, { part });
  };

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#readers.values()].map((reader) => reader.close()));
  }
}
