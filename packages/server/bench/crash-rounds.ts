/**
 * The crash drill at length: `npm run bench -- server/crash-rounds [--rounds 200] [--seed N]`. What is checked after each kill
 * stands in e2e/support/crash-rounds.ts. The seed decides the operations; when each is hit depends on the machine.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { describeCounts, runCrashRounds } from '../e2e/support/crash-rounds.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '200' }, seed: { type: 'string' } },
});
const seed = values.seed === undefined ? randomInt(2 ** 31) : Number(values.seed);
const beganMs = performance.now();
const counts = await runCrashRounds({
  ...{ rounds: Number(values.rounds), seed },
  onRound: (round, now) => {
    if (round % 10 === 0) process.stderr.write(`${describeCounts(now)}\n`);
  },
});
for (const problem of counts.problems) process.stdout.write(`${problem}\n`);
const seconds = Math.round((performance.now() - beganMs) / 1000);
process.stdout.write(`${describeCounts(counts)}; seed ${seed}, ${seconds} s\n`);
process.exitCode = counts.problems.length === 0 ? 0 : 1;
