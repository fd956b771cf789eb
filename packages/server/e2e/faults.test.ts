/**
 * Faults of a whole node: the real daemon in its own process, killed, stopped, short of disk, and worked hard.
 * What core promises of each part is tested beside the code; here it is what a user would see.
 */
import { spawn } from 'node:child_process';
import { createHash, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { openClient } from '@ebb/client';
import { crc32c } from '@ebb/core';
import {
  encodeIndexBlock,
  KiB,
  MiB,
  messages,
  OPS,
  type Status,
  TIER_BY_POLICY,
} from '@ebb/protocol';
import { smallTmpfs } from '@ebb/testkit';
import { describe, expect, test, vi } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  type NodeProcessOptions,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { EBB_BIN } from './support/ebb-command.ts';

const objectUrl = (node: NodeProcess, bucket: string, key: string): string =>
  `${node.url}/v1/buckets/${bucket}/objects/${key}`;

async function createBucket(node: NodeProcess, name: string, preset: string): Promise<void> {
  const answer = await fetch(`${node.url}/v1/buckets/${name}`, {
    method: 'PUT',
    body: JSON.stringify({ preset }),
    headers: { 'content-type': 'application/json' },
  });
  expect([200, 201]).toContain(answer.status);
}

async function put(
  node: NodeProcess,
  where: { readonly bucket: string; readonly key: string; readonly ack?: string },
  body: Buffer<ArrayBuffer>,
): Promise<{ status: number; code: string; retryAfter: string | null }> {
  const answer = await fetch(objectUrl(node, where.bucket, where.key), {
    method: 'PUT',
    body,
    headers: where.ack === undefined ? {} : { 'x-ebb-ack': where.ack },
  });
  await answer.arrayBuffer();
  const { headers } = answer;
  return {
    status: answer.status,
    code: headers.get('x-ebb-error-code') ?? '',
    retryAfter: headers.get('retry-after'),
  };
}

async function get(node: NodeProcess, bucket: string, key: string): Promise<Buffer | undefined> {
  const answer = await fetch(objectUrl(node, bucket, key));
  const body = Buffer.from(await answer.arrayBuffer());
  if (answer.status === 404) return undefined;
  expect(answer.status, `${bucket}/${key}: ${body.toString('utf8', 0, 300)}`).toBe(200);
  return body;
}

async function status(node: Pick<NodeProcess, 'url'>): Promise<Status> {
  return (await (await fetch(`${node.url}/v1/status`)).json()) as Status;
}

async function listKeys(node: NodeProcess, bucket: string): Promise<string[]> {
  const keys: string[] = [];
  for (let startAfter = ''; ; ) {
    const query = new URLSearchParams({ startAfter, limit: '1000' });
    const answer = await fetch(`${node.url}/v1/buckets/${bucket}/objects?${query}`);
    const page = (await answer.json()) as { objects: { key: string }[]; next: string | null };
    keys.push(...page.objects.map(({ key }) => key));
    if (page.next === null) return keys;
    startAfter = page.next;
  }
}

async function verify(node: NodeProcess): Promise<unknown[]> {
  const answer = await fetch(`${node.url}/v1/verify`, {
    method: 'POST',
    body: '{}',
    headers: { 'content-type': 'application/json' },
  });
  return ((await answer.json()) as { broken: unknown[] }).broken;
}

/** Bytes that say by themselves whether they are whole. */
function content(sizeBytes: number, seed: number): Buffer<ArrayBuffer> {
  const bytes = Buffer.alloc(sizeBytes);
  let state = seed | 1;
  for (let at = 0; at < sizeBytes; at += 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    if (at + 4 <= sizeBytes) bytes.writeInt32LE(state, at);
  }
  return bytes;
}
const hashOf = (bytes: Buffer | undefined): string =>
  bytes === undefined ? 'absent' : createHash('sha1').update(bytes).digest('base64');

describe('kill -9', () => {
  const ROUNDS = 20;

  test(`in the middle of writes, ${ROUNDS} times: what was acknowledged is there, and nothing is there by half`, {
    timeout: 300_000,
  }, async () => {
    await using node = await startNodeProcess({ memoryLimit: '24MiB', diskLimit: '256MiB' });
    const buckets = { ephemeral: 'ephemeral', buffered: 'buffered' };
    for (const [name, preset] of Object.entries(buckets)) await createBucket(node, name, preset);
    /** By `bucket/key`: what may be there. One entry once it was acknowledged. */
    const allowed = new Map<string, Set<string>>();
    const counts = { acknowledged: 0, unanswered: 0 };
    let seed = 1;

    for (let round = 1; round <= ROUNDS; round++) {
      let isKilled = false;
      const lane = async (number: number): Promise<void> => {
        for (let i = 0; !isKilled; i++) {
          const bucket = randomInt(2) === 0 ? 'ephemeral' : 'buffered';
          // A lane writes names of its own, some of them again and again.
          const key = randomInt(3) === 0 ? `lane${number}/again` : `lane${number}/${round}-${i}`;
          const name = `${bucket}/${key}`;
          const before = allowed.get(name) ?? new Set(['absent']);
          const isDelete = randomInt(8) === 0;
          const bytes = content([0, 100, 5000, 70_000, 300_000][randomInt(5)] as number, ++seed);
          const after = isDelete ? 'absent' : hashOf(bytes);
          allowed.set(name, new Set([...before, after]));
          const ack = ['memory', 'disk', 'disk', 'remote', undefined][randomInt(5)];
          try {
            if (isDelete) {
              const answer = await fetch(objectUrl(node, bucket, key), { method: 'DELETE' });
              await answer.arrayBuffer();
              if (![204, 404].includes(answer.status)) continue;
            } else {
              const answer = await put(
                node,
                { bucket, key, ...(ack === undefined ? {} : { ack }) },
                bytes,
              );
              if (answer.status === 429 || answer.status === 507) {
                allowed.set(name, before);
                continue;
              }
              expect(answer.status, answer.code).toBe(201);
            }
            allowed.set(name, new Set([after]));
            counts.acknowledged++;
          } catch (error) {
            if (!isKilled) throw error;
            counts.unanswered++;
          }
        }
      };
      const lanes = Promise.all(Array.from({ length: 6 }, (_, number) => lane(number)));
      await new Promise((resolve) => setTimeout(resolve, randomInt(20, 500)));
      isKilled = true;
      await node.kill();
      await lanes;
      await node.start();

      for (const [name, may] of allowed) {
        const [bucket, key] = [name.slice(0, name.indexOf('/')), name.slice(name.indexOf('/') + 1)];
        const found = hashOf(await get(node, bucket, key));
        expect([...may], `round ${round}: ${name}`).toContain(found);
        allowed.set(name, new Set([found]));
      }
      for (const bucket of Object.keys(buckets)) {
        const expected = [...allowed]
          .filter(([name, may]) => name.startsWith(`${bucket}/`) && !may.has('absent'))
          .map(([name]) => name.slice(bucket.length + 1));
        expect((await listKeys(node, bucket)).sort()).toEqual(expected.sort());
      }
      expect((await status(node)).tiers.map((tier) => tier.stagedBytes)).toEqual([0, 0, 0]);
    }
    expect(await verify(node)).toEqual([]);
    process.stdout.write(
      `kill -9 × ${ROUNDS}: ${counts.acknowledged} acknowledged, ${counts.unanswered} unanswered\n`,
    );
    expect(counts.acknowledged).toBeGreaterThan(ROUNDS);
    for (const bucket of Object.keys(buckets))
      await fetch(`${node.url}/v1/buckets/${bucket}/objects?prefix=`, { method: 'DELETE' });
    const { tiers } = await status(node);
    expect(tiers.map((tier) => tier.usedBytes - tier.pooledBytes)).toEqual([0, 0, 0]);
  });
});

test('two nodes on one data directory: the second is refused with the reason, the first goes on', async () => {
  await using node = await startNodeProcess();
  await createBucket(node, 'data', 'buffered');
  await put(node, { bucket: 'data', key: 'k' }, Buffer.from('kept'));
  await expect(startNodeProcess({ args: [`--data=${node.dataDir}`] })).rejects.toThrow(
    /data directory|data_directory_in_use/i,
  );
  expect((await get(node, 'data', 'k'))?.toString()).toBe('kept');
});

test('a full disk: writers are told 429 or 507 with the time to wait, nothing acknowledged is lost, and they go on when there is room', async ({
  skip,
}) => {
  const data = await smallTmpfs(24 * MiB);
  if (data === undefined) return skip('mounting a tmpfs is not permitted here');
  await using node = await startOn(data, { memoryLimit: '4MiB', diskLimit: '24MiB' });
  await createBucket(node, 'data', 'buffered');
  const kept = new Map<string, string>();
  const refusals: { status: number; code: string; retryAfter: string | null }[] = [];
  for (let i = 0; refusals.length < 5 && i < 500; i++) {
    const bytes = content(300_000, i);
    const answer = await put(node, { bucket: 'data', key: `k${i}` }, bytes);
    if (answer.status === 201) kept.set(`k${i}`, hashOf(bytes));
    else refusals.push(answer);
  }
  expect(refusals).toHaveLength(5);
  for (const refusal of refusals) {
    expect([429, 507], refusal.code).toContain(refusal.status);
    expect(Number(refusal.retryAfter)).toBeGreaterThan(0);
  }
  for (const [key, hash] of kept) expect(hashOf(await get(node, 'data', key))).toBe(hash);
  // Copies in tier 2, on the same file system, may have used the catalog's reserve, which is refilled first.
  for (const key of [...kept.keys()].slice(0, 5)) {
    const answer = await fetch(objectUrl(node, 'data', key), { method: 'DELETE' });
    expect(answer.status).toBe(204);
    kept.delete(key as string);
  }
  const again = content(300_000, 9999);
  await vi.waitFor(
    async () =>
      expect(await put(node, { bucket: 'data', key: 'again' }, again)).toMatchObject({
        status: 201,
      }),
    { timeout: 60_000, interval: 500 },
  );
  kept.set('again', hashOf(again));
  // Killed in that state, it starts again with all of it.
  await node.kill();
  await node.start();
  for (const [key, hash] of kept) expect(hashOf(await get(node, 'data', key))).toBe(hash);
  expect(await verify(node)).toEqual([]);
  process.stdout.write(
    `full disk: ${kept.size} objects kept, refusals ${refusals.map(({ status: s }) => s).join(' ')}\n`,
  );
});

test('SIGTERM with --persist-on-drain: objects that were in memory alone outlive the host', async () => {
  await using node = await startNodeProcess({ args: ['--persist-on-drain'] });
  await createBucket(node, 'data', 'ephemeral');
  const bodies = Array.from({ length: 30 }, (_, i) => content(50_000, i));
  await Promise.all(bodies.map((bytes, i) => put(node, { bucket: 'data', key: `k${i}` }, bytes)));
  expect(await node.stop()).toBe(0);
  rmSync(join(node.memoryDir, 'ebb-tier.json'), { force: true });
  for (const part of ['b', 'p', 't'])
    rmSync(join(node.memoryDir, part), { recursive: true, force: true });
  await node.start();
  for (const [i, bytes] of bodies.entries())
    expect(hashOf(await get(node, 'data', `k${i}`))).toBe(hashOf(bytes));
});

describe('memory of the daemon', () => {
  const SHUFFLES = 1000;
  const MAPS = 4;
  /** Growth shows from the third round on. */
  const ROUNDS = 6;
  const RSS_MAX = 200 * MiB;

  test(`stays below ${RSS_MAX / MiB} MiB while ${SHUFFLES} shuffles are registered, filled and removed, and tier use returns`, {
    timeout: 280_000,
  }, async () => {
    // By the command, as users start it: it sets the heap's limits.
    await using node = await startByCommand();
    await using client = await openClient({ node: node.unixUrl });
    const job = { jobId: 'job-rss', label: '', heartbeatTtlMs: 600_000 };
    const created = await fetch(`${node.url}/v1/jobs/${job.jobId}`, {
      method: 'PUT',
      body: JSON.stringify({ label: '', heartbeatTtlMs: 600_000 }),
      headers: { 'content-type': 'application/json' },
    });
    expect(created.ok, await created.text()).toBe(true);
    const { connection } = client;
    const before = { rss: rssOf(node.pid), tiers: await use(node) };
    const seen: string[] = [`start ${mib(before.rss)}`];
    let peak = 0;
    for (let round = 1; round <= ROUNDS; round++) {
      await inLanes(SHUFFLES, async (i) => {
        const shuffleId = round * SHUFFLES + i;
        await connection.call(OPS.shuffleRegister, messages.shuffleRegister, {
          jobId: job.jobId,
          shuffleId,
          maps: MAPS,
          partitions: 8,
        });
        for (let mapIndex = 0; mapIndex < MAPS; mapIndex++) await writeMap(shuffleId, mapIndex);
        await connection.call(OPS.shuffleTable, messages.shuffleTable, {
          jobId: job.jobId,
          shuffleId,
          sinceVersion: 0,
        });
      });
      peak = Math.max(peak, rssOf(node.pid));
      seen.push(`filled ${mib(rssOf(node.pid))}`);
      expect((await status(node)).shuffles).toBe(SHUFFLES);
      await inLanes(SHUFFLES, async (i) => {
        const shuffleId = round * SHUFFLES + i;
        const ref = { jobId: job.jobId, shuffleId };
        await connection.call(OPS.shuffleRelease, messages.shuffleRelease, ref);
        await connection.call(OPS.shuffleRemove, messages.shuffleRemove, ref);
      });
      peak = Math.max(peak, rssOf(node.pid));
      seen.push(`removed ${mib(rssOf(node.pid))}`);
      await vi.waitFor(async () => expect(await use(node)).toEqual(before.tiers), {
        timeout: 60_000,
        interval: 500,
      });
      expect((await status(node)).shuffles).toBe(0);
    }
    const line = `daemon RSS: ${seen.join(', ')}; peak ${mib(peak)}`;
    process.stdout.write(`${line}\n`);
    expect(peak, line).toBeLessThan(RSS_MAX);

    async function writeMap(shuffleId: number, mapIndex: number): Promise<void> {
      const attemptId = shuffleId * MAPS + mapIndex;
      const data = content(4 * KiB, attemptId);
      const offsets = Array.from({ length: 9 }, (_, i) => (i * data.length) / 8);
      const crc32cs = offsets
        .slice(1)
        .map((end, i) => crc32c(data.subarray(offsets[i] as number, end)));
      const index = encodeIndexBlock(
        { framing: 0, shuffleId, mapIndex, attemptId, offsets, crc32cs },
        crc32c,
      );
      const bytes = Buffer.concat([data, index]);
      const staged = await connection.call(OPS.mapStage, messages.mapStage, {
        jobId: job.jobId,
        shuffleId,
        mapIndex,
        attemptId,
        epoch: 0,
        reserveBytes: bytes.length,
        tier: TIER_BY_POLICY,
      });
      await connection.call(OPS.write, messages.write, {
        writeId: staged.writeId,
        offset: 0,
        data: bytes,
      });
      const answer = await connection.call(OPS.mapCommit, messages.mapCommit, {
        writeId: staged.writeId,
        sizeBytes: bytes.length,
        crc32c: crc32c(bytes),
        indexBytes: index.length,
      });
      expect(answer.won).toBe(true);
    }
  });
});

interface CommandNode extends AsyncDisposable {
  readonly url: string;
  readonly unixUrl: string;
  /** Of the daemon, which is the command's child. */
  readonly pid: number;
}

async function startByCommand(): Promise<CommandNode> {
  const dataDir = mkdtempSync(join(tmpdir(), 'ebb-faults-'));
  const memoryDir = mkdtempSync('/dev/shm/ebb-faults-');
  const socketPath = join(dataDir, 'ebb.sock');
  const args = [
    `--data=${dataDir}`,
    `--memory-dir=${memoryDir}`,
    `--socket=${socketPath}`,
    '--listen=127.0.0.1:0',
    '--memory-limit=256MiB',
    '--disk-limit=1GiB',
  ];
  const child = spawn(process.execPath, [EBB_BIN, 'node', ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: cleanEnv(),
  });
  const url = await new Promise<string>((resolve, reject) => {
    let log = '';
    child.once('exit', (code) => reject(new Error(`the node ended with ${code}:\n${log}`)));
    createInterface({ input: child.stderr }).on('line', (line) => {
      log += `${line}\n`;
      const ready = /"url":"([^"]+)".*"msg":"ready"/.exec(line);
      if (ready !== null) resolve(ready[1] as string);
    });
  });
  const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8');
  return {
    url,
    unixUrl: `unix://${socketPath}`,
    pid: Number(children.trim().split(' ')[0]),
    async [Symbol.asyncDispose]() {
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      await exited;
      rmSync(dataDir, { recursive: true, force: true });
      rmSync(memoryDir, { recursive: true, force: true });
    },
  };
}

async function startOn(dataDir: string, options: NodeProcessOptions): Promise<NodeProcess> {
  return await startNodeProcess({ ...options, args: [`--data=${dataDir}`] });
}

async function use(node: Pick<NodeProcess, 'url'>): Promise<number[]> {
  return (await status(node)).tiers.map(
    (tier) => tier.usedBytes - tier.pooledBytes + tier.stagedBytes,
  );
}

function rssOf(pid: number): number {
  const found = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1]) * KiB;
}
const mib = (bytes: number): string => `${Math.round(bytes / MiB)} MiB`;

async function inLanes(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: 32 }, lane));
}
