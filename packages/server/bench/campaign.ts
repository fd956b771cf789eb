/**
 * The fault campaign at length: `npm run bench -- server/campaign [--minutes 60] [--seed N] [--only PART]`. What is done to the node, what is
 * checked, and what cannot be shown so, stands in e2e/support/campaign/campaign.ts.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { describeReport, runCampaign } from '../e2e/support/campaign/campaign.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    seed: { type: 'string' },
    only: { type: 'string' },
  },
});
const seed = values.seed === undefined ? randomInt(2 ** 31) : Number(values.seed);
process.stdout.write(`seed ${seed}\n`);
const report = await runCampaign({
  ...{ seed, minutes: Number(values.minutes) },
  ...(values.only === undefined ? {} : { only: values.only }),
  onRound: (now) => {
    if (now.rounds % 25 === 0) process.stderr.write(`${describeReport(now)}\n`);
  },
});
for (const problem of report.problems) process.stdout.write(`${problem}\n`);
process.stdout.write(`${describeReport(report)}; seed ${seed}\n`);
process.exitCode = report.problems.length === 0 ? 0 : 1;
