import { lstatSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32c } from '@ebb/core';
import {
  encodeFrame,
  FRAME_HEADER_BYTES,
  FRAME_PAYLOAD_BYTES_MAX,
  HEADERS,
  KiB,
  MiB,
  messages,
  OPS,
  proofName,
  TIER_BY_POLICY,
} from '@ebb/protocol';
import { codeOf } from '@ebb/testkit';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestNode, type TestFrames, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
beforeAll(async () => {
  node = await openTestNode();
  await node.json('PUT', '/v1/buckets/ephemeral', { preset: 'ephemeral' });
});
afterAll(async () => await node[Symbol.asyncDispose]());

const none = Buffer.alloc(0);
const staged = (): number =>
  node.node.services.store.tiers().reduce((sum, tier) => sum + tier.stagedBytes, 0);

async function stage(
  frames: TestFrames,
  key: string,
  reserveBytes = 4 * KiB,
  jobId = '',
): Promise<ReturnType<typeof messages.staged.decode>> {
  const payload = messages.stage.request.encode({
    bucket: 'ephemeral',
    key,
    reserveBytes,
    tier: TIER_BY_POLICY,
    jobId,
  });
  return messages.staged.decode(await frames.call(OPS.stage, payload));
}
async function commit(
  frames: TestFrames,
  writeId: number,
  sizeBytes: number,
  more: Partial<Parameters<typeof messages.commit.request.encode>[0]> = {},
) {
  const payload = messages.commit.request.encode({
    ...{
      writeId,
      sizeBytes,
      crc32c: undefined,
      ifMatch: '',
      ifNoneMatch: false,
      ack: undefined,
      contentType: '',
      metadata: {},
    },
    ...more,
  });
  return messages.commit.response.decode(await frames.call(OPS.commit, payload));
}

