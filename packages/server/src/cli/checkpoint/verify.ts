/** `ebb checkpoint verify`. */
import { Command } from '@commander-js/extra-typings';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { EXIT } from '../exit-codes.ts';
import { examples, jsonOption, nodeOption } from '../options.ts';
import { count, printJson, printLine, printTable } from '../output.ts';
import { withClient } from '../session.ts';
import { bucketOption, runArgument, stepChoiceArgument } from './arguments.ts';

export function createVerify(): AnyCommand {
  return new Command('verify')
    .description('read all bytes of a snapshot and compare them with their digests')
    .addArgument(runArgument())
    .addArgument(stepChoiceArgument())
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint verify gpt', 'ebb checkpoint verify gpt 1200 --json')}

Exit code 7 when something is broken. Digests are known when a snapshot is stored: one that is not yet is not compared.`,
    )
    .action(async (run, choice, options) => {
      await withClient(options, async ({ client, signal }) => {
        const at = { bucket: options.bucket, signal };
        const { step, newBytes } = await client.snapshots.get(run, choice, at);
        const found = await client.snapshots.verify(run, step, at);
        const { broken, bytes, fallback } = found;
        if (broken.length > 0) process.exitCode = EXIT.damaged;
        if (options.json === true) {
          await printJson({ run, step, ...found });
          return;
        }
        if (newBytes === null) {
          await printLine(`step ${step} of run ${run} is not stored yet: nothing to compare with`);
          return;
        }
        await printLine(
          `step ${step} of run ${run}: ${formatBytes(bytes)} read, ${count(broken.length, 'broken range')}`,
        );
        if (broken.length === 0) return;
        await printTable(broken, [
          { title: 'part', cell: ({ part }) => part },
          { title: 'where', cell: ({ source }) => (source === 'image' ? 'memory' : 'stored') },
          { title: 'offset', right: true, cell: ({ offset }) => String(offset) },
          { title: 'size', right: true, cell: ({ length }) => formatBytes(length) },
          { title: 'problem', cell: ({ problem }) => problem },
          { title: 'shards', cell: ({ shards }) => shards.map((name) => name || '""').join(' ') },
        ]);
        await printLine(
          fallback === null
            ? 'There is no older snapshot that is not marked bad.'
            : `The good one before is step ${fallback}; "ebb checkpoint bad ${run} ${step}" makes it the latest.`,
        );
      });
    });
}
