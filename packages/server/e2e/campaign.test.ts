/** A slice of the fault campaign (support/campaign/campaign.ts); `npm run bench -- server/campaign` is the long one. */
import { expect, test } from 'vitest';
import { describeReport, runCampaign } from './support/campaign/campaign.ts';

/** The same operations and faults in each run. */
const SEED = 20_261_130;
const ROUNDS = 14;

test('a slice of the fault campaign: every key is a register, nothing hangs, the node is ready again, and nothing is left', async () => {
  const report = await runCampaign({ seed: SEED, rounds: ROUNDS, quick: true });
  process.stdout.write(`${describeReport(report)}\n`);
  expect(report.problems).toEqual([]);
  expect(report.history.counts.acknowledged).toBeGreaterThan(ROUNDS);
});
