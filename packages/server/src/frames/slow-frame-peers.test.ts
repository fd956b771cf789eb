/** A real node. Faults: clients of frames who take no answers, who begin long frames and stop, before and after HELLO. */
import { encodeFrame, FRAME_HEADER_BYTES, MiB, messages, OPS } from '@ebb/protocol';
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { openTestNode, type TestFrames, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
let blobId = 0;
const opened: TestFrames[] = [];
const large = Buffer.alloc(8 * MiB);
for (let at = 0; at < large.length; at += 4) large.writeUInt32LE(at, at);

beforeAll(async () => {
  node = await openTestNode({ memoryLimit: 256 * MiB });
  await node.json('PUT', '/v1/buckets/bkt', { preset: 'ephemeral' });
  await node.http('PUT', '/v1/buckets/bkt/objects/large', { body: large });
  const frames = await connect();
  const { extents } = messages.open.response.decode(
    await frames.call(OPS.open, messages.open.request.encode({ bucket: 'bkt', key: 'large' })),
  );
  blobId = extents[0]?.blobId as number;
});
afterAll(async () => await node[Symbol.asyncDispose]());
afterEach(async () => {
  await Promise.all(opened.splice(0).map((frames) => frames.close()));
});

async function connect(hello: Parameters<TestNode['frames']>[0] = {}): Promise<TestFrames> {
  const frames = await node.frames(hello);
  opened.push(frames);
  return frames;
}

function readOf(...ranges: readonly (readonly [offset: number, length: number])[]): Buffer {
  return messages.read.request.encode({
    ranges: ranges.map(([offset, length]) => ({ blobId, offset, length })),
  });
}

/** Its answers are not taken. */
async function stoppedReader(calls: number): Promise<TestFrames> {
  const frames = await connect();
  frames.socket.pause();
  for (let n = 0; n < calls; n++)
    frames.call(OPS.read, readOf([0, large.length])).catch(() => undefined);
  return frames;
}

async function metric(name: string): Promise<number> {
  const text = (await node.http('GET', '/metrics')).body.toString();
  return Number(new RegExp(`^${name.replaceAll(/[{}]/g, '\\$&')} (.*)$`, 'm').exec(text)?.[1]);
}

async function expectServed(): Promise<void> {
  const frames = await connect();
  const answer = await frames.call(OPS.read, readOf([0, large.length]));
  expect(messages.read.response.decode(answer).data.equals(large)).toBe(true);
  expect((await node.http('GET', '/v1/buckets/bkt/objects/large')).body.equals(large)).toBe(true);
}

test('sixty connections that ask for five GiB and take nothing hold one piece each at most, and hold up nobody', async () => {
  const before = process.memoryUsage().rss;
  for (let n = 0; n < 60; n++) await stoppedReader(12);
  await expectServed();
  await expect.poll(() => metric('ebb_body_pieces{use="answer"}')).toBeLessThanOrEqual(48);
  await expectServed();
  // The test's own side and the kernel have their part in it.
  expect(process.memoryUsage().rss - before).toBeLessThan(400 * MiB);
});

test('who takes his answers late gets every byte, in the order in which nothing is mixed up', async () => {
  const frames = await connect();
  frames.socket.pause();
  const answers = Array.from({ length: 10 }, (_, n) =>
    frames.call(OPS.read, readOf([n * 4096, 3 * MiB], [0, 1], [5 * MiB, 700_001])),
  );
  const small = frames.call(OPS.ping, Buffer.alloc(0));
  await expectServed();
  frames.socket.resume();
  for (const [n, answer] of (await Promise.all(answers)).entries()) {
    const { data } = messages.read.response.decode(answer);
    const expected = Buffer.concat([
      large.subarray(n * 4096, n * 4096 + 3 * MiB),
      large.subarray(0, 1),
      large.subarray(5 * MiB, 5 * MiB + 700_001),
    ]);
    expect(data.equals(expected)).toBe(true);
  }
  await small;
});

test('a large read of a blob that is gone is an error answer, also when there are no pieces', async () => {
  const frames = await connect();
  const gone = messages.read.request.encode({
    ranges: [
      { blobId, offset: 0, length: 4 * MiB },
      { blobId: 999_999, offset: 0, length: 1 * MiB },
    ],
  });
  for (let n = 0; n < 3; n++) {
    await expect(frames.call(OPS.read, gone)).rejects.toMatchObject({ code: 'data_lost' });
    for (let m = 0; m < 20; m++) await stoppedReader(1);
  }
  await frames.call(OPS.ping, Buffer.alloc(0));
});

test('half frames are counted before they are there, and who stops in one makes place', async () => {
  const head = encodeFrame(7, OPS.write, 0, Buffer.alloc(0));
  head.writeUInt32LE(16 * MiB, 0);
  const stopped: TestFrames[] = [];
  for (let n = 0; n < 8; n++) {
    const frames = await connect();
    frames.socket.write(Buffer.concat([head, Buffer.alloc(1000)]));
    stopped.push(frames);
  }
  await expect.poll(() => metric('ebb_frame_held_bytes')).toBe(64 * MiB);
  // What is small goes on.
  const frames = await connect();
  await frames.call(OPS.ping, Buffer.alloc(0));
  // What is large waits until those who stand still have been ended.
  const stage = { bucket: 'bkt', key: 'w', reserveBytes: 4 * MiB, tier: 255, jobId: '' };
  const { writeId } = messages.staged.decode(
    await frames.call(OPS.stage, messages.stage.request.encode(stage)),
  );
  const data = Buffer.alloc(4 * MiB, 3);
  await frames.call(OPS.write, messages.write.request.encode({ writeId, offset: 0, data }));
  await Promise.race(stopped.map(({ closed }) => closed));
  expect(await metric('ebb_peers_ended_total{why="memory"}')).toBeGreaterThan(0);
});

test('who is gone while a call of his is at work holds nothing, also when it ends', async () => {
  const { store } = node.node.services;
  const { promise: mayEnd, resolve: endCalls } = Promise.withResolvers<void>();
  const stage = store.stage.bind(store);
  const stages = vi.spyOn(store, 'stage').mockImplementation(async (...args) => {
    await mayEnd;
    return await stage(...args);
  });
  onTestFinished(() => stages.mockRestore());
  const frames = await connect();
  const request = { bucket: 'bkt', key: 'gone', reserveBytes: 100, tier: 255, jobId: '' };
  const call = encodeFrame(2, OPS.stage, 0, messages.stage.request.encode(request));
  const head = encodeFrame(3, OPS.write, 0, Buffer.alloc(1000));
  head.writeUInt32LE(16 * MiB, 0);
  frames.socket.write(Buffer.concat([call, head]));
  await expect.poll(() => metric('ebb_frame_held_bytes')).toBe(16 * MiB);
  frames.socket.destroy();
  await expect.poll(() => metric('ebb_frame_held_bytes')).toBe(0);
  endCalls();
  await expect.poll(() => stages.mock.settledResults[0]?.type).toBe('rejected'); // its owner is gone
  expect(await metric('ebb_frame_held_bytes')).toBe(0);
});

test('before HELLO nothing long is taken', async () => {
  const frames = await connect(null);
  const head = Buffer.alloc(FRAME_HEADER_BYTES);
  head.writeUInt32LE(1 * MiB, 0);
  head.writeUInt16LE(OPS.hello, 8);
  frames.socket.write(head);
  await frames.closed;
});
