/** `ebb pin` and `ebb unpin`. */

import { Command } from '@commander-js/extra-typings';
import { formatObjectName, parseObjectKey } from '@ebb/client';
import type { ObjectInfo } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { printJson, printLine } from './output.ts';
import { withClient } from './session.ts';

export function createPinCommand(name: 'pin' | 'unpin', pinned: boolean): AnyCommand {
  return new Command(name)
    .argument('<objects...>', 'bucket/key')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples(`ebb ${name} models/v7/weights.bin`))
    .action(async (objects, options) => {
      const names = objects.map(parseObjectKey);
      await withClient(options, async ({ client, signal }) => {
        const infos: ObjectInfo[] = [];
        for (const { bucket, key } of names)
          infos.push(await client.pin(bucket, key, pinned, { signal }));
        if (options.json === true) await printJson({ objects: infos });
        else
          for (const info of infos)
            await printLine(
              `${name}ned ${formatObjectName(info)}, now in ${info.tiers.join(', ')}`,
            );
      });
    });
}
