/** A byte that changed on disk, on every surface of a real node. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { type ExtentLocation, MiB, messages, OPS } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { openTestNode, type TestNode } from './testing/test-node.ts';

const SIZE = 3 * MiB + 11;
const bytes = Buffer.alloc(SIZE);
for (let at = 0; at < SIZE; at += 7) bytes[at] = at % 253;

function theFile(directory: string): string {
  const root = join(directory, 'data', 'disk', 'b');
  const files = readdirSync(root).flatMap((low) =>
    readdirSync(join(root, low)).map((name) => join(root, low, name)),
  );
  return files.find((file) => statSync(file).size === SIZE) as string;
}

/** The status, and whether the body came whole. */
function get(
  base: string,
  path: string,
  range?: string,
): Promise<{ status: number; body?: Buffer }> {
  return new Promise((resolve, reject) => {
    const call = request(new URL(path, base), range === undefined ? {} : { headers: { range } });
    call.on('error', reject);
    call.on('response', (answer) => {
      const status = answer.statusCode as number;
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => resolve({ status, body: Buffer.concat(chunks) }));
      answer.on('error', () => resolve({ status })); // cut
    });
    call.end();
  });
}

async function openWithObject(): Promise<TestNode> {
  const node = await openTestNode({ s3Listen: '127.0.0.1:0' });
  await node.json('PUT', '/v1/buckets/bkt', { preset: 'buffered', mirror: false });
  await node.http('PUT', '/v1/buckets/bkt/objects/k', { body: bytes });
  const moved = await node.json('POST', '/v1/relocate', { bucket: 'bkt', key: 'k', tier: 'disk' });
  expect(moved.status).toBeLessThan(300);
  return node;
}

test('a byte that changed on disk is given to nobody, over HTTP, S3 and frames, whole or in ranges', async () => {
  await using node = await openWithObject();
  const surfaces = [
    [node.node.url as string, '/v1/buckets/bkt/objects/k'],
    [node.node.s3Url as string, '/bkt/k'],
  ] as const;
  for (const [base, path] of surfaces)
    expect((await get(base, path)).body?.equals(bytes)).toBe(true);
  const file = theFile(node.directory);
  for (const at of [10, 2 * MiB + 5, SIZE - 1]) {
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] as number) ^ 1;
    writeFileSync(file, changed);
    for (const [base, path] of surfaces) {
      const whole = await get(base, path);
      expect(whole.status === 200 && whole.body !== undefined, `${path} with byte ${at}`).toBe(
        false,
      );
      const part = await get(base, path, `bytes=${at}-${at}`);
      expect(part.status).toBe(500);
    }
    const frames = await node.frames();
    const opened = messages.open.response.decode(
      await frames.call(OPS.open, messages.open.request.encode({ bucket: 'bkt', key: 'k' })),
    );
    expect(opened.extents[0]?.path).toBe('');
    const blobId = opened.extents[0]?.blobId as number;
    const ranges = [{ blobId, offset: at, length: 1 }];
    await expect(
      frames.call(OPS.read, messages.read.request.encode({ ranges })),
    ).rejects.toMatchObject({
      code: 'data_corrupt',
    });
    await frames.close();
  }
  const metrics = (await node.http('GET', '/metrics')).body.toString();
  expect(metrics).toContain('ebb_corrupt_copies_total{tier="disk"} 1');
  expect(readFileSync(file).length).toBe(SIZE);
});

test('who does not ask whether it shares the host is shown no file of the disk, and who does is', async () => {
  await using node = await openWithObject();
  const frames = await node.frames();
  const open = async () =>
    messages.open.response.decode(
      await frames.call(OPS.open, messages.open.request.encode({ bucket: 'bkt', key: 'k' })),
    ).extents[0] as ExtentLocation;
  const { path, blobId } = await open();
  expect(path).toBe('');
  const ranges = [{ blobId, offset: 7, length: 1 }];
  const read = await frames.call(OPS.read, messages.read.request.encode({ ranges }));
  expect(messages.read.response.decode(read).data).toEqual(bytes.subarray(7, 8));
  const challenge = '0123456789abcdef'.repeat(2);
  await frames.call(OPS.proveHost, messages.proveHost.request.encode({ challenge }));
  expect((await open()).path).not.toBe('');
  await frames.close();
});
