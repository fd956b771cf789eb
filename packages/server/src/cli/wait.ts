import { Command, Option } from '@commander-js/extra-typings';
import { formatObjectName, parseObjectKey } from '@ebb/client';
import type { AnyCommand } from './command.ts';
import { durationArgument, examples, jsonOption, nodeOption } from './options.ts';
import { printJson, printLine } from './output.ts';
import { withClient } from './session.ts';
import { printable } from './table.ts';

export function create(): AnyCommand {
  return new Command('wait')
    .argument('<object>', 'ebb://bucket/key')
    .addOption(
      new Option('--for <level>', 'disk: makes the copy now; remote: until the mirror has made it')
        .choices(['disk', 'remote'])
        .default('remote' as const),
    )
    .option('--timeout <time>', 'give up after this time, such as 30s', durationArgument)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples('ebb wait results/2026/report.csv', 'ebb wait results/x --for disk --timeout 30s'),
    )
    .action(async (object, options) => {
      const { bucket, key } = parseObjectKey(object);
      await withClient(options, async ({ client, signal }) => {
        const { for: level, timeout: timeoutMs } = options;
        const waited = await client.wait(bucket, key, { for: level, timeoutMs, signal });
        if (options.json === true) await printJson({ bucket, key, ...waited });
        else
          await printLine(
            `${printable(formatObjectName({ bucket, key }))}, version ${waited.version}: ${waited.durability}`,
          );
      });
    });
}
