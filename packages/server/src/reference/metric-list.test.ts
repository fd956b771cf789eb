import { PATHS } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { openTestNode } from '../testing/test-node.ts';
import { listMetrics } from './metric-list.ts';

test('the page of metrics has all that a node measures, and nothing else', async () => {
  await using node = await openTestNode();
  const text = (await node.http('GET', PATHS.metrics)).body.toString();
  const told = [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name as string);
  const listed = listMetrics().map(({ name }) => name);
  expect(told.sort()).toEqual([...listed].sort());
});
