/**
 * Surfaces on a real store. Fault: an object that lies in tier 2 alone is replaced or deleted between its opening and the
 * first read, as often as told.
 */
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type ObjectStore, versionIdOf } from '@ebb/core';
import { MiB } from '@ebb/protocol';
import { buffered, bytesOf, mirrored, openStoreInTest, type TestStore } from '@ebb/testkit';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { readWhole, streamRead } from './frames/read-answer.ts';
import { BufferPool } from './http/buffer-pool.ts';
import { getObject } from './http/data/get-object.ts';
import { sendError, toStoreError } from './http/error-response.ts';
import { PeerMemory } from './http/peer-memory.ts';
import { PIECE_BYTES } from './limits.ts';
import { createS3Surface } from './s3/surface.ts';

const REF = { bucket: 'buf', key: 'n' };
const first = bytesOf(9 * MiB, 1); // too long to be brought up for a range
const second = bytesOf(9 * MiB, 2);

async function putBelow(at: TestStore, bytes: Uint8Array): Promise<void> {
  await at.put(REF.bucket, REF.key, bytes);
  await mirrored(at);
  await at.store.relocate(REF, 2);
}

async function openBelow(): Promise<TestStore> {
  const at = await openStoreInTest({ buf: buffered });
  await putBelow(at, first);
  return at;
}

/** `meanwhile` runs before the first `times` reads. */
function interrupted(at: TestStore, meanwhile: () => Promise<void>, times: number): ObjectStore {
  let left = times;
  return new Proxy(at.store, {
    get(store, name) {
      const value: unknown = Reflect.get(store, name);
      if (typeof value !== 'function') return value;
      if (name !== 'read') return value.bind(store);
      return async (...args: Parameters<ObjectStore['read']>) => {
        if (left-- > 0) await meanwhile();
        await store.read(...args);
      };
    },
  });
}

async function remove(at: TestStore): Promise<void> {
  await at.store.delete(REF);
  await mirrored(at);
}

const pools = () => ({
  pieces: new BufferPool({
    ...{ pieceBytes: PIECE_BYTES, piecesMax: 16, piecesKept: 2, answerPiecesMax: 12 },
  }),
  held: new PeerMemory({ bytesMax: 64 * MiB, ownBytes: 1, patienceMs: 1000 }),
});

function v1(store: ObjectStore, at: TestStore): RequestListener {
  const context = { store, owner: at.owner, ...pools() };
  return (request, response) =>
    void getObject(request, response, REF, context).catch((error: unknown) =>
      sendError(response, toStoreError(error)),
    );
}

function s3(store: ObjectStore, at: TestStore): RequestListener {
  const metrics = { observeHttp: () => undefined, httpErrors: { inc: () => undefined } };
  const surface = createS3Surface({
    config: { domain: 'localhost', keys: [], fileRedirect: null },
    ...{ metrics: metrics as never, log: pino({ level: 'silent' }), ...pools() },
  });
  surface.attach(store, at.catalog);
  return surface.onRequest;
}

async function get(listener: RequestListener, range?: string) {
  const server = createServer(listener).listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const headers = { connection: 'close', ...(range === undefined ? {} : { range }) };
  const answer = await fetch(`http://localhost:${port}/${REF.bucket}/${REF.key}`, { headers });
  const { status, headers: told } = answer;
  return { status, headers: told, body: Buffer.from(await answer.arrayBuffer()) };
}

const surfaces = [
  ['/v1', v1],
  ['S3', s3],
] as const;

test.each(surfaces)(
  '%s: a GET of what is replaced or deleted before its first byte answers with what is there now',
  async (_, surface) => {
    const at = await openBelow();
    const store = interrupted(at, () => putBelow(at, second), 1);
    const whole = await get(surface(store, at));
    expect([whole.status, whole.body.equals(second)]).toEqual([200, true]);
    const again = interrupted(at, () => putBelow(at, first), 1);
    const part = await get(surface(again, at), 'bytes=5-14');
    expect([part.status, part.body.equals(first.subarray(5, 15))]).toEqual([206, true]);
    const gone = await get(
      surface(
        interrupted(at, () => remove(at), 1),
        at,
      ),
    );
    expect(gone.status).toBe(404);
  },
);

test.each(surfaces)(
  '%s: a GET of what is replaced again and again is told to come again, and never that it conflicts',
  async (_, surface) => {
    const at = await openBelow();
    const store = interrupted(at, () => putBelow(at, second), 100);
    const answer = await get(surface(store, at), 'bytes=0-4');
    expect(answer.status).toBe(429);
    expect(answer.body.toString()).not.toContain('ConditionalRequestConflict');
  },
);

test('S3: a GET whose version is deleted before its first byte tells nothing of that version', async () => {
  const at = await openBelow();
  await at.store.setVersioning(REF.bucket, 'enabled');
  await putBelow(at, second);
  await at.store.deleteVersion({ ...REF, versionId: 'null' });
  const { object } = await at.store.head(REF);
  const removeVersion = async (): Promise<void> => {
    await at.store.deleteVersion({ ...REF, versionId: versionIdOf(object) });
    await mirrored(at);
  };
  const gone = await get(s3(interrupted(at, removeVersion, 1), at));
  expect([gone.status, gone.headers.get('x-amz-version-id')]).toEqual([404, null]);
  expect(gone.headers.get('x-amz-request-id')).not.toBeNull();
});

test('a frame that reads a version in tier 2 alone that went meanwhile is told superseded, whole or in pieces', async () => {
  const at = await openBelow();
  const { store, owner } = at;
  const { object } = await store.open(owner, REF, { ranges: true });
  const blobId = object.extents[0]?.blobId as number;
  await remove(at);
  const reader = { store, owner, pieces: pools().pieces };
  const planOf = (length: number) => ({
    ranges: [{ blobId, offset: 0, length }],
    totalBytes: length,
  });
  await expect(readWhole(reader, planOf(5))).rejects.toMatchObject({ code: 'superseded' });
  const unused = (): never => {
    throw new Error('the answer was begun');
  };
  await expect(streamRead(reader, planOf(9 * MiB), unused)).rejects.toMatchObject({
    code: 'superseded',
  });
  const stranger = store.createOwner('who opened nothing');
  await expect(readWhole({ store, owner: stranger }, planOf(5))).rejects.toMatchObject({
    code: 'data_lost',
  });
});
