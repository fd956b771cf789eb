import { Command } from '@commander-js/extra-typings';
import { formatObjectName, parseObjectKey } from '@ebb/client';
import { formatBytes, type ObjectInfo } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { formatTime, printFacts, printJson } from './output.ts';
import { withClient } from './session.ts';
import { printable } from './table.ts';

export function create(): AnyCommand {
  return new Command('stat')
    .argument('<object>', 'bucket/key')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples('ebb stat results/2026/report.csv', 'ebb stat results/x --json | jq -r .etag'),
    )
    .action(async (object, options) => {
      const { bucket, key } = parseObjectKey(object);
      await withClient(options, async ({ client, signal }) => {
        const info = await client.head(bucket, key, { signal });
        if (options.json === true) await printJson(info);
        else await printObject(info);
      });
    });
}

export async function printObject(info: ObjectInfo): Promise<void> {
  const metadata = Object.entries(info.metadata).map(([name, value]) => [
    `meta ${name}`,
    printable(value),
  ]);
  await printFacts({
    object: printable(formatObjectName(info)),
    size: `${formatBytes(info.sizeBytes)} (${info.sizeBytes} bytes)`,
    version: String(info.version),
    etag: info.etag,
    crc32c: info.crc32c ?? 'none: joined from parts',
    type: info.contentType,
    created: formatTime(info.createdAtMs),
    ...placeFacts(info),
    pinned: info.pinned ? 'yes' : undefined,
    job: info.jobId ?? undefined,
    ...Object.fromEntries(metadata),
  });
}

export function placeFacts({
  tiers,
  durability,
  lost,
}: Pick<ObjectInfo, 'tiers' | 'durability' | 'lost'>): { tiers: string; durable: string } {
  if (lost === true) return { tiers: 'none', durable: 'no: its bytes are lost (data_lost)' };
  const until = {
    memory: 'until the host restarts',
    disk: 'on disk',
    remote: 'in the remote tier',
  };
  return {
    tiers: tiers.length === 0 ? 'spread over several' : tiers.join(', '),
    durable: until[durability],
  };
}
