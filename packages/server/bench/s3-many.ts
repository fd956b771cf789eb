/**
 * What S3 requests cost the server over many objects, beside MinIO and versitygw: `npm run bench -- s3-many [--rounds 2]`.
 *
 * 10,000 objects and 16 connections: no server finds the file of a request open. Every server is a process of its own
 * with its data on tmpfs, and all verify signatures; they are asked in turn, workload by workload, and who goes first
 * changes. CPU is that of the server's process tree, until it has come to rest: what a server does after its answers
 * (copies to tier 2, say) counts too. Not measured: a network, a disk, TLS, a client's own cost.
 *
 *   --servers ebb,ebb-buffered,minio,versitygw   those that are there, unless given
 *   --base DIRECTORY     another checkout of Ebb as arms of its own: `ebb-base`, `ebb-base-buffered`
 *   --only WORKLOAD,…    those whose names contain it
 *   --objects 10000
 *   --parent DIRECTORY   where the servers' data is; on a disk, syncs cost what they cost there
 *   --node-flags='--cpu-prof …'   for Ebb's processes
 */
import { parseArgs } from 'node:util';
import { KiB, MiB } from '@ebb/protocol';
import { inFlight, quantile } from './support/figures.ts';
import { cpuSecondsOf } from './support/process-usage.ts';
import { createS3Client, type S3Client, unsignedPayload } from './support/s3-client.ts';
import {
  isEbb,
  type S3Server,
  SERVER_NAMES,
  type ServerName,
  startServer,
  whyAbsent,
} from './support/s3-servers.ts';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '2' },
    objects: { type: 'string', default: '10000' },
    servers: { type: 'string' },
    base: { type: 'string' },
    only: { type: 'string' },
    parent: { type: 'string' },
    'node-flags': { type: 'string', default: '' },
  },
});

const BUCKET = '/many';
const CONNECTIONS = 16;
const SMALL = 64 * KiB;
const LARGE = 8 * MiB;
const OBJECTS = Number(options.objects);
const LARGE_OBJECTS = 16;
/** Has no divisor in common with the number of objects: every object is met before one is met again. */
const STRIDE = 7_919;
const REST_LOOK_MS = 250;
const REST_LOOKS_MAX = 60;
/** The share of one processor that an idle process takes. */
const REST_SHARE = 0.08;

interface Workload {
  readonly name: string;
  readonly method: 'GET' | 'PUT';
  readonly bytes: number;
  readonly operations: number;
}

const WORKLOADS: readonly Workload[] = [
  { name: 'GET 64 KiB', method: 'GET', bytes: SMALL, operations: 6_000 },
  { name: 'PUT 64 KiB', method: 'PUT', bytes: SMALL, operations: 3_000 },
  { name: 'GET 8 MiB', method: 'GET', bytes: LARGE, operations: 64 },
  { name: 'PUT 8 MiB', method: 'PUT', bytes: LARGE, operations: 48 },
];

