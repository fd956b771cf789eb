/** `ebb checkpoint ls`, `show` and `latest`. */
import { Command } from '@commander-js/extra-typings';
import {
  formatBytes,
  type RestorePart,
  type RunInfo,
  type RunPolicy,
  type SnapshotInfo,
} from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { examples, jsonOption, nodeOption } from '../options.ts';
import {
  count,
  formatAge,
  formatTime,
  printFacts,
  printJson,
  printLine,
  printTable,
} from '../output.ts';
import { withClient } from '../session.ts';
import { printable } from '../table.ts';
import { bucketOption, runArgument, stepChoiceArgument } from './arguments.ts';

export function createList(): AnyCommand {
  return new Command('ls')
    .alias('list')
    .description('list runs, or the snapshots of a run')
    .argument('[run]', 'its name; nothing for all runs')
    .option('--bucket <bucket>', 'where the run is; without a run: only those of this bucket')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint ls', 'ebb checkpoint ls gpt', 'ebb checkpoint ls gpt --json | jq .snapshots[0].durability')}

New is what no earlier snapshot had, and saved the share that was there already. In memory are the images that a restore on this
node maps; durable says what holds of the snapshot when they are gone: memory (nothing), disk, remote.`,
    )
    .action(async (run, options) => {
      const { bucket } = options;
      await withClient(options, async ({ client, signal }) => {
        if (run === undefined) {
          const runs = await client.runs.list({ bucket, signal });
          await (options.json === true ? printJson({ runs }) : printRuns(runs));
          return;
        }
        const snapshots = await client.snapshots.list(run, { bucket, signal });
        await (options.json === true ? printJson({ snapshots }) : printSnapshots(snapshots));
      });
    });
}

export function createShow(): AnyCommand {
  return new Command('show')
    .description('show a snapshot, its parts and what holds of them')
    .addArgument(runArgument())
    .addArgument(stepChoiceArgument())
    .option('--shards', 'list the tensors too')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples('ebb checkpoint show gpt', 'ebb checkpoint show gpt 1200 --shards'),
    )
    .action(async (run, step, options) => {
      await withClient(options, async ({ client, signal }) => {
        const asked = { bucket: options.bucket, digests: false, signal };
        const plan = await client.snapshots.plan(run, step, asked);
        const parts = plan.parts.map(({ digests: _, ...part }) => part);
        if (options.json === true) {
          await printJson({ snapshot: plan.snapshot, parts });
          return;
        }
        await printSnapshot(plan.snapshot);
        await printLine('');
        await printParts(parts);
        if (options.shards !== true) return;
        await printLine('');
        await printShards(parts);
      });
    });
}

export function createLatest(): AnyCommand {
  return new Command('latest')
    .description('print the step to go on from: the newest that is not marked bad')
    .addArgument(runArgument())
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint latest gpt')}\n\nExit code 3 when there is none.`,
    )
    .action(async (run, options) => {
      await withClient(options, async ({ client, signal }) => {
        const latest = await client.snapshots.get(run, 'latest', {
          bucket: options.bucket,
          signal,
        });
        if (options.json === true) await printJson(latest);
        else await printLine(String(latest.step));
      });
    });
}

async function printRuns(runs: readonly RunInfo[]): Promise<void> {
  await printTable(runs, [
    { title: 'bucket', cell: ({ bucket }) => bucket },
    { title: 'run', cell: ({ run }) => run },
    { title: 'snapshots', right: true, cell: ({ snapshots }) => String(snapshots) },
    { title: 'latest', right: true, cell: ({ latestStep }) => String(latestStep ?? '') },
    { title: 'stored', right: true, cell: ({ storedBytes }) => formatBytes(storedBytes) },
    { title: 'keeps', cell: ({ policy }) => formatKept(policy) },
  ]);
}

/** `last 3, every 1000, up to 7 d` */
function formatKept(policy: RunPolicy): string {
  const { keepLast, keepEvery, maxAgeMs, maxBytes } = policy;
  const words = [
    ...(keepLast === null ? [] : [`last ${keepLast}`]),
    ...(maxAgeMs === null ? [] : [`up to ${formatAge(maxAgeMs)}`]),
    ...(maxBytes === null ? [] : [`up to ${formatBytes(maxBytes)}`]),
  ];
  if (words.length === 0) return 'all';
  return [...words, ...(keepEvery === null ? [] : [`every ${keepEvery}`])].join(', ');
}

