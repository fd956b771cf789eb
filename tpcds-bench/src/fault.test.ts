import { describe, expect, test } from 'vitest';
import { countLosses, isLargestHalfDone, largestRead } from './fault.ts';
import { aStage } from './run-samples.ts';

test('the largest read is that of one stage attempt', () => {
  expect(largestRead([aStage({ shuffleReadBytes: 5 }), aStage({ shuffleReadBytes: 9 })])).toBe(9);
  expect(largestRead([])).toBe(0);
});

describe('isLargestHalfDone', () => {
  const stage = {
    stageId: 3,
    attemptId: 0,
    numTasks: 32,
    numCompleteTasks: 16,
    shuffleReadBytes: 50,
  };

  test('holds when half of the tasks are done and the rest would make it the largest', () => {
    expect(isLargestHalfDone(stage, 100)).toBe(true);
    expect(isLargestHalfDone({ ...stage, numCompleteTasks: 15 }, 100)).toBe(false);
  });

  test('does not take a smaller stage, a retried one, or one of a single task', () => {
    expect(isLargestHalfDone(stage, 200)).toBe(false);
    expect(isLargestHalfDone({ ...stage, attemptId: 1 }, 100)).toBe(false);
    expect(isLargestHalfDone({ ...stage, numTasks: 1, numCompleteTasks: 1 }, 50)).toBe(false);
  });
});

describe('countLosses', () => {
  test('finds nothing in a healthy query', () => {
    const stages = [
      aStage({ stageId: 1, shuffleWriteBytes: 9, numCompleteTasks: 4, numCompletedIndices: 4 }),
      aStage({ stageId: 2 }),
    ];
    expect(countLosses(stages)).toEqual({
      recomputedMapTasks: 0,
      stageRetries: 0,
      fetchFailures: 0,
    });
  });

  test('counts maps of later attempts, resubmitted maps, retries and fetch failures', () => {
    const stages = [
      aStage({ stageId: 1, shuffleWriteBytes: 9, numCompleteTasks: 6, numCompletedIndices: 4 }),
      aStage({
        stageId: 1,
        attemptId: 1,
        shuffleWriteBytes: 0,
        numCompleteTasks: 3,
        numCompletedIndices: 3,
      }),
      aStage({ stageId: 2, failures: ['FetchFailed(…)', 'ExecutorLostFailure (…)'] }),
      aStage({ stageId: 2, attemptId: 1, numCompleteTasks: 7 }),
    ];
    expect(countLosses(stages)).toEqual({
      recomputedMapTasks: 5,
      stageRetries: 2,
      fetchFailures: 1,
    });
  });
});
