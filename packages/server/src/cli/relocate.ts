import { Argument, Command } from '@commander-js/extra-typings';
import { parseObjectKey, parseObjectName, toPrefix } from '@ebb/client';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { count, printJson, printLine } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('relocate')
    .argument('<object>', 'bucket/key, or with -r a prefix')
    .addArgument(new Argument('<tier>', 'where to').choices(['memory', 'disk', 'remote']))
    .addOption(recursiveOption)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples('ebb relocate models/v7/weights.bin memory', 'ebb relocate -r results/2025 remote'),
    )
    .action(async (object, tier, options) => {
      await withClient(options, async ({ client, signal }) => {
        const { bucket, key } =
          options.recursive === true ? parseObjectName(object) : parseObjectKey(object);
        const affected =
          options.recursive === true
            ? await client.relocatePrefix(bucket, toPrefix(key), tier, { signal })
            : await client.relocate(bucket, key, tier, { signal });
        if (options.json === true) await printJson(affected);
        else
          await printLine(
            `${tier} holds ${count(affected.objects, 'object')} (${formatBytes(affected.sizeBytes)})`,
          );
      });
    });
}
