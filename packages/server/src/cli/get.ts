import { basename } from 'node:path';
import { Command } from '@commander-js/extra-typings';
import { parseObjectKey, parseObjectName } from '@ebb/client';
import type { AnyCommand } from './command.ts';
import { download } from './download.ts';
import { countArgument, examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { withClient } from './session.ts';
import { PARALLEL_DEFAULT } from './transfer.ts';

export function create(): AnyCommand {
  return new Command('get')
    .argument('<object>', 'bucket/key, or with -r a prefix')
    .argument(
      '[target]',
      'local file or directory, "-" for standard output; default: here, under its own name',
    )
    .addOption(recursiveOption)
    .option('--parallel <n>', 'objects under way at a time', countArgument, PARALLEL_DEFAULT)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb get results/2026/report.csv',
        'ebb get results/2026/report.csv /tmp/r.csv',
        'ebb get -r models/v7 ./model',
      ),
    )
    .action(async (object, target, options) => {
      const from = options.recursive === true ? parseObjectName(object) : parseObjectKey(object);
      const to = target ?? (options.recursive === true ? '.' : basename(from.key));
      await withClient(options, (session) => download(session, from, to, options));
    });
}