describe('objects', () => {
  test('a client that sees the files writes and reads them itself', async () => {
    const frames = await node.frames(null);
    const hello = messages.hello.response.decode(
      await frames.call(
        OPS.hello,
        messages.hello.request.encode({ protocolVersion: 1, client: 'test', jobId: '' }),
      ),
    );
    const challenge = '0123456789abcdef0123456789abcdef';
    await frames.call(OPS.proveHost, messages.proveHost.request.encode({ challenge }));
    for (const directory of [hello.memoryDir, hello.diskDir])
      expect(lstatSync(join(directory, proofName(challenge))).size).toBe(0);
    expect(frames.upgradeHeaders[HEADERS.socket]).toBe(node.socketPath);

    const body = Buffer.alloc(10_000, 'ebb');
    const write = await stage(frames, 'local', body.length);
    expect(write.reservedBytes).toBeGreaterThanOrEqual(body.length);
    writeFileSync(join(hello.memoryDir, write.path), body, { flag: 'r+' });
    const committed = await commit(frames, write.writeId, body.length, {
      crc32c: crc32c(body),
      metadata: { a: 'b' },
    });
    expect(committed.durability).toBe('memory');

    const opened = messages.open.response.decode(
      await frames.call(
        OPS.open,
        messages.open.request.encode({ bucket: 'ephemeral', key: 'local' }),
      ),
    );
    const [extent] = opened.extents;
    expect(opened).toMatchObject({
      version: committed.version,
      etag: committed.etag,
      sizeBytes: body.length,
    });
    expect(
      readFileSync(join(hello.memoryDir, extent?.path ?? ''))
        .subarray(0, body.length)
        .equals(body),
    ).toBe(true);
    await frames.call(OPS.release, messages.release.request.encode({ leaseIds: [opened.leaseId] }));
    const http = await node.http('GET', '/v1/buckets/ephemeral/objects/local');
    expect([http.body.equals(body), http.headers['x-ebb-meta-a']]).toEqual([true, 'b']);
    await frames.close();
  });

  test('a client that does not see the files sends and fetches bytes', async () => {
    const frames = await node.frames();
    const write = await stage(frames, 'remote', 0);
    const body = Buffer.alloc(3 * MiB + 5);
    for (let at = 0; at < body.length; at++) body[at] = at % 251;
    for (let at = 0; at < body.length; at += MiB)
      await frames.call(
        OPS.write,
        messages.write.request.encode({
          writeId: write.writeId,
          offset: at,
          data: body.subarray(at, at + MiB),
        }),
      );
    await commit(frames, write.writeId, body.length, { crc32c: crc32c(body) });
    const opened = messages.open.response.decode(
      await frames.call(
        OPS.open,
        messages.open.request.encode({ bucket: 'ephemeral', key: 'remote' }),
      ),
    );
    const blobId = opened.extents[0]?.blobId as number;
    const ranges = [
      { blobId, offset: 0, length: 10 },
      { blobId, offset: 3 * MiB, length: 5 },
      { blobId, offset: 100, length: 0 },
      { blobId, offset: 7, length: 2 * MiB },
    ];
    const answer = await frames.call(OPS.read, messages.read.request.encode({ ranges }));
    const expected = Buffer.concat(
      ranges.map(({ offset, length }) => body.subarray(offset, offset + length)),
    );
    expect(messages.read.response.decode(answer).data.equals(expected)).toBe(true);
    const tooMuch = [...Array(5)].map(() => ({ blobId, offset: 0, length: 2 * MiB }));
    expect(
      await codeOf(frames.call(OPS.read, messages.read.request.encode({ ranges: tooMuch }))),
    ).toBe('request_invalid');
    const beyond = [{ blobId, offset: 4 * MiB, length: 1 }];
    expect(
      await codeOf(frames.call(OPS.read, messages.read.request.encode({ ranges: beyond }))),
    ).toBe('range_invalid');
    await frames.close();
  });

  test('10,000 small writes with many in flight are each answered once', async () => {
    const frames = await node.frames();
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < 10_000) {
        const write = await stage(frames, `n/${next++ % 500}`, 0);
        await commit(frames, write.writeId, 0, { crc32c: 0 });
      }
    };
    await Promise.all(Array.from({ length: 256 }, lane));
    expect(staged()).toBe(0);
    await frames.close();
  });

  test('a write belongs to its connection, ends once, and goes with it', async () => {
    const [mine, other] = [await node.frames(), await node.frames()];
    const write = await stage(mine, 'fenced', 0);
    expect(await codeOf(commit(other, write.writeId, 0))).toBe('write_not_found');
    await commit(mine, write.writeId, 0);
    expect(await codeOf(commit(mine, write.writeId, 0))).toBe('already_committed');
    expect(await codeOf(commit(mine, 999_999_999, 0))).toBe('write_not_found');

    const lost = await stage(mine, 'lost');
    expect(staged()).toBeGreaterThan(0);
    await mine.close();
    while (staged() > 0) await new Promise((resolve) => setImmediate(resolve));
    expect(await codeOf(commit(other, lost.writeId, 0))).toBe('write_not_found');
    expect((await node.http('GET', '/v1/buckets/ephemeral/objects/lost')).code).toBe('not_found');
    await other.close();
  });

  test('a stage under way when its connection ends leaves nothing', async () => {
    for (let n = 0; n < 20; n++) {
      const frames = await node.frames();
      const calls = Array.from({ length: 50 }, (_, at) =>
        stage(frames, `race/${at}`).catch(() => undefined),
      );
      await calls[n % 50];
      await frames.close();
      await Promise.all(calls);
    }
    while (staged() > 0) await new Promise((resolve) => setImmediate(resolve));
    while (node.node.services.node.connections() > 0)
      await new Promise((resolve) => setImmediate(resolve));
  });
});

