/** Open files and directories over HTTP, on a real node. */
import { randomBytes } from 'node:crypto';
import { FILE_READ_BYTES_MAX, MiB } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestNode, type TestNode } from '../../testing/test-node.ts';

let at: TestNode;
beforeAll(async () => {
  at = await openTestNode();
  await at.json('PUT', '/v1/buckets/mem', { preset: 'ephemeral' });
});
afterAll(async () => await at[Symbol.asyncDispose]());

async function openFile(key: string, flags: string[], more = {}): Promise<string> {
  const { status, value } = await at.json('POST', '/v1/files', {
    bucket: 'mem',
    key,
    flags,
    ...more,
  });
  expect(status).toBe(201);
  return (value as { file: string }).file;
}
async function write(file: string, body: Buffer, offset = 0): Promise<unknown> {
  const answer = await at.http('PUT', `/v1/files/${file}/bytes?offset=${offset}`, { body });
  expect(answer.status).toBe(200);
  return JSON.parse(answer.body.toString());
}
async function read(file: string, offset: number, length: number): Promise<Buffer> {
  const answer = await at.http('GET', `/v1/files/${file}/bytes?offset=${offset}&length=${length}`);
  expect(answer.status).toBe(200);
  return answer.body;
}
async function object(key: string): Promise<Buffer> {
  return (await at.http('GET', `/v1/buckets/mem/objects/${key}`)).body;
}

