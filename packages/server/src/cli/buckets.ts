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
    .addCommand(setBucket())
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
    .option(
      '--remote <place>',
      "where its objects go in the remote tier: s3://bucket/prefix, or a name from the node's --remotes; default: to the node's own",
    )
    .option(
      '--revalidate <time>',
      'others change its objects in the remote tier: look again when an object was not compared for this long, such as 10s',
      durationArgument,
    )
    .addOption(versioningOption())
    .option('--encrypt', 'its bytes are encrypted on disk and in the remote tier')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb buckets create results',
        'ebb buckets create lake --remote s3://company-lake/raw',
        'ebb buckets create scratch --preset ephemeral --ttl 2h --quota 20GiB',
      ),
    )
    .action(async (name, options) => {
      const { preset, ack, mirror, events, ttl, quota, remote, revalidate, versioning } = options;
      await withClient(options, async ({ client, signal }) => {
        const policy = {
          ...{ preset, ack, mirror, events, ttlMs: ttl, quotaBytes: quota },
          ...{ remote, revalidateMs: revalidate, versioning, encrypted: options.encrypt },
        };
        const bucket = await client.buckets.create(name, policy, { signal });
        if (options.json === true) await printJson(bucket);
        else
          await printLine(
            `bucket ${bucket.name} (${bucket.policy.preset}, ack ${bucket.policy.ack})`,
          );
      });
    });
}

function versioningOption() {
  return new Option(
    '--versioning <state>',
    'enabled: a write or delete keeps what it replaces; suspended: no longer, and what was kept stays',
  ).choices(['enabled', 'suspended'] as const);
}

function setBucket(): AnyCommand {
  return new Command('set')
    .description('change a bucket')
    .argument('<bucket>', 'its name')
    .addOption(versioningOption().makeOptionMandatory())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb buckets set results --versioning enabled'))
    .action(async (name, { versioning, ...options }) => {
      await withClient(options, async ({ client, signal }) => {
        const bucket = await client.buckets.change(name, { versioning }, { signal });
        if (options.json === true) await printJson(bucket);
        else await printLine(`bucket ${bucket.name} (versioning ${bucket.policy.versioning})`);
      });
    });
}

function removeBucket(): AnyCommand {
  return new Command('rm')
    .description('remove an empty bucket, or with -r one with all its objects')
    .argument('<bucket>', 'its name')
    .option('-r, --recursive', 'delete its objects first, and all their old versions')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb buckets rm scratch', 'ebb buckets rm -r scratch'))
    .action(async (name, options) => {
      await withClient(options, async ({ client, signal }) => {
        const gone =
          options.recursive === true
            ? await client.deletePrefix(name, '', { allVersions: true, signal })
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
