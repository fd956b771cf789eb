import { Command } from '@commander-js/extra-typings';
import { formatObjectName, parseObjectKey, parseObjectName, toPrefix } from '@ebb/client';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { count, printJson, printLine } from './output.ts';
import { withClient } from './session.ts';
import { targetKey } from './transfer.ts';

export function create(): AnyCommand {
  return new Command('mv')
    .argument('<from>', 'bucket/key, or with -r a prefix')
    .argument('<to>', 'the new name')
    .addOption(recursiveOption)
    .option('--no-overwrite', 'refuse when the target exists')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb mv results/draft.csv results/final.csv', 'ebb mv -r results/tmp results/2026')}

A rename is one step, of a prefix too: readers see all of it or nothing. For local files use cp and rm.`,
    )
    .action(async (source, target, options) => {
      const { recursive, overwrite } = options;
      const from = recursive === true ? parseObjectName(source) : parseObjectKey(source);
      const to =
        recursive === true ? parseObjectName(target) : targetKey(parseObjectName(target), from.key);
      await withClient(options, async ({ client, signal }) => {
        const affected =
          recursive === true
            ? await client.renamePrefix(
                { bucket: from.bucket, key: toPrefix(from.key) },
                { bucket: to.bucket, key: toPrefix(to.key) },
                { overwrite, signal },
              )
            : await client.rename(from, to, { overwrite, signal });
        if (options.json === true) await printJson(affected);
        else if (recursive === true)
          await printLine(`renamed ${count(affected.objects, 'object')}`);
        else await printLine(`renamed ${formatObjectName(from)} to ${formatObjectName(to)}`);
      });
    });
}
