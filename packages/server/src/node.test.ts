import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { isStoreError, messages, OPS, TIER_BY_POLICY } from '@ebb/protocol';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { openTestNode } from './testing/test-node.ts';

async function errorOf(call: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await call;
  } catch (error) {
    if (isStoreError(error)) return { code: error.code, message: error.message };
    throw error;
  }
  return { code: 'none', message: '' };
}

test('a second node on the same data directory is refused, and the first goes on', async () => {
  await using first = await openTestNode();
  const { directory } = first;
  expect((await errorOf(openTestNode({ directory }))).code).toBe('data_directory_in_use');
  expect((await first.http('GET', '/readyz')).status).toBe(200);
  const elsewhere = await errorOf(
    openTestNode({ directory, data: join(directory, 'other'), socket: first.socketPath }),
  );
  expect(elsewhere.code).toBe('data_directory_in_use');
  expect((await first.http('GET', '/readyz')).status).toBe(200);
});

test('what was written is there after a restart, and the socket of a killed node is taken over', async () => {
  const first = await openTestNode();
  const { directory } = first;
  await first.json('PUT', '/v1/buckets/buffered');
  await first.http('PUT', '/v1/buckets/buffered/objects/a', { body: 'kept' });
  await first.stop();
  await using second = await openTestNode({ directory });
  expect((await second.http('GET', '/v1/buckets/buffered/objects/a')).body.toString()).toBe('kept');
});

test("a socket path that is another file, or somebody else's address, is left alone", async () => {
  const directory = mkdtempSync('/dev/shm/ebb-test-');
  const path = join(directory, 'precious');
  writeFileSync(path, 'do not touch');
  expect((await errorOf(openTestNode({ directory, socket: path }))).message).toContain('no socket');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const taken = await errorOf(openTestNode({ directory, listen: `127.0.0.1:${port}` }));
  expect(taken).toMatchObject({ code: 'config_invalid' });
  expect(taken.message).toContain('somebody listens there already');
  server.close();
  // Nothing is left locked or open: the same directory starts.
  await using node = await openTestNode({ directory });
  expect((await node.http('GET', '/readyz')).status).toBe(200);
});

test('a memory directory that holds something else is refused', async () => {
  const directory = mkdtempSync('/dev/shm/ebb-test-');
  mkdirSync(join(directory, 'memory'));
  writeFileSync(join(directory, 'memory', 'thesis.tex'), 'mine');
  expect((await errorOf(openTestNode({ directory }))).code).toBe('config_invalid');
  rmSync(directory, { recursive: true });
});

test('an object whose bytes are lost is told as lost everywhere, and the log warns of it', async () => {
  const first = await openTestNode();
  const { directory } = first;
  await first.json('PUT', '/v1/buckets/ephemeral', { preset: 'ephemeral' });
  await first.http('PUT', '/v1/buckets/ephemeral/objects/gone', { body: 'bytes' });
  await first.stop();
  rmSync(join(directory, 'memory'), { recursive: true });
  const lines: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line) => void lines.push(line) });
  await using second = await openTestNode({ directory }, { log });
  await second.http('PUT', '/v1/buckets/ephemeral/objects/here', { body: 'bytes' });
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    expect.objectContaining({ level: 40, lostBlobs: 1, msg: expect.stringContaining('are lost') }),
  ]);
  const { value: why } = await second.json('GET', '/v1/why?bucket=ephemeral&key=gone');
  expect(why).toMatchObject({
    summary: expect.stringContaining('lost: its bytes are in no tier'),
    object: { lost: true, tiers: [] },
  });
  const { value: page } = await second.json('GET', '/v1/buckets/ephemeral/objects');
  const { objects } = page as { objects: { key: string; lost?: true }[] };
  expect(objects.map(({ key, lost }) => [key, lost])).toEqual([
    ['gone', true],
    ['here', undefined],
  ]);
  expect((await second.http('HEAD', '/v1/buckets/ephemeral/objects/gone')).code).toBe('data_lost');
});

test('the pid of a node that was killed does not outlive the next start', async () => {
  const directory = mkdtempSync('/dev/shm/ebb-test-');
  const file = join(directory, 'data', 'ebb.pid');
  mkdirSync(join(directory, 'data'));
  writeFileSync(file, '1\n');
  await using first = await openTestNode({ directory });
  // Its own is written by what runs the process.
  expect(existsSync(file)).toBe(false);
  writeFileSync(file, `${process.pid}\n`);
  expect((await errorOf(openTestNode({ directory }))).code).toBe('data_directory_in_use');
  expect(existsSync(file)).toBe(true);
  await first.stop();
});

