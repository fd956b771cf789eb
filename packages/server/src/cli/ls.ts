import { Command } from '@commander-js/extra-typings';
import { type EbbClient, parseObjectName } from '@ebb/client';
import { formatBytes, type ObjectInfo } from '@ebb/protocol';
import { printBuckets } from './bucket-table.ts';
import type { AnyCommand } from './command.ts';
import { countArgument, examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { formatTime, printTable, write } from './output.ts';
import { withClient } from './session.ts';

interface ListOptions {
  readonly recursive?: boolean | undefined;
  readonly limit?: number | undefined;
  readonly signal: AbortSignal;
}
interface Page {
  readonly objects: readonly ObjectInfo[];
  readonly prefixes: readonly string[];
}

export function create(): AnyCommand {
  return new Command('ls')
    .argument('[name]', 'bucket, or bucket/prefix; nothing for all buckets')
    .addOption(recursiveOption)
    .option('--limit <n>', 'at most so many entries', countArgument)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples('ebb ls', 'ebb ls results/2026/', 'ebb ls -r results --json | jq .objects[].key'),
    )
    .action(async (name, options) => {
      await withClient(options, async ({ client, signal }) => {
        if (name === undefined) {
          await printBuckets(await client.buckets.list({ signal }), options.json);
          return;
        }
        const pages = listPages(client, name, { ...options, signal });
        await (options.json === true ? printPagesJson(pages) : printPages(pages));
      });
    });
}

async function* listPages(
  client: EbbClient,
  name: string,
  options: ListOptions,
): AsyncGenerator<Page> {
  const { bucket, key } = parseObjectName(name);
  const { signal } = options;
  const delimiter = options.recursive === true ? undefined : '/';
  let left = options.limit ?? Number.POSITIVE_INFINITY;
  let startAfter: string | undefined;
  while (left > 0) {
    const limit = Math.min(left, 1000);
    const page = await client.list(bucket, { prefix: key, delimiter, startAfter, limit, signal });
    yield page;
    left -= page.objects.length + page.prefixes.length;
    if (page.next === null) return;
    startAfter = page.next;
  }
}

/** Each page is a table of its own width below one head, so that the first lines come at once. */
async function printPages(pages: AsyncIterable<Page>): Promise<void> {
  for await (const { objects, prefixes } of pages) {
    const rows = [
      ...prefixes.map((prefix) => ({ key: prefix, object: undefined })),
      ...objects.map((object) => ({ key: object.key, object })),
    ].sort((a, b) => (a.key < b.key ? -1 : 1));
    if (rows.length === 0) continue;
    await printTable(rows, [
      {
        title: 'size',
        right: true,
        cell: ({ object }) => (object === undefined ? '' : formatBytes(object.sizeBytes)),
      },
      {
        title: 'tiers',
        cell: ({ object }) => (object === undefined ? '' : object.tiers.join('+')),
      },
      {
        title: 'durable',
        cell: ({ object }) => (object?.lost === true ? 'lost' : (object?.durability ?? '')),
      },
      {
        title: 'created',
        cell: ({ object }) => (object === undefined ? '' : formatTime(object.createdAtMs)),
      },
      {
        title: 'name',
        cell: ({ key, object }) => (object?.pinned === true ? `${key} (pinned)` : key),
      },
    ]);
  }
}

/** One document, written as it comes. */
async function printPagesJson(pages: AsyncIterable<Page>): Promise<void> {
  const prefixes: string[] = [];
  let separator = '{"objects":[';
  for await (const page of pages) {
    prefixes.push(...page.prefixes);
    for (const object of page.objects) {
      await write(`${separator}\n${JSON.stringify(object)}`);
      separator = ',';
    }
  }
  await write(`${separator === ',' ? '\n' : separator}],"prefixes":${JSON.stringify(prefixes)}}\n`);
}