async function printSnapshots(snapshots: readonly SnapshotInfo[]): Promise<void> {
  await printTable(snapshots, [
    { title: 'step', right: true, cell: ({ step }) => String(step) },
    { title: 'committed', cell: ({ committedAtMs }) => formatTime(committedAtMs) },
    { title: 'parts', right: true, cell: ({ parts }) => String(parts.length) },
    { title: 'size', right: true, cell: ({ imageBytes }) => formatBytes(imageBytes) },
    {
      title: 'new',
      right: true,
      cell: ({ newBytes }) => (newBytes === null ? '' : formatBytes(newBytes)),
    },
    { title: 'saved', right: true, cell: formatSaved },
    { title: 'in memory', cell: ({ inMemory }) => (inMemory ? 'yes' : 'no') },
    { title: 'durable', cell: ({ durability }) => durability },
    { title: 'notes', cell: formatNotes },
  ]);
}

/** '' while nobody knows. */
function formatSaved({ imageBytes, newBytes }: SnapshotInfo): string {
  if (newBytes === null || imageBytes === 0) return '';
  return `${Math.floor(100 * (1 - newBytes / imageBytes))}%`;
}

function formatNotes({ pinned, bad }: SnapshotInfo): string {
  return [...(pinned ? ['pinned'] : []), ...(bad === null ? [] : [`bad: ${bad}`])].join(', ');
}

async function printSnapshot(snapshot: SnapshotInfo): Promise<void> {
  const { imageBytes, newBytes, durability, inMemory } = snapshot;
  const metadata = Object.entries(snapshot.metadata).map(([name, value]) => [
    `meta ${printable(name)}`,
    printable(value),
  ]);
  await printFacts({
    snapshot: `step ${snapshot.step} of run ${snapshot.run} in ${snapshot.bucket}`,
    committed: formatTime(snapshot.committedAtMs),
    size: `${formatBytes(imageBytes)} in ${count(snapshot.parts.length, 'part')}`,
    new:
      newBytes === null
        ? 'not stored yet'
        : `${formatBytes(newBytes)} (${formatSaved(snapshot)} of it was stored before)`,
    'in memory': inMemory ? 'yes' : 'no',
    durable: {
      memory: 'no: lost when the host restarts',
      disk: 'on disk',
      remote: 'in the remote tier',
    }[durability],
    session: snapshot.session,
    pinned: snapshot.pinned ? 'yes' : undefined,
    bad: snapshot.bad === null ? undefined : printable(snapshot.bad),
    ...Object.fromEntries(metadata),
  });
}

type ShownPart = Omit<RestorePart, 'digests'>;

async function printParts(parts: readonly ShownPart[]): Promise<void> {
  await printTable(parts, [
    { title: 'part', cell: ({ name }) => name },
    { title: 'size', right: true, cell: ({ imageBytes }) => formatBytes(imageBytes) },
    { title: 'shards', right: true, cell: ({ shards }) => String(shards.length) },
    {
      title: 'image',
      cell: ({ image }) => (image === null ? 'given up' : `${image.bucket}/${image.key}`),
    },
    {
      title: 'stored in',
      cell: ({ runs }) =>
        runs === null
          ? 'not yet'
          : count(new Set(runs.map(([, , key]) => key)).size, 'data object'),
    },
  ]);
}

async function printShards(parts: readonly ShownPart[]): Promise<void> {
  const rows = parts.flatMap(({ name: part, shards }) =>
    shards.map((shard) => ({ part, ...shard })),
  );
  await printTable(rows, [
    { title: 'part', cell: ({ part }) => part },
    { title: 'dtype', cell: ({ dtype }) => dtype ?? 'bytes' },
    { title: 'shape', cell: ({ shape }) => (shape === undefined ? '' : `[${shape.join(', ')}]`) },
    {
      title: 'piece of',
      cell: ({ piece }) =>
        piece === undefined ? '' : `[${piece.shape.join(', ')}] from [${piece.start.join(', ')}]`,
    },
    { title: 'size', right: true, cell: ({ length }) => formatBytes(length) },
    { title: 'name', cell: ({ name }) => (name === '' ? '(what is no tensor)' : name) },
  ]);
}
