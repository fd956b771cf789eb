import { Command, InvalidArgumentError } from '@commander-js/extra-typings';
import { parseObjectKey } from '@ebb/client';
import type { AnyCommand } from './command.ts';
import { examples, nodeOption } from './options.ts';
import { withClient } from './session.ts';
import { readIntoStream } from './transfer.ts';

export function create(): AnyCommand {
  return new Command('cat')
    .argument('<objects...>', 'bucket/key')
    .option(
      '--range <from-to>',
      'only these bytes: 0-99 are the first hundred, 100- the rest',
      parseRange,
    )
    .addOption(nodeOption)
    .addHelpText(
      'after',
      examples('ebb cat results/2026/report.csv | head', 'ebb cat logs/app --range 0-1023'),
    )
    .action(async (objects, options) => {
      const names = objects.map(parseObjectKey);
      await withClient(options, async ({ client, signal }) => {
        for (const name of names) {
          const range = options.range === undefined ? {} : { range: options.range };
          await readIntoStream(client, name, { signal, ...range });
        }
      });
    });
}

function parseRange(text: string): { offset: number; length: number | undefined } {
  const match = /^(\d+)-(\d*)$/.exec(text);
  const offset = Number(match?.[1]);
  const end = match?.[2] === '' ? undefined : Number(match?.[2]);
  if (match === null || (end !== undefined && end < offset)) {
    throw new InvalidArgumentError('Write FROM-TO, both counted from 0 and included, or FROM-.');
  }
  return { offset, length: end === undefined ? undefined : end - offset + 1 };
}
