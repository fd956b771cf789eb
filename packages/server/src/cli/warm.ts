import { Command, Option } from '@commander-js/extra-typings';
import { parseObjectName } from '@ebb/client';
import { formatBytes, StoreError } from '@ebb/protocol';
import PQueue from 'p-queue';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { count, printJson, printLine } from './output.ts';
import { createProgress } from './progress.ts';
import { withClient } from './session.ts';

const FETCHES_AT_ONCE = 4;

export function create(): AnyCommand {
  return new Command('warm')
    .argument('<name>', 'bucket, or bucket/prefix')
    .addOption(
      new Option('--to <tier>', 'where to').choices(['memory', 'disk']).default('disk' as const),
    )
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb warm lake/2026/', 'ebb warm models/v7/ --to memory'))
    .action(async (name, options) => {
      const { bucket, key: prefix } = parseObjectName(name);
      await withClient(options, async ({ client, signal }) => {
        const warmed = { objects: 0, sizeBytes: 0, unchanged: 0 };
        const progress = createProgress(`warming ${name}`);
        const queue = new PQueue({ concurrency: FETCHES_AT_ONCE });
        const failures: Error[] = [];
        for await (const { key, sizeBytes, tiers } of client.listAll(bucket, { prefix, signal })) {
          if (tiers.includes('memory') || tiers.includes(options.to) || sizeBytes === 0) {
            warmed.unchanged++;
            continue;
          }
          progress.expect(sizeBytes);
          await queue.onSizeLessThan(1);
          if (failures.length > 0) break;
          void queue
            .add(async () => {
              await client.relocate(bucket, key, options.to, { signal });
              warmed.objects++;
              warmed.sizeBytes += sizeBytes;
              progress.add(sizeBytes);
            })
            .catch((error: Error) => {
              failures.push(error);
            });
        }
        await queue.onIdle();
        progress.end();
        if (failures[0] !== undefined) throw failures[0];
        if (warmed.objects + warmed.unchanged === 0 && prefix !== '' && !prefix.endsWith('/'))
          throw new StoreError('not_found', `no object ${bucket}/${prefix}, and none below it`, {
            bucket,
            key: prefix,
          });
        if (options.json === true) await printJson(warmed);
        else
          await printLine(
            `${options.to} got ${count(warmed.objects, 'object')} (${formatBytes(warmed.sizeBytes)}), ${warmed.unchanged} were there`,
          );
      });
    });
}
