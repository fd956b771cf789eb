import { basename } from 'node:path';
import { Command } from '@commander-js/extra-typings';
import {
  type EbbClient,
  formatObjectName,
  type ObjectName,
  parseObjectName,
  toPrefix,
} from '@ebb/client';
import { formatBytes, isStoreError, type PrefixSnapshotSource } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { count, formatTime, printJson, printLine, printTable } from './output.ts';
import { withClient } from './session.ts';
import { printable } from './table.ts';
import { targetKey } from './transfer.ts';

export function create(): AnyCommand {
  return new Command('snapshot')
    .addCommand(createSnapshot())
    .addCommand(listSnapshots())
    .addCommand(restoreSnapshot())
    .addCommand(removeSnapshot())
    .addHelpText(
      'after',
      examples(
        'ebb snapshot create models/v7/ before-tuning',
        'ebb snapshot restore before-tuning --exact',
      ),
    ) as AnyCommand;
}

function createSnapshot(): AnyCommand {
  return new Command('create')
    .description('keep an object, or all below a prefix, as it is now; no bytes are copied')
    .argument(
      '<source>',
      'bucket, bucket/prefix/ or bucket/key; without a slash at the end it is a prefix where no object has the name',
    )
    .argument('<name>', 'of the snapshot: letters, digits, ".", "_" and "-"')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb snapshot create models/v7/ before-tuning', 'ebb snapshot create results/report.csv report-friday')}

All of it is of one moment, whatever is written meanwhile. The copies are objects of the bucket BUCKET-snapshots, below NAME/: durable,
mirrored and encrypted as the originals, and never expired.`,
    )
    .action(async (text, name, options) => {
      await withClient(options, async ({ client, signal }) => {
        const source = await sourceOf(client, parseObjectName(text), signal);
        const made = await client.prefixSnapshots.create(name, source, { signal });
        if (options.json === true) await printJson(made);
        else
          await printLine(
            `snapshot ${name}: ${count(made.objects, 'object')} (${formatBytes(made.sizeBytes)}) of ${nameOf(source)}`,
          );
      });
    });
}

function listSnapshots(): AnyCommand {
  return new Command('ls')
    .alias('list')
    .description('list snapshots of objects and prefixes')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb snapshot ls')}\n\nSnapshots of training jobs: "ebb checkpoint ls".`,
    )
    .action(async (options) => {
      await withClient(options, async ({ client, signal }) => {
        const snapshots = await client.prefixSnapshots.list({ signal });
        if (options.json === true) {
          await printJson({ snapshots });
          return;
        }
        await printTable(snapshots, [
          { title: 'name', cell: ({ name }) => name },
          { title: 'created', cell: ({ createdAtMs }) => formatTime(createdAtMs) },
          { title: 'objects', right: true, cell: ({ objects }) => String(objects) },
          { title: 'size', right: true, cell: ({ sizeBytes }) => formatBytes(sizeBytes) },
          { title: 'of', cell: ({ source }) => nameOf(source) },
          { title: 'kept in', cell: ({ kept }) => `${kept.bucket}/${kept.prefix}` },
        ]);
      });
    });
}

function restoreSnapshot(): AnyCommand {
  return new Command('restore')
    .description('bring back what a snapshot has, in one step; no bytes are copied')
    .argument('<name>', 'of the snapshot')
    .option('--to <target>', 'bucket/prefix, or of an object bucket/key; default: where it was')
    .option('--overwrite', 'replace objects that are there')
    .option('--exact', 'replace them, and delete those that the snapshot does not have')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb snapshot restore before-tuning --to models/v7-before', 'ebb snapshot restore before-tuning --overwrite')}

Readers see all of it or nothing. What is there and not in the snapshot stays, unless --exact is given.`,
    )
    .action(async (name, options) => {
      const exact = options.exact === true;
      const overwrite = exact || options.overwrite === true;
      await withClient(options, async ({ client, signal }) => {
        const { source } = await client.prefixSnapshots.get(name, { signal });
        const target = options.to === undefined ? undefined : parseObjectName(options.to);
        const to = target === undefined ? source : targetOf(source, target);
        const asked = { to, overwrite, exact, signal };
        const restored = await client.prefixSnapshots.restore(name, asked);
        const { objects, sizeBytes, removed } = restored;
        if (options.json === true) await printJson(restored);
        else
          await printLine(
            `restored ${count(objects, 'object')} (${formatBytes(sizeBytes)}) to ${nameOf(to)}${removed === 0 ? '' : `, deleted ${removed}`}`,
          );
      });
    });
}

function removeSnapshot(): AnyCommand {
  return new Command('rm')
    .description('remove snapshots; bytes that other objects share stay')
    .argument('<names...>', 'of snapshots')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb snapshot rm before-tuning'))
    .action(async (names, options) => {
      await withClient(options, async ({ client, signal }) => {
        for (const name of names) await client.prefixSnapshots.remove(name, { signal });
        if (options.json === true) await printJson({ snapshots: names.length });
        else for (const name of names) await printLine(`removed snapshot ${name}`);
      });
    });
}

async function sourceOf(
  client: EbbClient,
  { bucket, key }: ObjectName,
  signal: AbortSignal,
): Promise<PrefixSnapshotSource> {
  if (key === '' || key.endsWith('/')) return { bucket, prefix: key };
  try {
    await client.head(bucket, key, { signal });
    return { bucket, key };
  } catch (error) {
    if (!isStoreError(error, 'not_found')) throw error;
    return { bucket, prefix: toPrefix(key) };
  }
}

function targetOf(source: PrefixSnapshotSource, to: ObjectName): PrefixSnapshotSource {
  if ('key' in source) return targetKey(to, basename(source.key));
  return { bucket: to.bucket, prefix: toPrefix(to.key) };
}

function nameOf(place: PrefixSnapshotSource): string {
  const key = 'key' in place ? place.key : place.prefix;
  return printable(formatObjectName({ bucket: place.bucket, key }));
}
