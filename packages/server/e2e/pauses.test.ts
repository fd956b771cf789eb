/** A daemon that is stopped for longer than its times to live, and goes on (SIGSTOP, SIGCONT): nobody was late meanwhile. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openClient } from '@ebb/client';
import { expect, test, vi } from 'vitest';
import { startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { EXIT } from '../src/cli/exit-codes.ts';
import { runEbb } from './support/ebb-command.ts';
import { mirrored } from './support/mirrored.ts';
import { startTier2Store } from './support/tier2-store.ts';

const TTL_MS = 2000;
/** Longer than the times to live, and than what the node takes for a sweep that is merely late. */
const PAUSE_MS = 9000;

test('SIGSTOP for longer than every time to live: staged writes, jobs and readers go on, what waited is mirrored, and the times end as before', async () => {
  await using store = await startTier2Store();
  const { args, env } = store.options();
  const times = [`--staging-ttl=${TTL_MS}ms`, `--job-heartbeat-ttl=${TTL_MS}ms`];
  await using node = await startNodeProcess({ args: [...args, ...times], env });
  await using client = await openClient({ node: node.unixUrl });
  await client.buckets.create('data', { preset: 'buffered' });
  await using job = await client.jobs.open('job', { heartbeatTtlMs: TTL_MS });
  await client.put('data', 'read', Buffer.from('read'));
  await using opened = await client.open('data', 'read');
  await using staged = await client.stage('data', 'staged', { reserveBytes: 6 });
  await staged.write(Buffer.from('staged'));
  await client.put('data', 'owned', Buffer.from('owned'), { jobId: 'job' });

  process.kill(node.pid, 'SIGSTOP');
  // The fault itself, not a wait for something.
  await sleep(PAUSE_MS);
  process.kill(node.pid, 'SIGCONT');

  await staged.commit();
  const text = async (key: string): Promise<string> =>
    Buffer.from(await (await client.get('data', key)).bytes()).toString();
  expect(await text('staged')).toBe('staged');
  expect(await text('owned')).toBe('owned');
  const target = Buffer.alloc(4);
  await opened.read(target, 0);
  expect(target.toString()).toBe('read');
  await mirrored(client, 20_000);
  expect((await store.names()).toSorted()).toEqual(['data/owned', 'data/read', 'data/staged']);
  // The job's time to live still counts.
  job.detach();
  await vi.waitFor(
    async () =>
      await expect(client.jobs.get('job')).rejects.toMatchObject({ code: 'job_not_found' }),
    { timeout: 60_000, interval: 250 },
  );
  await expect(client.head('data', 'owned')).rejects.toMatchObject({ code: 'not_found' });
});

test('a node that is paused is told from one that is away: `ebb status`, `ebb put` and clients end within seconds, and say so', async () => {
  await using node = await startNodeProcess();
  const { url, unixUrl } = node;
  process.kill(node.pid, 'SIGSTOP');
  const startedMs = performance.now();
  const opened = async (address: string): Promise<unknown> =>
    await openClient({ node: address }).catch((error: unknown) => error);
  const [status, put, ...errors] = await Promise.all([
    runEbb(['status'], { EBB_NODE: url }),
    runEbb(['put', import.meta.filename, 'data/key'], { EBB_NODE: url }),
    opened(url),
    opened(unixUrl),
  ]);
  const tookMs = performance.now() - startedMs;
  process.kill(node.pid, 'SIGCONT');

  const silent = /takes connections and has not answered for \d+ s; is it paused, or its machine\?/;
  for (const { code, stderr } of [status, put]) {
    expect(code).toBe(EXIT.unreachable);
    expect(stderr).toMatch(silent);
    expect(stderr).not.toContain('Start one');
  }
  for (const error of errors)
    expect(error).toMatchObject({
      code: 'node_unreachable',
      message: expect.stringMatching(silent),
    });
  // 10 s, and what a busy machine takes to start two commands.
  expect(tookMs).toBeLessThan(25_000);
  await using _client = await openClient({ node: url });
});
