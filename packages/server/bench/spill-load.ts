/**
 * Writes of twice the size of tier 0 at full speed, while others read, into a bucket that is mirrored to an object store
 * (another node): `npm run bench -- spill-load [--memory-mib 512] [--times 2]`. What fails, what is lost, how long the
 * foreground waits, and how long the daemon's event loop is held up; beside it that of a node with nothing to do, which is
 * what the machine itself does to a loop.
 *
 * Ends with 1 when a request failed or an object is not there with its bytes, here or in the object store.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type EbbClient, openClient } from '@ebb/client';
import { KiB, MiB } from '@ebb/protocol';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { HEAP_FLAGS, inFlight, quantile, timed, verdict } from './support/figures.ts';
import { anonymousMiBOf, cpuSecondsOf } from './support/process-usage.ts';
import { createS3Client } from './support/s3-client.ts';
import { createEphemeral, KEY } from './support/s3-servers.ts';

const { values: options } = parseArgs({
  options: {
    'memory-mib': { type: 'string', default: '512' },
    times: { type: 'string', default: '2' },
    'node-flags': { type: 'string', default: '' },
  },
});
const MEMORY_MIB = Number(options['memory-mib']);
const TOTAL_BYTES = MEMORY_MIB * MiB * Number(options.times);
const LOOP_DELAY_MS_MOST = 20;
/** Node's monitor counts its own timer's period in: `nodejs_eventloop_lag_*` of an idle node. */
const LOOP_TIMER_MS = 10;
const WRITERS = 4;
const READERS = 2;
/** In turn: most of the bytes are in large objects, most of the objects are small. */
const SIZES = [8 * MiB, 256 * KiB, 64 * KiB, 64 * KiB];

