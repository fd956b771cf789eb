/** `ebb checkpoint diff`: what two snapshots of a run share, shard by shard, by the digests of their blocks. */
import { Command } from '@commander-js/extra-typings';
import { formatBytes, type RestorePart, type RestorePlan, StoreError } from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { examples, jsonOption, nodeOption } from '../options.ts';
import { count, printJson, printLine, printTable } from '../output.ts';
import { withClient } from '../session.ts';
import { bucketOption, runArgument, stepArgument } from './arguments.ts';
import { diffSnapshots, type ShardChange } from './shard-changes.ts';

export function createDiff(): AnyCommand {
  return new Command('diff')
    .description('compare two snapshots of a run, shard by shard')
    .addArgument(runArgument())
    .addArgument(stepArgument('before'))
    .addArgument(stepArgument('after'))
    .option('--all', 'list what is the same too')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint diff gpt 1100 1200')}

No tensor is read: the digests of blocks of 256 KiB are compared. A block that changed marks every shard that lies in it, so a small
shard beside one that changed may be called changed too. A shard that moved by anything but whole blocks is "moved": its blocks cannot be compared.`,
    )
    .action(async (run, first, second, options) => {
      await withClient(options, async ({ client, signal }) => {
        const at = { bucket: options.bucket, signal };
        const plans = [
          await client.snapshots.plan(run, first, at),
          await client.snapshots.plan(run, second, at),
        ] as const;
        for (const plan of plans) assertStored(plan);
        const changes = diffSnapshots(...plans);
        if (options.json === true) {
          await printJson({ run, steps: [first, second], shards: changes });
          return;
        }
        const shown =
          options.all === true ? changes : changes.filter(({ change }) => change !== 'same');
        if (shown.length > 0) await printChanges(shown);
        await printLine(summary(changes));
      });
    });
}

/** @throws `busy` */
function assertStored({ snapshot: { run, step }, parts }: RestorePlan): void {
  if (parts.every(({ digests }: RestorePart) => digests !== null)) return;
  const message = `step ${step} of run ${run} is not stored yet: "ebb checkpoint wait ${run} ${step} --for disk"`;
  throw new StoreError('busy', message, { run, step });
}

async function printChanges(changes: readonly ShardChange[]): Promise<void> {
  await printTable(changes, [
    { title: 'change', cell: ({ change, step }) => (step === null ? change : `only in ${step}`) },
    { title: 'part', cell: ({ part }) => part },
    { title: 'size', right: true, cell: ({ length }) => formatBytes(length) },
    {
      title: 'changed blocks',
      right: true,
      cell: ({ blocks }) => (blocks === null ? '' : `${blocks.changed} of ${blocks.all}`),
    },
    {
      title: 'shard',
      cell: ({ name, start }) =>
        `${name || '""'}${start === null ? '' : ` from [${start.join(', ')}]`}`,
    },
  ]);
}

function summary(changes: readonly ShardChange[]): string {
  const of = (change: ShardChange['change']): number =>
    changes.filter((one) => one.change === change).length;
  const words = [
    `${of('same')} the same`,
    `${of('changed')} changed`,
    ...(of('moved') === 0 ? [] : [`${of('moved')} moved`]),
    ...(of('only in one') === 0 ? [] : [`${of('only in one')} only in one`]),
  ];
  return `${count(changes.length, 'shard')}: ${words.join(', ')}`;
}