describe('an open file', () => {
  test('is written in pieces of any size, read back, cut, synced and closed', async () => {
    const bytes = randomBytes(3 * MiB + 123);
    const file = await openFile('a/b', ['read', 'write', 'create'], {
      contentType: 'x/y',
      metadata: { Who: 'me' },
    });
    expect(await write(file, bytes.subarray(0, 10))).toEqual({
      offset: 0,
      writtenBytes: 10,
      sizeBytes: 10,
    });
    expect(await write(file, bytes.subarray(10), 10)).toMatchObject({
      writtenBytes: bytes.length - 10,
      sizeBytes: bytes.length,
    });
    expect(await read(file, MiB - 5, MiB)).toEqual(bytes.subarray(MiB - 5, 2 * MiB - 5));
    expect((await read(file, bytes.length - 3, 100)).equals(bytes.subarray(-3))).toBe(true);
    expect(await read(file, bytes.length, 100)).toEqual(Buffer.alloc(0));
    const cut = await at.json('POST', `/v1/files/${file}/truncate`, { sizeBytes: 2 * MiB });
    expect(cut.value).toMatchObject({ sizeBytes: 2 * MiB, dirty: true, version: null });
    const synced = await at.json('POST', `/v1/files/${file}/sync`, { durability: 'disk' });
    expect(synced.value).toMatchObject({ published: { sizeBytes: 2 * MiB, durability: 'disk' } });
    expect((await object('a/b')).equals(bytes.subarray(0, 2 * MiB))).toBe(true);
    await write(file, Buffer.from([0xff]), 2 * MiB);
    const closed = await at.json('POST', `/v1/files/${file}/close`);
    expect(closed.value).toMatchObject({ published: { sizeBytes: 2 * MiB + 1 } });
    const answer = await at.http('GET', '/v1/buckets/mem/objects/a/b');
    expect(answer.headers['content-type']).toBe('x/y');
    expect(answer.body.at(-1)).toBe(0xff);
    expect((await at.http('GET', `/v1/files/${file}`)).code).toBe('file_not_open');
  });

  test('appends what a body of unknown length brings', async () => {
    await at.http('PUT', '/v1/buckets/mem/objects/log', { body: 'one,' });
    const file = await openFile('log', ['write', 'append']);
    await at.http('PUT', `/v1/files/${file}/bytes`, {
      body: [Buffer.from('two,'), Buffer.from('three')],
    });
    await at.json('POST', `/v1/files/${file}/close`);
    expect((await object('log')).toString()).toBe('one,two,three');
  });

  test('that is aborted leaves the object, and no staged bytes', async () => {
    const filesOpen = async (): Promise<number> => {
      const text = (await at.http('GET', '/metrics')).body.toString();
      return Number(/^ebb_files_open (\d+)$/m.exec(text)?.[1]);
    };
    await at.http('PUT', '/v1/buckets/mem/objects/kept', { body: 'kept' });
    const before = await filesOpen();
    const file = await openFile('kept', ['write', 'truncate']);
    expect(await filesOpen()).toBe(before + 1);
    await write(file, Buffer.alloc(200_000));
    expect((await at.http('DELETE', `/v1/files/${file}`)).status).toBe(204);
    expect((await at.http('DELETE', `/v1/files/${file}`)).status).toBe(204);
    expect((await object('kept')).toString()).toBe('kept');
    expect(await filesOpen()).toBe(before);
    const { value } = await at.json('GET', '/v1/status');
    expect(
      (value as { tiers: { stagedBytes: number }[] }).tiers.map((tier) => tier.stagedBytes),
    ).toEqual([0, 0, 0]);
  });

  test('that was closed unchanged says that nothing was published', async () => {
    const file = await openFile('kept', ['read']);
    expect((await at.json('POST', `/v1/files/${file}/close`)).value).toEqual({ published: null });
  });

  test('keeps its version while the object is replaced', async () => {
    await at.http('PUT', '/v1/buckets/mem/objects/old', { body: 'version 1' });
    const file = await openFile('old', ['read']);
    await at.http('PUT', '/v1/buckets/mem/objects/old', { body: 'version 2' });
    expect((await read(file, 0, 100)).toString()).toBe('version 1');
    await at.http('DELETE', `/v1/files/${file}`);
  });

  test.each([
    ['POST', '/v1/files', { bucket: 'mem', key: 'nowhere', flags: ['read'] }, 404],
    ['POST', '/v1/files', { bucket: 'mem', key: 'k', flags: [] }, 400],
    ['POST', '/v1/files', { bucket: 'mem', key: 'k', flags: ['fast'] }, 400],
    ['GET', '/v1/files/12', undefined, 404],
    ['GET', '/v1/files/x/bytes', undefined, 404],
    ['GET', '/v1/files/12/bytes?offset=-1', undefined, 400],
    ['GET', `/v1/files/12/bytes?length=${FILE_READ_BYTES_MAX + 1}`, undefined, 413],
    ['POST', '/v1/files/12/bytes', undefined, 405],
  ])('%s %s %j is refused with %i', async (method, path, body, status) => {
    expect((await at.json(method, path, body)).status).toBe(status);
  });

  test('a body whose sender goes away publishes nothing by itself', async () => {
    const file = await openFile('half', ['write', 'create']);
    await new Promise<void>((resolve, reject) => {
      import('node:net').then(({ connect }) => {
        const socket = connect(at.socketPath, () => {
          socket.write(
            `PUT /v1/files/${file}/bytes HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n`,
          );
          socket.write(Buffer.alloc(100_000), () => socket.destroy());
        });
        socket.once('close', () => resolve());
        socket.once('error', reject);
      }, reject);
    });
    expect((await at.http('GET', '/v1/buckets/mem/objects/half')).status).toBe(404);
    await at.http('DELETE', `/v1/files/${file}`);
  });
});

test('directories are made, listed one level at a time, refused while not empty, renamed and removed', async () => {
  const make = async (path: string) =>
    await at.json('POST', '/v1/directories', { bucket: 'mem', path });
  const remove = async (path: string) =>
    await at.http('DELETE', `/v1/directories?bucket=mem&path=${path}`);
  expect((await make('d/e')).status).toBe(204);
  expect((await make('d/e/')).status).toBe(412);
  await at.http('PUT', '/v1/buckets/mem/objects/d/f', { body: 'x' });
  const listed = await at.json('GET', '/v1/buckets/mem/objects?prefix=d/&delimiter=/');
  expect(listed.value).toMatchObject({ objects: [{ key: 'd/f' }], prefixes: ['d/e/'] });
  const refused = await remove('d');
  expect([refused.status, refused.code]).toEqual([409, 'directory_not_empty']);
  const renamed = await at.json('POST', '/v1/rename', {
    ...{ from: { bucket: 'mem', key: 'd/' }, to: { bucket: 'mem', key: 'g/' }, prefix: true },
  });
  expect(renamed.value).toMatchObject({ objects: 2 });
  expect((await remove('d')).code).toBe('not_found');
  expect((await remove('g/e')).status).toBe(204);
});
