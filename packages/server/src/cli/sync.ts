import { Command } from '@commander-js/extra-typings';
import { parseObjectName } from '@ebb/client';
import { formatBytes } from '@ebb/protocol';
import { printImported, printRefused } from './checkpoint/imported.ts';
import type { AnyCommand } from './command.ts';
import { EXIT } from './exit-codes.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { count, printJson, printLine } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('sync')
    .argument('<name>', 'bucket, or bucket/prefix')
    .option('--remove', 'objects that went in the remote tier go here too')
    .option('--dry-run', 'say what would be done, and change nothing')
    .option('--force', 'remove also where so much went that the remote tier looks broken')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb sync lake', 'ebb sync lake/2026/ --remove')}

Snapshots of training jobs are taken in with the objects that they consist of. Bytes stay where they are until somebody reads them; ebb warm fetches them ahead.`,
    )
    .action(async (name, options) => {
      const { bucket, key: prefix } = parseObjectName(name);
      await withClient(options, async ({ client, signal }) => {
        const dryRun = options.dryRun === true;
        const report = await client.sync(bucket, {
          ...{ prefix, dryRun, remove: options.remove === true, force: options.force === true },
          signal,
        });
        if (report.removalRefused !== undefined) {
          process.stderr.write(`${report.removalRefused}\n`);
          process.exitCode = EXIT.failed;
        }
        if (options.json === true) {
          await printJson(report);
          return;
        }
        const { added, updated, removed, unchanged, bytes } = report;
        await printLine(
          `${dryRun ? 'would be: ' : ''}${count(added, 'object')} added, ${updated} updated, ${removed} removed, ${unchanged} as they were (${formatBytes(bytes)} to be read when asked for)`,
        );
        await printImported(report.checkpoints.runs.filter(({ imported }) => imported > 0));
        printRefused([...report.refused, ...report.checkpoints.refused]);
      });
    });
}