describe('bad input', () => {
  test('a challenge of another form makes no file', async () => {
    const frames = await node.frames();
    const roots = node.node.services.store.tiers().map(({ location }) => location);
    const before = roots.map((root) => (root.startsWith('/') ? readdirSync(root) : []));
    for (const challenge of ['', '../../x', 'A'.repeat(32), '0'.repeat(31), `${'0'.repeat(32)}/`])
      expect(
        await codeOf(frames.call(OPS.proveHost, messages.proveHost.request.encode({ challenge }))),
      ).toBe('request_invalid');
    expect(roots.map((root) => (root.startsWith('/') ? readdirSync(root) : []))).toEqual(before);
    await frames.close();
  });

  test('names, lengths, conditions: each is its own error', async () => {
    const frames = await node.frames();
    expect(await codeOf(stage(frames, ''))).toBe('name_invalid');
    expect(await codeOf(stage(frames, 'a/../b'))).toBe('name_invalid');
    expect(await codeOf(stage(frames, 'huge', 10 * 1024 * MiB))).toMatch(/tier_full|too_large/);
    expect(await codeOf(stage(frames, 'jobless', 0, 'no-such-job'))).toBe('job_not_found');
    expect(
      await codeOf(
        frames.call(
          OPS.open,
          messages.open.request.encode({ bucket: 'ephemeral', key: 'nothing' }),
        ),
      ),
    ).toBe('not_found');
    const short = await stage(frames, 'short', 0);
    expect(await codeOf(commit(frames, short.writeId, 100 * KiB))).toBe('length_mismatch');
    await commit(frames, (await stage(frames, 'new', 0)).writeId, 0, { ifNoneMatch: true });
    expect(
      await codeOf(
        commit(frames, (await stage(frames, 'new', 0)).writeId, 0, { ifNoneMatch: true }),
      ),
    ).toBe('already_exists');
    expect(staged()).toBe(0);
    await frames.close();
  });

  test('a payload that is no such message is refused, and the connection goes on', async () => {
    const frames = await node.frames();
    expect(await codeOf(frames.call(OPS.commit, Buffer.from('nonsense')))).toBe('request_invalid');
    expect(await codeOf(frames.call(OPS.ping, Buffer.from('x')))).toBe('request_invalid');
    expect(await codeOf(frames.call(4711, none))).toBe('unsupported');
    expect((await frames.call(OPS.ping, none)).length).toBe(0);
    await frames.close();
  });

  test('anything before HELLO, or another version, ends the connection with a reason', async () => {
    const impatient = await node.frames(null);
    expect(await codeOf(impatient.call(OPS.ping, none))).toBe('request_invalid');
    await impatient.closed;
    expect(await codeOf(node.frames({ version: 99 }))).toBe('version_unsupported');
  });

  test('a frame that announces too much ends the connection', async () => {
    const frames = await node.frames();
    const header = encodeFrame(9, OPS.write, 0, none).subarray(0, FRAME_HEADER_BYTES);
    header.writeUInt32LE(FRAME_PAYLOAD_BYTES_MAX + 1, 0);
    frames.socket.write(header);
    await frames.closed;
  });

  test('an upgrade to something else is refused here, and ignored elsewhere', async () => {
    const headers = { connection: 'upgrade', upgrade: 'h2c' };
    const refused = await node.http('GET', '/v1/frames', { headers });
    expect([refused.status, refused.code]).toEqual([400, 'request_invalid']);
    expect((await node.http('GET', '/readyz', { headers })).status).toBe(200);
  });
});

describe('jobs and shuffles', () => {
  test('a job lives while a connection works for it, and its end frees what it owns', async () => {
    const frames = await node.frames({ jobId: 'job-1' });
    await frames.call(
      OPS.jobOpen,
      messages.jobOpen.request.encode({ jobId: 'job-1', heartbeatTtlMs: 1000, label: 'test' }),
    );
    await commit(frames, (await stage(frames, 'of-job', 0, 'job-1')).writeId, 0);
    const { store } = node.node.services;
    const opened = (await store.getJob('job-1')).lastHeartbeatMs;
    while ((await store.getJob('job-1')).lastHeartbeatMs === opened)
      await new Promise((resolve) => setImmediate(resolve));
    const receipt = messages.jobEnd.response.decode(
      await frames.call(OPS.jobEnd, messages.jobEnd.request.encode({ jobId: 'job-1' })),
    );
    expect(receipt.objects).toBe(1);
    expect(
      await codeOf(
        frames.call(OPS.jobHeartbeat, messages.jobHeartbeat.request.encode({ jobId: 'job-1' })),
      ),
    ).toBe('job_not_found');
    await frames.close();
  });

  test('a shuffle is registered, listed, and its table comes empty', async () => {
    const frames = await node.frames({ jobId: 'job-2' });
    await frames.call(
      OPS.jobOpen,
      messages.jobOpen.request.encode({ jobId: 'job-2', heartbeatTtlMs: 60_000, label: '' }),
    );
    const ref = { jobId: 'job-2', shuffleId: 0 };
    await frames.call(
      OPS.shuffleRegister,
      messages.shuffleRegister.request.encode({ ...ref, maps: 2, partitions: 3 }),
    );
    const table = messages.shuffleTable.response.decode(
      await frames.call(
        OPS.shuffleTable,
        messages.shuffleTable.request.encode({ ...ref, sinceVersion: 0 }),
      ),
    );
    expect(table).toMatchObject({ maps: 2, partitions: 3, rows: [] });
    const listed = await node.json('GET', '/v1/shuffles');
    expect(listed.value).toEqual({
      shuffles: [{ ...ref, maps: 2, partitions: 3, committedMaps: 0, sizeBytes: 0 }],
    });
    const stageUnknown = messages.mapStage.request.encode({
      ...ref,
      shuffleId: 9,
      mapIndex: 0,
      attemptId: 1,
      epoch: 0,
      reserveBytes: 10,
      tier: 0,
    });
    expect(await codeOf(frames.call(OPS.mapStage, stageUnknown))).toBe('shuffle_not_found');
    await frames.close();
  });
});
