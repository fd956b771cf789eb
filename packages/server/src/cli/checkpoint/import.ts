/** `ebb checkpoint import`. */
import { Command } from '@commander-js/extra-typings';
import { StoreError } from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { EXIT } from '../exit-codes.ts';
import { examples, jsonOption, nodeOption } from '../options.ts';
import { printJson, printLine } from '../output.ts';
import { withClient } from '../session.ts';
import { bucketOption } from './arguments.ts';
import { printImported, printRefused } from './imported.ts';

export function createImport(): AnyCommand {
  return new Command('import')
    .description('take in snapshots that the remote tier has and this node does not know')
    .argument('[run]', 'its name; nothing for all runs of the bucket')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb checkpoint import', 'ebb checkpoint import gpt --bucket secret-runs')}

For a node that takes the place of one that is lost: the bucket must have the same place in the remote tier as it had there. What the
node has a record of stays as it is. Bytes of tensors stay where they are until somebody restores them. Exit code 7 when a
manifest was not taken in: it is not whole, or names what is not there; all others are.`,
    )
    .action(async (run, options) => {
      await withClient(options, async ({ client, signal }) => {
        const { bucket } = options;
        const imported = await client.runs.import(run, { bucket, signal });
        if (run !== undefined && imported.runs.length + imported.refused.length === 0)
          throw new StoreError('not_found', `no snapshots of run ${run} in ${bucket}`, {
            bucket,
            run,
          });
        if (imported.refused.length > 0) process.exitCode = EXIT.damaged;
        if (options.json === true) {
          await printJson(imported);
          return;
        }
        if (imported.runs.length === 0) await printLine(`no snapshots to import in ${bucket}`);
        await printImported(imported.runs);
        printRefused(imported.refused);
      });
    });
}