const directory = mkdtempSync(join(tmpdir(), 'ebb-spill-load-'));
try {
  await using store = await startNodeProcess({
    memoryLimit: `${(TOTAL_BYTES / MiB) * 2}MiB`,
    nodeFlags: HEAP_FLAGS,
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  await createEphemeral(store.url, 'mirror');
  const url = `s3://mirror?endpoint=${encodeURIComponent(store.s3Url)}`;
  const remotes = join(directory, 'remotes.json');
  writeFileSync(remotes, JSON.stringify({ store: { url, credentials: KEY } }));
  await using node = await startNodeProcess({
    memoryLimit: `${MEMORY_MIB}MiB`,
    diskLimit: `${(TOTAL_BYTES / MiB) * 2}MiB`,
    nodeFlags: [...HEAP_FLAGS, ...options['node-flags'].split(' ').filter(Boolean)],
    args: ['--remote=store', `--remotes=${remotes}`],
  });
  await using idle = await startNodeProcess({ nodeFlags: HEAP_FLAGS });
  await measure(node, store, idle);
  await node.stop();
} finally {
  rmSync(directory, { recursive: true, force: true });
}

async function measure(node: NodeProcess, store: NodeProcess, idle: NodeProcess): Promise<void> {
  // Over HTTP all bytes go through the daemon, as those of S3 clients do.
  await using client = await openClient({ node: node.url, path: 'http' });
  await client.buckets.create('load', { preset: 'ephemeral', mirror: true });
  const sizes = sizesOf(TOTAL_BYTES);
  const [writeMs, readMs]: [number[], number[]] = [[], []];
  const errors = new Map<string, number>();
  const [watch, idleWatch] = [watchNode(node), watchNode(idle)];
  const cpuBefore = cpuSecondsOf(node.pid);

  const done: number[] = [];
  let writing = true;
  const write = async (n: number): Promise<void> => {
    const body = bodyOf(n, sizes[n] as number);
    await counted(errors, async () => {
      writeMs.push(await timed(() => client.put('load', keyOf(n), body)));
      done.push(n);
    });
  };
  const read = async (reader: number): Promise<void> => {
    for (let turn = reader; writing; turn += 7) {
      const n = done[(turn * 31) % Math.max(1, done.length)];
      if (n === undefined) await new Promise((resolve) => setImmediate(resolve));
      else
        await counted(errors, async () => {
          readMs.push(await timed(() => assertThere(client, n, sizes[n] as number)));
        });
    }
  };
  const loadMs = await timed(async () => {
    const readers = Array.from({ length: READERS }, (_, reader) => read(reader));
    await inFlight(WRITERS, sizes.length, write).finally(() => {
      writing = false;
    });
    await Promise.all(readers);
  });
  const cpuSeconds = cpuSecondsOf(node.pid) - cpuBefore;
  const mirrorMs = await timed(async () => {
    while ((await client.status()).mirrorBacklogObjects > 0)
      await new Promise((resolve) => setTimeout(resolve, 100));
  });
  const { loopDelaysMs, rssMiB } = await watch.end();
  const { loopDelaysMs: idleDelaysMs } = await idleWatch.end();

  let lost = 0;
  for (const [n, sizeBytes] of sizes.entries())
    await assertThere(client, n, sizeBytes).catch(() => lost++);
  const s3 = createS3Client(Number(new URL(store.s3Url).port), 1);
  let missing = 0;
  for (const [n, sizeBytes] of sizes.entries()) {
    const { status, sizeBytes: found } = await s3.send('GET', `/mirror/load/${keyOf(n)}`);
    if (status !== 200 || found !== sizeBytes) missing++;
  }
  s3.close();

  const failed = [...errors.values()].reduce((sum, count) => sum + count, 0);
  const worstMs = Math.max(...loopDelaysMs);
  console.log(
    [
      `${sizes.length} objects, ${Math.round(TOTAL_BYTES / MiB)} MiB, into a tier 0 of ${MEMORY_MIB} MiB: ${(TOTAL_BYTES / MiB / (loadMs / 1000)).toFixed(0)} MiB/s, ${cpuSeconds.toFixed(1)} CPU s of the daemon`,
      `errors ${failed} ${[...errors].map(([code, count]) => `${code}: ${count}`).join(', ')}; lost ${lost}; not in the object store ${missing}`,
      `write p50 ${quantile(writeMs, 0.5).toFixed(1)} p99 ${quantile(writeMs, 0.99).toFixed(1)} ms; ${readMs.length} reads p50 ${quantile(readMs, 0.5).toFixed(1)} p99 ${quantile(readMs, 0.99).toFixed(1)} ms`,
      `all mirrored ${(mirrorMs / 1000).toFixed(1)} s after the last write`,
      `event loop delay, p99 of each second: median ${quantile(loopDelaysMs, 0.5).toFixed(1)}, worst ${worstMs.toFixed(1)} ms; median ${verdict(quantile(loopDelaysMs, 0.5), LOOP_DELAY_MS_MOST)}, worst ${verdict(worstMs, LOOP_DELAY_MS_MOST)}`,
      `  of a node with nothing to do: median ${quantile(idleDelaysMs, 0.5).toFixed(1)}, worst ${Math.max(...idleDelaysMs).toFixed(1)} ms`,
      `RSS ${rssMiB} MiB at most`,
    ].join('\n'),
  );
  if (failed + lost + missing > 0) process.exitCode = 1;
}

async function counted(errors: Map<string, number>, run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    const code = String((error as { code?: unknown }).code ?? error);
    errors.set(code, (errors.get(code) ?? 0) + 1);
  }
}

/** Looks once a second; what prom-client tells of the loop begins anew with each look. */
function watchNode(node: NodeProcess): {
  end(): Promise<{ loopDelaysMs: readonly number[]; rssMiB: number }>;
} {
  const loopDelaysMs: number[] = [];
  let rssMiB = 0;
  const look = async (isFirst: boolean): Promise<void> => {
    const text = await (await fetch(`${node.url}/metrics`)).text();
    const p99 = Number(/^nodejs_eventloop_lag_p99_seconds (\S+)/m.exec(text)?.[1]) * 1000;
    if (!isFirst) loopDelaysMs.push(Math.max(0, p99 - LOOP_TIMER_MS)); // the first is of the start
    rssMiB = Math.max(rssMiB, anonymousMiBOf(node.pid));
  };
  let looking = look(true);
  const timer = setInterval(() => {
    looking = looking.then(() => look(false));
  }, 1000);
  return {
    end: async () => {
      clearInterval(timer);
      await looking;
      await look(false);
      return { loopDelaysMs, rssMiB };
    },
  };
}

async function assertThere(client: EbbClient, n: number, sizeBytes: number): Promise<void> {
  const got = await client.get('load', keyOf(n));
  const bytes = Buffer.from(await got.bytes());
  if (!bytes.equals(bodyOf(n, sizeBytes))) throw new Error('wrong bytes');
}

function sizesOf(totalBytes: number): readonly number[] {
  const sizes: number[] = [];
  for (let sum = 0; sum < totalBytes; sum += sizes.at(-1) as number)
    sizes.push(SIZES[sizes.length % SIZES.length] as number);
  return sizes;
}

function bodyOf(n: number, sizeBytes: number): Buffer {
  return Buffer.alloc(sizeBytes, `object ${n} `);
}

function keyOf(n: number): string {
  return `dir${n % 10}/${n}`;
}
