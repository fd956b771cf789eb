import { Command } from '@commander-js/extra-typings';
import { parseObjectName } from '@ebb/client';
import type { AnyCommand } from './command.ts';
import {
  ackOption,
  countArgument,
  examples,
  jobOption,
  jsonOption,
  nodeOption,
  pairArgument,
} from './options.ts';
import { withClient } from './session.ts';
import { PARALLEL_DEFAULT } from './transfer.ts';
import { upload } from './upload.ts';

export function create(): AnyCommand {
  return new Command('put')
    .argument('<file>', 'local file, "-" for standard input, or with -r a directory')
    .argument(
      '<object>',
      'bucket/key; a bucket, or a key that ends in /, takes the name of the file',
    )
    .option('-r, --recursive', 'all files below a directory')
    .option('--parallel <n>', 'files under way at a time', countArgument, PARALLEL_DEFAULT)
    .option('--content-type <type>', 'media type, such as text/csv')
    .option('--meta <name=value>', 'user metadata; may be repeated', pairArgument)
    .option('--if-match <etag>', 'only when the object is at this version')
    .option('--no-overwrite', 'only when there is no such object')
    .addOption(ackOption)
    .addOption(jobOption)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb put report.csv results/2026/report.csv --content-type text/csv',
        'ebb put -r ./model models/v7/ --ack remote',
        'pg_dump shop | ebb put - backups/shop.sql',
        'ebb put leader.json locks/leader --no-overwrite   # exit code 4 when it exists',
      ),
    )
    .action(async (file, object, options) => {
      const to = parseObjectName(object);
      const { recursive, parallel, json } = options;
      const put = {
        contentType: options.contentType,
        metadata: options.meta,
        ifMatch: options.ifMatch,
        ifNoneMatch: options.overwrite ? undefined : ('*' as const),
        ack: options.ack,
        jobId: options.job,
      };
      await withClient(options, (session) =>
        upload(session, file, to, { recursive, parallel, json, put }),
      );
    });
}