test('a drain says so, waits for writers, refuses new ones, and ends', async () => {
  await using node = await openTestNode();
  await node.json('PUT', '/v1/buckets/ephemeral', { preset: 'ephemeral' });
  const frames = await node.frames();
  const stage = messages.stage.request.encode({
    bucket: 'ephemeral',
    key: 'k',
    reserveBytes: 0,
    tier: TIER_BY_POLICY,
    jobId: '',
  });
  const { writeId } = messages.staged.decode(await frames.call(OPS.stage, stage));
  const drained = node.node.drain('test');
  expect(messages.goingAway.decode(await frames.push(OPS.goingAway)).reason).toBe('test');
  expect((await node.http('GET', '/readyz')).status).toBe(503);
  expect((await node.http('GET', '/healthz')).status).toBe(200);
  expect((await node.http('PUT', '/v1/buckets/ephemeral/objects/late', { body: 'x' })).code).toBe(
    'draining',
  );
  await expect(frames.call(OPS.stage, stage)).rejects.toMatchObject({ code: 'draining' });
  await expect(node.frames()).rejects.toThrow(/503/);
  await frames.call(
    OPS.commit,
    messages.commit.request.encode({
      ...{ writeId, sizeBytes: 0, crc32c: 0, ifMatch: '', ifNoneMatch: false, ack: undefined },
      ...{ contentType: '', metadata: {} },
    }),
  );
  await drained;
  await frames.closed;
  await expect(node.http('GET', '/healthz')).rejects.toThrow();
});

test('a drain may bring everything to the remote tier', async () => {
  const first = await openTestNode({ persistOnDrain: true });
  const { directory } = first;
  await first.json('PUT', '/v1/buckets/ephemeral', { preset: 'ephemeral' });
  await first.http('PUT', '/v1/buckets/ephemeral/objects/a', { body: 'kept' });
  await first.node.drain('test');
  rmSync(join(directory, 'memory'), { recursive: true }); // as after a reboot
  await using second = await openTestNode({ directory });
  expect((await second.http('GET', '/v1/buckets/ephemeral/objects/a')).body.toString()).toBe(
    'kept',
  );
});

test('web pages from elsewhere cannot reach a node that is for this host', async () => {
  await using node = await openTestNode();
  const status = async (headers: Record<string, string>): Promise<number> =>
    (await node.http('GET', '/v1/status', { headers, tcp: true })).status;
  expect(await status({})).toBe(200);
  expect(await status({ host: 'localhost:9700', origin: 'http://localhost:9700' })).toBe(200);
  expect(await status({ host: 'evil.example' })).toBe(400);
  expect(await status({ origin: 'http://evil.example' })).toBe(400);
});

test("metrics follow what happens, and names of people's things are in none", async () => {
  await using node = await openTestNode();
  await node.json('PUT', '/v1/buckets/ephemeral', { preset: 'ephemeral' });
  await node.http('PUT', '/v1/buckets/ephemeral/objects/private-name', { body: 'hello' });
  const frames = await node.frames();
  await frames.call(OPS.ping, Buffer.alloc(0));
  const text = (await node.http('GET', '/metrics')).body.toString();
  for (const line of [
    'ebb_commits_total 1',
    'ebb_commit_bytes_total 5',
    'ebb_objects 1',
    'ebb_connections 1',
    'ebb_frames_total{op="ping"} 1',
    'ebb_tier_capacity_bytes{tier="memory"} 67108864',
    'ebb_http_requests_total{method="PUT",route="/v1/buckets/{bucket}/objects/{key}",status="201"} 1',
  ])
    expect(text).toContain(line);
  expect(text).toMatch(/ebb_tier_used_bytes\{tier="memory"\} [1-9]/);
  expect(text).toContain('nodejs_eventloop_lag');
  expect(text).not.toContain('private-name');
  await frames.close();
});

test('a condition is in status, why, readiness and metrics, and is gone from all of them when it ends', async () => {
  await using node = await openTestNode();
  await node.json('PUT', '/v1/buckets/ephemeral', { preset: 'ephemeral' });
  await node.http('PUT', '/v1/buckets/ephemeral/objects/a', { body: 'hello' });
  const { conditions } = node.node.services.node;
  const look = async (): Promise<unknown> => {
    const names = (value: { conditions: { name: string }[] }): string[] =>
      value.conditions.map(({ name }) => name);
    const status = await node.json('GET', '/v1/status');
    const why = await node.json('GET', '/v1/why?bucket=ephemeral&key=a');
    const ready = await node.json('GET', '/readyz');
    const metrics = (await node.http('GET', '/metrics')).body.toString();
    return {
      state: (status.value as { state: string }).state,
      status: names(status.value),
      why: names(why.value),
      ready: [ready.status, ...names(ready.value)],
      metrics: [...metrics.matchAll(/^ebb_condition\{name="(\w+)"/gm)].map(([, name]) => name),
    };
  };
  const whole = { state: 'ready', status: [], why: [], ready: [200], metrics: [] };
  expect(await look()).toEqual(whole);

  conditions.enter('tier_without_room', 'disk', { reason: 'the disk is full' });
  const full = ['tier_without_room'];
  expect(await look()).toEqual({
    ...{ state: 'ready', status: full, ready: [200, ...full], metrics: full },
    why: [], // it lies in memory
  });
  conditions.leave('tier_without_room', 'disk');
  expect(await look()).toEqual(whole);

  conditions.enter('catalog_failed', 'catalog', { reason: 'the disk refused to sync' });
  const failed = ['catalog_failed'];
  expect(await look()).toEqual({
    ...{ state: 'read_only', status: failed, why: failed, ready: [503, ...failed] },
    metrics: failed,
  });
  conditions.leave('catalog_failed', 'catalog');
  expect(await look()).toEqual(whole);
});
