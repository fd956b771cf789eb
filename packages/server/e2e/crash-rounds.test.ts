/** The crash drill (support/crash-rounds.ts), short; `npm run bench -- server/crash-rounds` is the long one. */
import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { describeCounts, runCrashRounds } from './support/crash-rounds.ts';

const ROUNDS = 15;

test(`kill -9 in the middle of puts, multipart uploads, copies, renames, deletes, versions and files, ${ROUNDS} times: what was acknowledged is there, here and in the object store, nothing is there by half, no byte is left on the node, and no name or part of an upload in the store`, async () => {
  const seed = randomInt(2 ** 31);
  const counts = await runCrashRounds({ rounds: ROUNDS, seed });
  process.stdout.write(`${describeCounts(counts)}; seed ${seed}\n`);
  expect(counts.problems, `seed ${seed}`).toEqual([]);
  expect(counts.acknowledged).toBeGreaterThan(ROUNDS);
  expect(counts.readRemote).toBeGreaterThan(0);
});
