/** `ebb checkpoint pin`, `unpin`, `bad`, `good`, `rm` and `wait`. */
import { Command, Option } from '@commander-js/extra-typings';
import type { Snapshots } from '@ebb/client';
import { type SnapshotInfo, StoreError } from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import { durationArgument, examples, jsonOption, nodeOption } from '../options.ts';
import { count, printJson, printLine } from '../output.ts';
import { withClient } from '../session.ts';
import {
  bucketOption,
  parseStep,
  runArgument,
  stepArgument,
  stepChoiceArgument,
} from './arguments.ts';

interface Mark {
  readonly name: string;
  readonly description: string;
  readonly done: string;
  readonly set: (
    snapshots: Snapshots,
    ...at: [run: string, step: number, options: { bucket: string; signal: AbortSignal }]
  ) => Promise<SnapshotInfo>;
}

export function createPin(): AnyCommand {
  return mark({
    name: 'pin',
    description: 'keep a snapshot whatever the run keeps',
    done: 'is pinned',
    set: (snapshots, run, step, at) => snapshots.pin(run, step, true, at),
  });
}

export function createUnpin(): AnyCommand {
  return mark({
    name: 'unpin',
    description: 'let a pinned snapshot go when its time comes',
    done: 'is pinned no more',
    set: (snapshots, run, step, at) => snapshots.pin(run, step, false, at),
  });
}

export function createGood(): AnyCommand {
  return mark({
    name: 'good',
    description: 'take back that a snapshot is bad',
    done: 'is good',
    set: (snapshots, run, step, at) => snapshots.bad(run, step, null, at),
  });
}

function mark({ name, description, done, set }: Mark): AnyCommand {
  return new Command(name)
    .description(description)
    .addArgument(runArgument())
    .addArgument(stepArgument())
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples(`ebb checkpoint ${name} gpt 1200`))
    .action(async (run, step, options) => {
      await withClient(options, async ({ client, signal }) => {
        const at = { bucket: options.bucket, signal };
        const snapshot = await set(client.snapshots, run, step, at);
        if (options.json === true) await printJson(snapshot);
        else await printLine(`step ${step} of run ${run} ${done}`);
      });
    });
}

export function createBad(): AnyCommand {
  return new Command('bad')
    .description('say that a snapshot is not to be resumed from: `latest` passes it over')
    .addArgument(runArgument())
    .addArgument(stepArgument())
    .option('--why <text>', 'what is wrong with it', 'marked by hand')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb checkpoint bad gpt 1200 --why "loss is NaN"'))
    .action(async (run, step, options) => {
      await withClient(options, async ({ client, signal }) => {
        const at = { bucket: options.bucket, signal };
        const snapshot = await client.snapshots.bad(run, step, options.why, at);
        if (options.json === true) await printJson(snapshot);
        else await printLine(`step ${step} of run ${run} is bad: ${options.why}`);
      });
    });
}

export function createRemove(): AnyCommand {
  return new Command('rm')
    .description('remove snapshots, or with --all a run; what others share with them stays')
    .addArgument(runArgument())
    .argument('[steps...]', 'whole numbers')
    .option('--all', 'the run, with all its snapshots, pinned ones too')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples('ebb checkpoint rm gpt 1100 1200', 'ebb checkpoint rm gpt --all'),
    )
    .action(async (run, texts, options) => {
      const steps = texts.map(parseStep);
      if ((steps.length === 0) !== (options.all === true))
        throw new StoreError('request_invalid', 'name steps, or --all for the whole run');
      await withClient(options, async ({ client, signal }) => {
        const at = { bucket: options.bucket, signal };
        if (options.all === true) {
          const { snapshots } = await client.runs.remove(run, at);
          if (options.json === true) await printJson({ run, snapshots });
          else await printLine(`removed run ${run} and ${count(snapshots, 'snapshot')}`);
          return;
        }
        for (const step of steps) await client.snapshots.remove(run, step, at);
        if (options.json === true) await printJson({ run, snapshots: steps.length });
        else for (const step of steps) await printLine(`removed step ${step} of run ${run}`);
      });
    });
}

export function createWait(): AnyCommand {
  return new Command('wait')
    .description('wait until a snapshot is durable')
    .addArgument(runArgument())
    .addArgument(stepChoiceArgument())
    .addOption(
      new Option('--for <level>', 'what is to hold')
        .choices(['disk', 'remote'])
        .default('remote' as const),
    )
    .option('--timeout <time>', 'give up after this time, such as 30s', durationArgument)
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb checkpoint wait gpt --for disk --timeout 5m'))
    .action(async (run, step, options) => {
      await withClient(options, async ({ client, signal }) => {
        const { for: level, timeout: timeoutMs, bucket } = options;
        const asked = { for: level, timeoutMs, bucket, signal };
        const snapshot = await client.snapshots.wait(run, step, asked);
        if (options.json === true) await printJson(snapshot);
        else await printLine(`step ${snapshot.step} of run ${run}: ${snapshot.durability}`);
      });
    });
}
