import { Command } from '@commander-js/extra-typings';
import { parseObjectKey } from '@ebb/client';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { formatTime, printConditions, printJson, printLine, printTable } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('why')
    .argument('<object>', 'bucket/key')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb why results/2026/report.csv'))
    .action(async (object, options) => {
      const { bucket, key } = parseObjectKey(object);
      await withClient(options, async ({ client, signal }) => {
        const why = await client.why(bucket, key, { signal });
        if (options.json === true) {
          await printJson(why);
          return;
        }
        await printLine(`${why.subject}: ${why.summary}`);
        await printConditions(why.conditions);
        if (why.events.length === 0) return;
        await printLine('');
        await printTable(why.events, [
          { title: 'when', cell: (event) => formatTime(event.atMs) },
          { title: 'what', cell: (event) => event.what },
          {
            title: 'details',
            cell: (event) =>
              Object.entries(event.details)
                .map(([name, value]) => `${name}=${value}`)
                .join(' '),
          },
        ]);
      });
    });
}