interface Figures {
  readonly server: string;
  readonly workload: Workload;
  /** CPU µs an operation, or CPU s a GiB. */
  readonly cost: number;
  readonly afterwards: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

interface Arm {
  readonly name: string;
  readonly server: S3Server;
  /** Where each server goes on in the order of keys. */
  next: number;
}

const PAYLOADS = new Map(
  [SMALL, LARGE].map((bytes) => [bytes, unsignedPayload(Buffer.alloc(bytes, 'as it is sent. '))]),
);
const figures: Figures[] = [];
const arms: Arm[] = [];
try {
  await startAll();
  for (const arm of arms) await fill(arm);
  await measureAll();
  report();
} finally {
  for (const { server } of arms) await server[Symbol.asyncDispose]();
}

async function startAll(): Promise<void> {
  const asked = options.servers?.split(',');
  const nodeFlags = options['node-flags'].split(' ').filter(Boolean);
  for (const name of SERVER_NAMES) {
    if (asked !== undefined && !asked.includes(name)) continue;
    const why = whyAbsent(name);
    if (why !== undefined) console.log(why);
    else await start(name, name, isEbb(name) ? { nodeFlags } : {});
    if (isEbb(name) && options.base !== undefined)
      await start(name.replace('ebb', 'ebb-base'), name, { nodeFlags, checkout: options.base });
  }
}

async function start(
  name: string,
  kind: ServerName,
  how: { readonly nodeFlags?: readonly string[]; readonly checkout?: string },
): Promise<void> {
  const where = options.parent === undefined ? {} : { parent: options.parent };
  arms.push({ name, server: await startServer(kind, { ...how, ...where }), next: 0 });
}

async function fill({ server }: Arm): Promise<void> {
  const client = createS3Client(server.port, CONNECTIONS);
  await untilReady(client);
  if (server.createBucket === undefined)
    expectIs('bucket made', (await client.send('PUT', BUCKET)).status, 200);
  else await server.createBucket(BUCKET.slice(1));
  for (const [bytes, objects] of [
    [SMALL, OBJECTS],
    [LARGE, LARGE_OBJECTS],
  ] as const)
    await inFlight(CONNECTIONS, objects, (n) => ask(client, 'PUT', bytes, n));
  client.close();
  await atRest(server);
}

/** MinIO takes connections some time before it serves them. */
async function untilReady(client: S3Client): Promise<void> {
  for (let tries = 0; ; tries++) {
    const answer = await client.send('GET', '/').catch(() => undefined);
    if (answer?.status === 200) return;
    if (tries === 600) throw new Error(`not ready: ${answer?.status} ${answer?.text}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function measureAll(): Promise<void> {
  const only = options.only?.split(',');
  // Round 0 warms up, and is not told.
  for (let round = 0; round <= Number(options.rounds); round++)
    for (const workload of WORKLOADS) {
      if (only?.every((part) => !workload.name.includes(part)) === true) continue;
      for (let at = 0; at < arms.length; at++) {
        const arm = arms[(at + round) % arms.length] as Arm;
        const found = await measure(arm, workload);
        if (round > 0) figures.push(found);
      }
    }
}

async function measure(arm: Arm, workload: Workload): Promise<Figures> {
  const { server } = arm;
  const { method, bytes, operations } = workload;
  const client = createS3Client(server.port, CONNECTIONS);
  const latencies = new Float64Array(operations);
  const first = arm.next;
  arm.next += operations;
  const [cpuBefore, startedMs] = [cpuSecondsOf(server.pid), performance.now()];
  await inFlight(CONNECTIONS, operations, async (n) => {
    const atMs = performance.now();
    await ask(client, method, bytes, first + n);
    latencies[n] = performance.now() - atMs;
  });
  const wallSeconds = (performance.now() - startedMs) / 1000;
  const answered = cpuSecondsOf(server.pid);
  client.close();
  const cost = costOf(workload);
  const atLast = method === 'PUT' ? await atRest(server) : answered;
  return {
    ...{ server: arm.name, workload },
    ...{ cost: cost(atLast - cpuBefore), afterwards: cost(atLast - answered) },
    perSecond: operations / wallSeconds,
    ...{ p50Ms: quantile(latencies, 0.5), p99Ms: quantile(latencies, 0.99) },
  };
}

/** Waits until a server has nothing left to do. @returns What it has used until then. */
async function atRest({ pid }: S3Server): Promise<number> {
  let before = cpuSecondsOf(pid);
  for (let look = 0; look < REST_LOOKS_MAX; look++) {
    await new Promise((resolve) => setTimeout(resolve, REST_LOOK_MS));
    const now = cpuSecondsOf(pid);
    if (now - before <= (REST_SHARE * REST_LOOK_MS) / 1000) return now;
    before = now;
  }
  return before;
}

async function ask(client: S3Client, method: string, bytes: number, n: number): Promise<void> {
  const at = (n * STRIDE) % (bytes === SMALL ? OBJECTS : LARGE_OBJECTS);
  const payload = method === 'PUT' ? PAYLOADS.get(bytes) : undefined;
  const path = `${BUCKET}/${bytes}/d${at % 10}/${String(at).padStart(6, '0')}`;
  const answer = await client.send(method, path, payload && { payload });
  expectIs(`${method} ${path}: status ${answer.text}`, answer.status, 200);
  if (method === 'GET') expectIs(`${path}: bytes`, answer.sizeBytes, bytes);
}

function report(): void {
  console.log(
    `${'workload'.padEnd(12)}${'server'.padEnd(20)}${'CPU of the server'.padEnd(32)}${'afterwards'.padStart(10)}${'/s'.padStart(8)}${'p50 ms'.padStart(9)}${'p99 ms'.padStart(9)}`,
  );
  for (const workload of WORKLOADS)
    for (const { name } of arms) {
      const found = figures.filter((one) => one.workload === workload && one.server === name);
      if (found.length === 0) continue;
      const costs = found.map(({ cost }) => cost);
      const of = (pick: (one: Figures) => number): string => text(quantile(found.map(pick), 0.5));
      const spread = `${text(Math.min(...costs))}–${text(Math.max(...costs))}`;
      const cost = `${of(({ cost }) => cost)} ${unitOf(workload)} (${spread})`;
      console.log(
        `${workload.name.padEnd(12)}${name.padEnd(20)}${cost.padEnd(32)}${of(({ afterwards }) => afterwards).padStart(10)}` +
          `${of(({ perSecond }) => perSecond).padStart(8)}${of(({ p50Ms }) => p50Ms).padStart(9)}${of(({ p99Ms }) => p99Ms).padStart(9)}`,
      );
    }
}

function costOf({ bytes, operations }: Workload): (cpuSeconds: number) => number {
  return (cpuSeconds) =>
    bytes === LARGE ? (cpuSeconds / operations / bytes) * 2 ** 30 : (cpuSeconds / operations) * 1e6;
}

function unitOf({ bytes }: Workload): string {
  return bytes === LARGE ? 'CPU s/GiB' : 'CPU µs';
}

function text(value: number): string {
  return value >= 10 ? value.toFixed(0) : value.toFixed(2);
}

function expectIs(what: string, found: number, expected: number): void {
  if (found !== expected) throw new Error(`${what}: ${found} instead of ${expected}`);
}
