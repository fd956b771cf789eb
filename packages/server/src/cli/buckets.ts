import { Command, Option } from '@commander-js/extra-typings';
import { printBuckets } from './bucket-table.ts';
import type { AnyCommand } from './command.ts';
import { bytesArgument, durationArgument, examples, jsonOption, nodeOption } from './options.ts';
import { count, printJson, printLine } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  const list = new Command('list')
    .alias('ls')
    .description('list buckets (also without a word)')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb buckets', 'ebb buckets list --json'))
    .action(async (options) => {
      await withClient(options, async ({ client, signal }) => {
        await printBuckets(await client.buckets.list({ signal }), options.json);
      });
    });
  return new Command('buckets')
    .addCommand(list, { isDefault: true })
    .addCommand(createBucket())
    .addCommand(removeBucket())
    .addHelpText(
      'after',
      examples('ebb buckets', 'ebb buckets create results', 'ebb buckets rm results'),
    ) as AnyCommand;
}

function createBucket(): AnyCommand {
  return new Command('create')
    .description('create a bucket; again with the same policy changes nothing')
    .argument('<bucket>', 'its name')
    .addOption(
      new Option(
        '--preset <preset>',
        'ephemeral: memory, for a job; buffered: disk, mirrored behind; durable: acknowledged by the remote tier',
      )
        .choices(['ephemeral', 'buffered', 'durable'])
        .default('buffered' as const),
    )
    .addOption(
      new Option(
        '--ack <level>',
        'what must hold before a write is acknowledged; default: by the preset',
      ).choices(['memory', 'disk', 'remote']),
    )
    .option('--mirror', 'copy objects to the remote tier in the background')
    .option('--no-mirror', 'keep objects on this node')
    .option('--events', 'record what happens to objects, also in an ephemeral bucket')
    .option('--no-events', 'record no events')
    .option('--ttl <time>', 'objects vanish after this time, such as 12h', durationArgument)
    .option('--quota <size>', 'most bytes of all objects, such as 10GiB', bytesArgument)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb buckets create results',
        'ebb buckets create scratch --preset ephemeral --ttl 2h --quota 20GiB',
      ),
    )
    .action(async (name, options) => {
      const { preset, ack, mirror, events, ttl, quota } = options;
      await withClient(options, async ({ client, signal }) => {
        const policy = { preset, ack, mirror, events, ttlMs: ttl, quotaBytes: quota };
        const bucket = await client.buckets.create(name, policy, { signal });
        if (options.json === true) await printJson(bucket);
        else
          await printLine(
            `bucket ${bucket.name} (${bucket.policy.preset}, ack ${bucket.policy.ack})`,
          );
      });
    });
}

function removeBucket(): AnyCommand {
  return new Command('rm')
    .description('remove an empty bucket, or with -r one with all its objects')
    .argument('<bucket>', 'its name')
    .option('-r, --recursive', 'delete its objects first')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb buckets rm scratch', 'ebb buckets rm -r scratch'))
    .action(async (name, options) => {
      await withClient(options, async ({ client, signal }) => {
        const gone =
          options.recursive === true
            ? await client.deletePrefix(name, '', { signal })
            : { objects: 0, sizeBytes: 0 };
        await client.buckets.delete(name, { signal });
        if (options.json === true) await printJson({ bucket: name, ...gone });
        else
          await printLine(
            `removed bucket ${name}${gone.objects === 0 ? '' : ` and ${count(gone.objects, 'object')}`}`,
          );
      });
    });
}
