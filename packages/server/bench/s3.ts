/**
 * What S3 requests cost the server, beside MinIO and versitygw: `npm run bench -- s3 [--rounds 5] [--only WORKLOAD,…]`.
 *
 * Every server is a process of its own with its data on tmpfs; all verify signatures; one client process asks them in turn,
 * workload by workload, so that a ratio compares neighbours in time. CPU is that of the server's process tree alone. What
 * is not measured: a network, a disk, TLS, and a client's own cost.
 *
 *   --servers ebb,ebb-buffered,minio,versitygw   those that are there, unless given
 *   --quick                         few requests in one round: it shows that everything works, and times nothing
 *   --json FILE                     the figures of every round
 *   --node-flags='--cpu-prof …'     for Ebb's process
 *
 * Ends with 1 when an answer was wrong; a target that does not hold is told, and ends with 0.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { KiB, MiB } from '@ebb/protocol';
import { inFlight } from './support/figures.ts';
import { cpuSecondsOf } from './support/process-usage.ts';
import {
  createS3Client,
  type Payload,
  type S3Client,
  signedPayload,
  trailerPayload,
  unsignedPayload,
} from './support/s3-client.ts';
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
    rounds: { type: 'string', default: '5' },
    only: { type: 'string' },
    servers: { type: 'string' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    'node-flags': { type: 'string', default: '' },
  },
});

const BUCKET = '/bench';
const LIST_BUCKET = '/bench-list';
const CONNECTIONS = 4;
/** Objects that the workloads of one size go around in: 128 MiB of the largest. */
const OBJECTS = 16;
const LISTED_KEYS = options.quick ? 1_200 : 10_000;

interface Workload {
  readonly name: string;
  /** Requests in a round, and with `--quick`. A listing is one request for each page. */
  readonly operations: readonly [whole: number, quick: number];
  readonly bytes: number;
  readonly target: { readonly unit: Unit; readonly most: number } | undefined;
  run(client: S3Client, n: number): Promise<void>;
}

/** What a workload costs is told in. */
type Unit = 'CPU s/GiB' | 'CPU µs' | 'CPU ms';

const PAYLOADS = { unsigned: unsignedPayload, signed: signedPayload, trailer: trailerPayload };
const WORKLOADS: readonly Workload[] = [
  getWorkload('GET 8 MiB', 8 * MiB, [64, 2], { unit: 'CPU s/GiB', most: 0.65 }),
  putWorkload('PUT 8 MiB unsigned', 8 * MiB, 'unsigned', [48, 2], { unit: 'CPU s/GiB', most: 1.7 }),
  putWorkload('PUT 8 MiB sha256', 8 * MiB, 'signed', [32, 2], undefined),
  putWorkload('PUT 8 MiB crc32 trailer', 8 * MiB, 'trailer', [48, 2], undefined),
  getWorkload('GET 64 KiB', 64 * KiB, [3_000, 16], { unit: 'CPU µs', most: 160 }),
  putWorkload('PUT 64 KiB unsigned', 64 * KiB, 'unsigned', [1_500, 16], {
    unit: 'CPU µs',
    most: 300,
  }),
  putWorkload('PUT 64 KiB sha256', 64 * KiB, 'signed', [1_500, 16], undefined),
  putWorkload('PUT 64 KiB crc32 trailer', 64 * KiB, 'trailer', [1_500, 16], undefined),
  {
    ...{ name: 'HEAD', bytes: 0, operations: [3_000, 16], target: undefined },
    run: async (client, n) => {
      const { status } = await client.send('HEAD', keyOf(64 * KiB, n));
      expectIs('HEAD', status, 200);
    },
  },
  {
    ...{ name: `LIST ${LISTED_KEYS} keys`, bytes: 0, operations: [5, 1] },
    target: { unit: 'CPU ms', most: 180 },
    run: async (client) => expectIs('keys listed', await listAll(client), LISTED_KEYS),
  },
];

