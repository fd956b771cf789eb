/** `ebb watch`: one line an event, until it is interrupted. It goes on from the last id over restarts of the node. */
import { Command, InvalidArgumentError } from '@commander-js/extra-typings';
import { formatObjectName, parseObjectName, toPrefix } from '@ebb/client';
import { EVENT_TYPES, type EventType, formatBytes, type ObjectEvent } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { formatTime, printLine } from './output.ts';
import { withClient } from './session.ts';
import { printable } from './table.ts';

/** A watch is left alone: it waits for a node that is away for a day, not for seconds. */
const PATIENCE_MS = 24 * 3600 * 1000;

export function create(): AnyCommand {
  return new Command('watch')
    .argument('[name]', 'ebb://bucket, ebb://bucket/prefix/ or ebb://bucket/key; default: all')
    .option('--types <list>', `of ${EVENT_TYPES.join(',')}; default: all`, typesArgument)
    .option('--after <id>', 'events after this id; default: from now on', idArgument)
    .addOption(recursiveOption)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb watch',
        'ebb watch ebb://results/2026/ --types created,updated',
        'ebb watch results --after 0 --json | jq -r .key',
      ),
    )
    .action(async (name, options) => {
      const { types, after } = options;
      const filter = parseWatched(name, { recursive: options.recursive === true });
      await withClient({ ...options, unreachableMs: PATIENCE_MS }, async ({ client, signal }) => {
        for await (const event of client.events({ ...filter, types, after, signal }))
          await printLine(options.json === true ? JSON.stringify(event) : formatEvent(event));
      });
    });
}

/** What ends with a slash, or is said to be one, is a prefix: `a/` shows no `ab`. */
export function parseWatched(
  name: string | undefined,
  options: { readonly recursive: boolean },
): { readonly bucket?: string; readonly prefix?: string; readonly key?: string } {
  if (name === undefined) return {};
  const { bucket, key } = parseObjectName(name);
  if (key === '') return { bucket };
  if (options.recursive || key.endsWith('/')) return { bucket, prefix: toPrefix(key) };
  return { bucket, key };
}

/** `42  2026-11-22 14:03:09  created  1.2 MiB  ebb://bucket/key`; of `tier`, where it is instead of its size. */
export function formatEvent(event: ObjectEvent): string {
  const { id, type, atMs, sizeBytes, durability, tiers } = event;
  const isTier = type === 'tier';
  const where = tiers === undefined || tiers.length === 0 ? 'spread' : tiers.join('+');
  const what =
    durability === null ? 'lost' : isTier ? `${durability}: ${where}` : formatBytes(sizeBytes);
  const columns = [String(id), formatTime(atMs), type.padEnd(7), what.padEnd(10)];
  return `${columns.join('  ')}  ${printable(formatObjectName(event))}`;
}

function typesArgument(text: string): EventType[] {
  return text.split(',').map((name) => {
    const type = EVENT_TYPES.find((known) => known === name.trim());
    if (type === undefined) throw new InvalidArgumentError(`Only ${EVENT_TYPES.join(', ')}.`);
    return type;
  });
}

function idArgument(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('Give the id of an event, or 0.');
  return Number(text);
}
