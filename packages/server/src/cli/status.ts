import { Command } from '@commander-js/extra-typings';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import {
  count,
  formatAge,
  printConditions,
  printFacts,
  printJson,
  printLine,
  printTable,
} from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('status')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb status',
        'ebb status --json | jq .tiers',
        'ebb status --node unix:///run/ebb.sock',
      ),
    )
    .action(async (options) => {
      await withClient(options, async ({ client, signal }) => {
        const status = await client.status({ signal });
        if (options.json === true) {
          await printJson(status);
          return;
        }
        await printFacts({
          node: `${status.nodeId}, ebb ${status.version}, ${status.state}`,
          up: formatAge(Date.now() - status.startedAtMs),
          socket: status.socket ?? 'none',
          path:
            client.path === 'local' ? 'local: this client reads and writes files directly' : 'http',
          holds: `${count(status.objects, 'object')} in ${count(status.buckets, 'bucket')}, ${count(status.jobs, 'job')}, ${count(status.shuffles, 'shuffle')}`,
          connections: String(status.connections),
          'mirror backlog': `${count(status.mirrorBacklogObjects, 'object')}, ${formatBytes(status.mirrorBacklogBytes)}${
            status.mirrorOldestMs === null
              ? ''
              : `, for ${formatAge(Date.now() - status.mirrorOldestMs)}`
          }`,
        });
        await printConditions(status.conditions);
        await printLine('');
        await printTable(status.tiers, [
          { title: 'tier', cell: (tier) => tier.tier },
          { title: 'used', right: true, cell: (tier) => formatBytes(tier.usedBytes) },
          {
            title: 'of',
            right: true,
            cell: (tier) => (tier.capacityBytes === null ? '' : formatBytes(tier.capacityBytes)),
          },
          { title: 'staged', right: true, cell: (tier) => formatBytes(tier.stagedBytes) },
          { title: 'recycled', right: true, cell: (tier) => formatBytes(tier.pooledBytes) },
          { title: 'blobs', right: true, cell: (tier) => String(tier.blobs) },
          { title: 'where', cell: (tier) => tier.location },
        ]);
      });
    });
}
