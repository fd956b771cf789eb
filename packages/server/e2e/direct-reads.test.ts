/**
 * Snapshots that lie in an object store alone, read from there with the URLs of the plan: from Ebb's own S3 surface and, where
 * there is one, from MinIO.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EbbClient, openClient } from '@ebb/client';
import { MiB, type RestorePlan, restorePlanSchema } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildImage } from '../../checkpoint/src/testing/build-image.ts';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { runEbb } from './support/ebb-command.ts';
import { type ObjectStore, objectStores } from './support/object-store.ts';

const RUN = 'gpt';
const PART = 'rank-00000';

type Part = RestorePlan['parts'][number];

/** Of which a part changes with the step. */
function imageOf(step: number): Buffer {
  const fixed = Buffer.alloc(10 * MiB, 'weights that stay as they are ');
  return buildImage({ fixed, changing: Buffer.alloc(2 * MiB, `weights of step ${step} `) });
}

for (const kind of objectStores()) {
  describe(kind.name, () => {
    let dir: string;
    let store: ObjectStore;
    let node: NodeProcess;
    let client: EbbClient;
    beforeAll(async () => {
      dir = await mkdtemp(join(tmpdir(), 'ebb-direct-'));
      store = await kind.start();
      // The SDK writes into what it is given.
      const { accessKeyId, secretAccessKey } = store.credentials;
      const place = {
        url: `s3://tier/ebb +ü?endpoint=${encodeURIComponent(store.url)}`,
        ...{ layout: 'bucket/key', credentials: { accessKeyId, secretAccessKey } },
      };
      await writeFile(join(dir, 'remotes.json'), JSON.stringify({ place }));
      node = await start();
      client = await openClient({ node: node.url });
      for (const step of [1, 2]) await save(step);
    }, 60_000);
    afterAll(async () => {
      await client?.close();
      await node?.[Symbol.asyncDispose]();
      await store?.[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    });

    const start = async (...args: string[]): Promise<NodeProcess> =>
      await startNodeProcess({
        args: [
          ...['--remote=place', `--remotes=${join(dir, 'remotes.json')}`, '--log-level=trace'],
          ...args,
        ],
      });

    async function call(url: string, body?: unknown): Promise<unknown> {
      const post = { method: 'POST', headers: { 'content-type': 'application/json' } };
      const request = body === undefined ? {} : { ...post, body: JSON.stringify(body) };
      const answer = await fetch(url, request);
      expect(answer.status, url).toBe(200);
      return await answer.json();
    }

    async function save(step: number): Promise<void> {
      const at = `${node.url}/v1/runs/${RUN}/snapshots/${step}`;
      const image = imageOf(step);
      const begin = { session: 'life', part: PART, imageBytes: image.length };
      const begun = (await call(`${at}/begin`, begin)) as { bucket: string; key: string };
      await client.put(begun.bucket, begun.key, image);
      await call(`${at}/commit`, { session: 'life', parts: [PART] });
      await client.snapshots.wait(RUN, step, { timeoutMs: 30_000 });
    }

    async function planOf(at: NodeProcess, step: number, query = '?direct=true'): Promise<Part> {
      const answer = await call(`${at.url}/v1/runs/${RUN}/snapshots/${step}/plan${query}`);
      return restorePlanSchema.parse(answer).parts[0] as Part;
    }

    /** As a client does that has the plan alone. */
    async function readFromStore({ runs, direct }: Part): Promise<Buffer> {
      const places = new Map(direct.map((one) => [one.key, one]));
      const pieces = (runs ?? []).map(async ([, length, key, offset]) => {
        const { url, etag } = places.get(key) as Part['direct'][number];
        const range = `bytes=${offset}-${offset + length - 1}`;
        const answer = await fetch(url, { headers: { range, 'if-match': `"${etag}"` } });
        expect(answer.status).toBe(206);
        return Buffer.from(await answer.arrayBuffer());
      });
      return Buffer.concat(await Promise.all(pieces));
    }

    test('what is in memory or on disk here has no URLs; what was moved away has, and they give its bytes', async () => {
      const newest = await planOf(node, 2);
      expect(newest.image).not.toBeNull();
      expect(newest.direct).toEqual([]);
      const onDisk = await planOf(node, 1);
      expect(onDisk.image).toBeNull();
      expect(onDisk.direct).toEqual([]);
      const keys = [...new Set((onDisk.runs ?? []).map(([, , key]) => key))];
      for (const key of keys) await client.relocate('checkpoints', key, 'remote');
      expect((await planOf(node, 1, '')).direct).toEqual([]);
      const away = await planOf(node, 1);
      expect(away.direct.map(({ key }) => key)).toEqual(keys);
      expect((await readFromStore(away)).equals(imageOf(1))).toBe(true);
    });

    test('a node that imported the run gives them for all of it; one that is told not to gives none', async () => {
      await using next = await start();
      await call(`${next.url}/v1/runs/import`, {});
      const part = await planOf(next, 2);
      expect(part.direct.length).toBe(2);
      expect((await readFromStore(part)).equals(imageOf(2))).toBe(true);
      await using silent = await start('--presign-reads=false');
      await call(`${silent.url}/v1/runs/import`, {});
      expect((await planOf(silent, 2)).direct).toEqual([]);
    });

    test('a URL reads its object as it was, for an hour, and does nothing else', async () => {
      await using next = await start();
      await call(`${next.url}/v1/runs/import`, {});
      const [read] = (await planOf(next, 2)).direct;
      const { url, etag } = read as Part['direct'][number];
      expect(new URL(url).searchParams.get('X-Amz-Expires')).toBe('3600');
      const status = async (to: string, request: RequestInit = {}): Promise<number> => {
        const answer = await fetch(to, request);
        await answer.arrayBuffer();
        return answer.status;
      };
      expect(await status(url, { headers: { 'if-match': `"${etag}"` } })).toBe(200);
      expect(await status(url, { headers: { 'if-match': '"another"' } })).toBe(412);
      expect(await status(url, { method: 'DELETE' })).toBe(403);
      expect(await status(url, { method: 'PUT', body: 'other' })).toBe(403);
      expect(await status(url.replace(PART, 'rank-00001'))).toBe(403);
      expect(await status(url.split('?')[0] as string)).toBe(403);
      expect(await status(url.replace('Expires=3600', 'Expires=7200'))).toBe(403);

      // It is in the answer, and nowhere else.
      const signature = new URL(url).searchParams.get('X-Amz-Signature') as string;
      const ofNode = ['/metrics', '/v1/status', `/v1/runs/${RUN}/snapshots`].map(
        async (path) => await (await fetch(next.url + path)).text(),
      );
      const commands = [
        ['checkpoint', 'show', RUN, '2', '--json'],
        ['why', `checkpoints/${read?.key}`],
      ].map(async (args) => (await runEbb(args, { EBB_NODE: next.url })).stdout);
      const said = [...(await Promise.all([...ofNode, ...commands])), next.log()].join('\n');
      expect(said).toContain(read?.key);
      expect(said).not.toContain(signature);
      expect(said).not.toContain('X-Amz-');
    });
  });
}
