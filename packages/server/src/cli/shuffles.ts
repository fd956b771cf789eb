import { Command } from '@commander-js/extra-typings';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { printJson, printTable } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('shuffles')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb shuffles', 'ebb shuffles --json'))
    .action(async (options) => {
      await withClient(options, async ({ client, signal }) => {
        const shuffles = await client.shuffles({ signal });
        if (options.json === true) {
          await printJson({ shuffles });
          return;
        }
        await printTable(shuffles, [
          { title: 'job', cell: (shuffle) => shuffle.jobId },
          { title: 'shuffle', right: true, cell: (shuffle) => String(shuffle.shuffleId) },
          {
            title: 'maps',
            right: true,
            cell: (shuffle) => `${shuffle.committedMaps}/${shuffle.maps}`,
          },
          { title: 'partitions', right: true, cell: (shuffle) => String(shuffle.partitions) },
          { title: 'size', right: true, cell: (shuffle) => formatBytes(shuffle.sizeBytes) },
        ]);
      });
    });
}
