/** `ebb checkpoint policy`. */
import { Command, Option } from '@commander-js/extra-typings';
import { formatBytes, type RunInfo } from '@ebb/protocol';
import type { AnyCommand } from '../command.ts';
import {
  bytesArgument,
  countArgument,
  durationArgument,
  examples,
  jsonOption,
  nodeOption,
} from '../options.ts';
import { formatAge, printFacts, printJson } from '../output.ts';
import { withClient } from '../session.ts';
import { bucketOption, runArgument } from './arguments.ts';

export function createPolicy(): AnyCommand {
  return new Command('policy')
    .description('show or change what a run keeps, and what it does when storing is behind')
    .addArgument(runArgument())
    .option('--keep-last <n>', 'the newest so many stay; "all": none goes', orNone(countArgument))
    .option(
      '--keep-every <n>',
      'those at a multiple of so many steps stay, whatever else says; "none"',
      orNone(countArgument),
    )
    .option('--max-age <time>', 'older ones go, such as 7d; "none"', orNone(durationArgument))
    .option(
      '--max-bytes <size>',
      'the oldest go while all take more, what is shared counted once, such as 2TiB; "none"',
      orNone(bytesArgument),
    )
    .addOption(
      new Option(
        '--behind <what>',
        'when all slots hold what is not stored yet, the next snapshot waits, is left out, or takes more memory',
      ).choices(['wait', 'skip', 'spill']),
    )
    .option('--slots <n>', 'snapshots with images in memory at once', countArgument)
    .addOption(
      new Option(
        '--superseded <what>',
        'a snapshot that a newer one overtook before it was stored is stored after that one, or dropped',
      ).choices(['store', 'drop']),
    )
    .option('--delta', 'blocks that an earlier snapshot has are not stored again')
    .option('--no-delta', 'each snapshot is stored whole')
    .addOption(bucketOption())
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      `${examples(
        'ebb checkpoint policy gpt',
        'ebb checkpoint policy gpt --keep-last 3 --keep-every 10000',
        'ebb checkpoint policy gpt --keep-last all --max-bytes 2TiB --behind skip',
      )}

A change makes the run if it is not there. The newest snapshot that is stored and not bad never goes, nor does a pinned one.`,
    )
    .action(async (run, options) => {
      const change = {
        ...{ keepLast: limitOf(options.keepLast), keepEvery: limitOf(options.keepEvery) },
        ...{ maxAgeMs: limitOf(options.maxAge), maxBytes: limitOf(options.maxBytes) },
        ...{ slots: options.slots, behind: options.behind },
        ...{ superseded: options.superseded, delta: options.delta },
      };
      const isChange = Object.values(change).some((value) => value !== undefined);
      await withClient(options, async ({ client, signal }) => {
        const at = { bucket: options.bucket, signal };
        const info = isChange
          ? await client.runs.put(run, change, at)
          : await client.runs.get(run, at);
        await (options.json === true ? printJson(info) : printRun(info));
      });
    });
}

type Limit = number | 'none';

function orNone(parse: (text: string) => number): (text: string) => Limit {
  return (text) => (text === 'none' || text === 'all' ? 'none' : parse(text));
}

/** The parser of the command line takes null for no value. */
function limitOf(given: Limit | undefined): number | null | undefined {
  return given === 'none' ? null : given;
}

async function printRun({ bucket, run, policy, ...info }: RunInfo): Promise<void> {
  const { keepLast, keepEvery, maxAgeMs, maxBytes } = policy;
  await printFacts({
    run: `${run} in ${bucket}`,
    snapshots: `${info.snapshots}, ${formatBytes(info.storedBytes)} stored`,
    latest: info.latestStep === null ? 'none' : String(info.latestStep),
    'keep last': keepLast === null ? 'all' : String(keepLast),
    'keep every': keepEvery === null ? 'none' : String(keepEvery),
    'max age': maxAgeMs === null ? 'none' : formatAge(maxAgeMs),
    'max bytes': maxBytes === null ? 'none' : formatBytes(maxBytes),
    slots: String(policy.slots),
    behind: policy.behind,
    superseded: policy.superseded,
    delta: policy.delta ? 'yes' : 'no',
  });
}
