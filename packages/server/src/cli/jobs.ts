import { Command } from '@commander-js/extra-typings';
import { formatBytes } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { count, formatAge, printJson, printLine, printTable } from './output.ts';
import { withClient } from './session.ts';

export function create(): AnyCommand {
  return new Command('jobs')
    .addCommand(listJobs(), { isDefault: true })
    .addCommand(endJob())
    .addHelpText('after', examples('ebb jobs', 'ebb jobs end app-20261122-0001')) as AnyCommand;
}

function listJobs(): AnyCommand {
  return new Command('ls')
    .alias('list')
    .description('list jobs that are alive (also without a word)')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb jobs ls', 'ebb jobs ls --json'))
    .action(async (options) => {
      await withClient(options, async ({ client, signal }) => {
        const jobs = await client.jobs.list(signal);
        if (options.json === true) {
          await printJson({ jobs });
          return;
        }
        const now = Date.now();
        await printTable(jobs, [
          { title: 'job', cell: (job) => job.jobId },
          { title: 'label', cell: (job) => job.label },
          { title: 'age', right: true, cell: (job) => formatAge(now - job.createdAtMs) },
          {
            title: 'heard',
            right: true,
            cell: (job) => `${formatAge(now - job.lastHeartbeatMs)} ago`,
          },
          { title: 'ttl', right: true, cell: (job) => formatAge(job.heartbeatTtlMs) },
          { title: 'objects', right: true, cell: (job) => String(job.objects) },
          { title: 'size', right: true, cell: (job) => formatBytes(job.sizeBytes) },
          {
            title: 'budget',
            right: true,
            cell: (job) => (job.budgetBytes === null ? '' : formatBytes(job.budgetBytes)),
          },
        ]);
      });
    });
}

function endJob(): AnyCommand {
  return new Command('end')
    .description('end a job and delete all it owns')
    .argument('<job>', 'its id')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText('after', examples('ebb jobs end app-20261122-0001'))
    .action(async (jobId, options) => {
      await withClient(options, async ({ client, signal }) => {
        // The node answers a job that is gone with zeros; a person who mistyped wants to know.
        await client.jobs.get(jobId, signal);
        const receipt = await client.jobs.end(jobId, signal);
        if (options.json === true) await printJson(receipt);
        else {
          await printLine(
            `ended job ${receipt.jobId}: ${count(receipt.objects, 'object')} deleted, ${formatBytes(receipt.freedBytes)} freed, ${count(receipt.stagedWrites, 'unfinished write')} thrown away`,
          );
        }
      });
    });
}
