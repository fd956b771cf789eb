import { Command } from '@commander-js/extra-typings';
import { formatObjectName, parseObjectKey, parseObjectName, toPrefix } from '@ebb/client';
import { formatBytes, isStoreError } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { count, printJson, printLine } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('rm')
    .argument('<objects...>', 'bucket/key, or with -r prefixes')
    .addOption(recursiveOption)
    .option('-f, --force', 'objects that do not exist are no error')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples('ebb rm results/draft.csv', 'ebb rm -r results/tmp', 'ebb rm -r results/   # all of the bucket')}

A prefix ends at a slash: "rm -r results/a" deletes results/a/…, never results/ab.`,
    )
    .action(async (objects, options) => {
      const names = objects.map(options.recursive === true ? parseObjectName : parseObjectKey);
      await withClient(options, async ({ client, signal }) => {
        const total = { objects: 0, sizeBytes: 0 };
        for (const name of names) {
          if (options.recursive === true) {
            const gone = await client.deletePrefix(name.bucket, toPrefix(name.key), { signal });
            total.objects += gone.objects;
            total.sizeBytes += gone.sizeBytes;
            continue;
          }
          try {
            await client.delete(name.bucket, name.key, { signal });
            total.objects++;
          } catch (error) {
            if (options.force !== true || !isStoreError(error, 'not_found')) throw error;
          }
        }
        if (options.json === true) {
          await printJson(options.recursive === true ? total : { objects: total.objects });
        } else if (options.recursive === true) {
          await printLine(
            `deleted ${count(total.objects, 'object')} (${formatBytes(total.sizeBytes)})`,
          );
        } else {
          for (const name of names) await printLine(`deleted ${formatObjectName(name)}`);
        }
      });
    });
}
