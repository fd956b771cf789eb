import { Command } from '@commander-js/extra-typings';
import { parseObjectName } from '@ebb/client';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { EXIT } from './exit-codes.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { count, printJson, printLine, printTable } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('verify')
    .argument('[name]', 'bucket, or bucket/prefix; nothing for the whole node')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb verify', 'ebb verify results/2026/')}\n\nExit code 7 when something is broken.`,
    )
    .action(async (name, options) => {
      const scope = name === undefined ? undefined : parseObjectName(name);
      await withClient(options, async ({ client, signal }) => {
        const report = await client.verify({
          bucket: scope?.bucket,
          prefix: scope === undefined || scope.key === '' ? undefined : scope.key,
          signal,
        });
        if (report.broken.length > 0) process.exitCode = EXIT.damaged;
        if (options.json === true) {
          await printJson(report);
          return;
        }
        await printLine(
          `${count(report.blobs, 'blob')} (${formatBytes(report.bytes)}) read, ${report.broken.length} broken`,
        );
        if (report.broken.length === 0) return;
        await printTable(report.broken, [
          { title: 'blob', right: true, cell: (broken) => String(broken.blobId) },
          { title: 'tier', cell: (broken) => broken.tier },
          { title: 'problem', cell: (broken) => broken.problem },
          { title: 'objects', cell: (broken) => broken.objects.join(' ') },
        ]);
      });
    });
}