function getWorkload(
  name: string,
  bytes: number,
  operations: Workload['operations'],
  target: Workload['target'],
): Workload {
  const run: Workload['run'] = async (client, n) => {
    const { status, sizeBytes } = await client.send('GET', keyOf(bytes, n));
    expectIs(`${name}: status`, status, 200);
    expectIs(`${name}: bytes`, sizeBytes, bytes);
  };
  return { name, bytes, operations, target, run };
}

function putWorkload(
  name: string,
  bytes: number,
  kind: keyof typeof PAYLOADS,
  operations: Workload['operations'],
  target: Workload['target'],
): Workload {
  let payload: Payload | undefined;
  const run: Workload['run'] = async (client, n) => {
    payload ??= PAYLOADS[kind](dataOf(bytes));
    const { status, text } = await client.send('PUT', keyOf(bytes, n), { payload });
    expectIs(`${name}: status ${text}`, status, 200);
  };
  return { name, bytes, operations, target, run };
}

interface Figures {
  readonly round: number;
  readonly server: ServerName;
  readonly workload: string;
  readonly operations: number;
  readonly cpuSeconds: number;
  readonly wallSeconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const figures: Figures[] = [];
const servers: S3Server[] = [];
try {
  for (const name of chosenServers()) {
    const flags = isEbb(name) ? options['node-flags'].split(' ').filter(Boolean) : [];
    servers.push(await startServer(name, { nodeFlags: flags }));
  }
  for (const server of servers) await prepare(server);
  await measureAll();
  report();
  if (options.json !== undefined) writeFileSync(options.json, JSON.stringify(figures, null, 1));
} finally {
  for (const server of servers) await server[Symbol.asyncDispose]();
}

function chosenServers(): readonly ServerName[] {
  const asked = options.servers?.split(',');
  return SERVER_NAMES.filter((name) => {
    if (asked !== undefined && !asked.includes(name)) return false;
    const why = whyAbsent(name);
    if (why !== undefined) console.log(why);
    return why === undefined;
  });
}

async function prepare({ port, createBucket }: S3Server): Promise<void> {
  const client = createS3Client(port, CONNECTIONS);
  await untilReady(client);
  for (const bucket of [BUCKET, LIST_BUCKET])
    if (createBucket !== undefined) await createBucket(bucket.slice(1));
    else expectIs('bucket made', (await client.send('PUT', bucket)).status, 200);
  for (const bytes of [8 * MiB, 64 * KiB]) {
    const payload = unsignedPayload(dataOf(bytes));
    for (let n = 0; n < OBJECTS; n++) await client.send('PUT', keyOf(bytes, n), { payload });
  }
  const payload = unsignedPayload(dataOf(16));
  await inFlight(16, LISTED_KEYS, async (n) => {
    const path = `${LIST_BUCKET}/d${n % 10}/${String(n).padStart(6, '0')}`;
    expectIs('key put', (await client.send('PUT', path, { payload })).status, 200);
  });
  client.close();
}

/** MinIO takes connections some time before it serves them. */
async function untilReady(client: S3Client): Promise<void> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const answer = await client.send('GET', '/').catch(() => undefined);
    if (answer?.status === 200) return;
    if (performance.now() > deadline)
      throw new Error(`not ready: ${answer?.status} ${answer?.text}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function measureAll(): Promise<void> {
  const only = options.only?.split(',');
  const chosen = WORKLOADS.filter(({ name }) => only?.some((part) => name.includes(part)) ?? true);
  const rounds = options.quick ? 1 : Number(options.rounds);
  // Round 0 warms up, and is not told.
  for (let round = options.quick ? 1 : 0; round <= rounds; round++)
    // Who goes first changes.
    for (const workload of chosen)
      for (let at = 0; at < servers.length; at++) {
        const server = servers[(at + round) % servers.length] as S3Server;
        const found = await measure(server, workload, round);
        if (round > 0) figures.push(found);
      }
}

async function measure(server: S3Server, workload: Workload, round: number): Promise<Figures> {
  const client = createS3Client(server.port, CONNECTIONS);
  const operations = workload.operations[options.quick ? 1 : 0];
  const latencies = new Float64Array(operations);
  const lanes = workload.target?.unit === 'CPU ms' ? 1 : CONNECTIONS;
  const [cpuBefore, startedMs] = [cpuSecondsOf(server.pid), performance.now()];
  await inFlight(lanes, operations, async (n) => {
    const atMs = performance.now();
    await workload.run(client, n);
    latencies[n] = performance.now() - atMs;
  });
  const wallSeconds = (performance.now() - startedMs) / 1000;
  const cpuSeconds = cpuSecondsOf(server.pid) - cpuBefore;
  client.close();
  latencies.sort();
  const quantile = (share: number): number =>
    latencies[Math.min(operations - 1, Math.floor(operations * share))] as number;
  return {
    ...{ round, server: server.name, workload: workload.name, operations },
    ...{ cpuSeconds, wallSeconds, p50Ms: quantile(0.5), p99Ms: quantile(0.99) },
  };
}

async function listAll(client: S3Client): Promise<number> {
  let keys = 0;
  let token: string | undefined;
  do {
    const query = `${token === undefined ? '' : `continuation-token=${encodeURIComponent(token)}&`}list-type=2`;
    const { status, text } = await client.send('GET', LIST_BUCKET, { query, keep: true });
    expectIs(`LIST: status ${text.slice(0, 200)}`, status, 200);
    keys += text.split('<Key>').length - 1;
    token = /<NextContinuationToken>([^<]+)</.exec(text)?.[1];
  } while (token !== undefined);
  return keys;
}

function report(): void {
  console.log(
    `${'workload'.padEnd(25)}${'server'.padEnd(14)}${'CPU of the server'.padEnd(34)}${'p50 ms'.padStart(8)}${'p99 ms'.padStart(9)}   Ebb by it (CPU)`,
  );
  for (const workload of WORKLOADS) {
    const of = (server: ServerName): Figures[] =>
      figures.filter((one) => one.workload === workload.name && one.server === server);
    const own = of('ebb');
    for (const { name } of servers) {
      const found = of(name);
      if (found.length === 0) continue;
      const costs = found.map((one) => costOf(workload, one));
      const ratios =
        name === 'ebb' ? [] : own.map((one, n) => one.cpuSeconds / (found[n]?.cpuSeconds ?? 0));
      const cost = `${format(median(costs))} ${unitOf(workload)} (${spread(costs)})`;
      console.log(
        `${workload.name.padEnd(25)}${name.padEnd(14)}${cost.padEnd(34)}` +
          `${median(found.map((one) => one.p50Ms))
            .toFixed(2)
            .padStart(8)}${median(found.map((one) => one.p99Ms))
            .toFixed(2)
            .padStart(9)}` +
          `   ${ratios.length === 0 ? verdict(workload, median(costs)) : `${median(ratios).toFixed(2)} (${spread(ratios)})`}`,
      );
    }
  }
}

function unitOf({ bytes, target }: Workload): Unit {
  return target?.unit ?? (bytes >= MiB ? 'CPU s/GiB' : 'CPU µs');
}

function costOf(workload: Workload, { cpuSeconds, operations }: Figures): number {
  const each = cpuSeconds / operations;
  switch (unitOf(workload)) {
    case 'CPU s/GiB':
      return (each / workload.bytes) * 2 ** 30;
    case 'CPU µs':
      return each * 1e6;
    case 'CPU ms':
      return each * 1e3;
  }
}

function verdict({ target }: Workload, cost: number): string {
  if (target === undefined || options.quick) return '';
  return `target ${target.most} ${cost <= target.most ? 'holds' : 'DOES NOT HOLD'}`;
}

function keyOf(bytes: number, n: number): string {
  return `${BUCKET}/objects/${bytes}/${n % OBJECTS}`;
}

function dataOf(bytes: number): Buffer {
  return Buffer.alloc(bytes, 'what is measured here is no compression. ');
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[half] as number)
    : ((sorted[half - 1] as number) + (sorted[half] as number)) / 2;
}

function spread(values: readonly number[]): string {
  return `${format(Math.min(...values))}–${format(Math.max(...values))}`;
}

function format(value: number): string {
  return value >= 10 ? value.toFixed(0) : value.toFixed(2);
}

function expectIs(what: string, found: number, expected: number): void {
  if (found !== expected) throw new Error(`${what}: ${found} instead of ${expected}`);
}
