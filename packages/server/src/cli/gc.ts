import { Command } from '@commander-js/extra-typings';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { printFacts, printJson } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('gc')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb gc'))
    .action(async (options) => {
      await withClient(options, async ({ client, signal }) => {
        const report = await client.gc({ signal });
        if (options.json === true) {
          await printJson(report);
          return;
        }
        await printFacts({
          'expired writes': String(report.expiredStagings),
          'orphan files': `${report.orphanFiles} (${formatBytes(report.orphanBytes)})`,
          'lost objects': String(report.lostObjects),
          'recycled files released': formatBytes(report.trimmedPoolBytes),
        });
      });
    });
}
