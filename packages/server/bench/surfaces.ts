/**
 * What the daemon's surfaces cost: `node --conditions=source packages/server/bench/surfaces.ts [filter…]`.
 * Starts a node of its own in a child process and prints one line per measurement: operations or bytes a second seen by the
 * client, and CPU time of the daemon alone (from /proc). Client and daemon share the machine.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { Agent, request } from 'node:http';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import {
  encodeFrame,
  FRAME_FLAG_ERROR,
  FRAMES_UPGRADE,
  FrameSplitter,
  KiB,
  MiB,
  messages,
  OPS,
  TIER_BY_POLICY,
} from '@ebb/protocol';

const directory = `/dev/shm/ebb-bench-${process.pid}`;
const socketPath = join(directory, 'ebb.sock');
const filters = process.argv.slice(2);
const TICKS = 100;
const SMALL = Buffer.alloc(1 * KiB, 'ebb');

const node = await startNode();
const agent = new Agent({ keepAlive: true, maxSockets: 64, socketPath } as never);
try {
  await http('PUT', '/v1/buckets/bench', Buffer.from('{"preset":"ephemeral"}'), {
    'content-type': 'application/json',
  });
  await measure('frames: ping, 1 in flight', 20_000, 1, (c) => c.call(OPS.ping, Buffer.alloc(0)));
  await measure('frames: ping, 256 in flight', 200_000, 256, (c) =>
    c.call(OPS.ping, Buffer.alloc(0)),
  );
  await measure('frames: stage + commit, 1 in flight', 10_000, 1, stageAndCommit);
  await measure('frames: stage + commit, 256 in flight', 100_000, 256, stageAndCommit);
  await measureHttp('http: PUT 1 KiB', 10_000, 1, 1 * KiB, put);
  await measureHttp('http: PUT 64 KiB', 5_000, 1, 64 * KiB, put);
  await measureHttp('http: PUT 64 KiB, 16 in flight', 10_000, 16, 64 * KiB, put);
  await measureHttp('http: GET 64 KiB', 10_000, 1, 64 * KiB, get);
  await measureHttp('http: GET 64 KiB, 16 in flight', 20_000, 16, 64 * KiB, get);
  await measureHttp('http: PUT 8 MiB', 256, 1, 8 * MiB, put);
  await measureHttp('http: GET 8 MiB', 512, 1, 8 * MiB, get);
  await measureHttp('http: GET 8 MiB, 4 in flight', 512, 4, 8 * MiB, get);
} finally {
  agent.destroy();
  node.kill(process.env.NODE_FLAGS ? 'SIGTERM' : 'SIGKILL');
  if (process.env.NODE_FLAGS) await new Promise((r) => node.once('exit', r));
  rmSync(directory, { recursive: true, force: true });
}

interface Client {
  call(op: number, payload: Buffer): Promise<Buffer>;
  readonly bytes: Buffer;
  readonly sequence: number;
  count(): number;
}

async function stageAndCommit(client: Client): Promise<void> {
  const n = client.count() % 20_000;
  const staged = messages.staged.decode(
    await client.call(
      OPS.stage,
      messages.stage.request.encode({
        bucket: 'bench',
        key: `f/${n}`,
        reserveBytes: SMALL.length,
        tier: TIER_BY_POLICY,
        jobId: '',
      }),
    ),
  );
  const file = openSync(join(`${directory}/memory`, staged.path), 'r+');
  writeSync(file, SMALL, 0, SMALL.length, 0);
  closeSync(file);
  await client.call(
    OPS.commit,
    messages.commit.request.encode({
      ...{
        writeId: staged.writeId,
        sizeBytes: SMALL.length,
        crc32c: 0,
        ifMatch: '',
        ifNoneMatch: false,
        ack: undefined,
      },
      ...{ contentType: '', metadata: {} },
    }),
  );
}

async function measure(
  name: string,
  operations: number,
  inFlight: number,
  operation: (client: Client) => Promise<unknown>,
): Promise<void> {
  if (!isWanted(name)) return;
  const client = await openFrames();
  await run(Math.min(operations, 5_000), inFlight, () => operation(client));
  const before = cpuSeconds();
  const { seconds, latencies } = await run(operations, inFlight, () => operation(client));
  const cpu = cpuSeconds() - before;
  report(name, { operations, seconds, cpu, latencies });
  client.close();
}

async function measureHttp(
  name: string,
  operations: number,
  inFlight: number,
  sizeBytes: number,
  operation: (n: number, body: Buffer) => Promise<void>,
): Promise<void> {
  if (!isWanted(name)) return;
  const body = Buffer.alloc(sizeBytes, 'ebb');
  for (let n = 0; n < 16; n++) await put(n, body);
  let n = 0;
  const next = (): Promise<void> => operation(n++ % 16, body);
  await run(Math.ceil(operations / 10), inFlight, next);
  const before = cpuSeconds();
  const { seconds, latencies } = await run(operations, inFlight, next);
  report(name, {
    operations,
    seconds,
    cpu: cpuSeconds() - before,
    latencies,
    bytes: operations * sizeBytes,
  });
}

async function put(n: number, body: Buffer): Promise<void> {
  await http('PUT', `/v1/buckets/bench/objects/h/${body.length}/${n}`, body);
}
async function get(n: number, body: Buffer): Promise<void> {
  await http('GET', `/v1/buckets/bench/objects/h/${body.length}/${n}`);
}

function report(
  name: string,
  r: { operations: number; seconds: number; cpu: number; latencies: Float64Array; bytes?: number },
): void {
  const p50 = r.latencies.sort()[r.latencies.length >> 1] as number;
  const bytes =
    r.bytes === undefined || r.bytes < 1e9
      ? ''
      : `, ${(r.bytes / r.seconds / 1e9).toFixed(2)} GB/s, ${((r.cpu / r.bytes) * 2 ** 30).toFixed(2)} CPU s/GiB`;
  console.log(
    `${name.padEnd(40)} ${Math.round(r.operations / r.seconds)
      .toLocaleString('en')
      .padStart(
        9,
      )}/s  p50 ${p50.toFixed(3)} ms  ${((r.cpu / r.operations) * 1e6).toFixed(0)} CPU µs each${bytes}  RSS ${rssMiB()} MiB`,
  );
}

function isWanted(name: string): boolean {
  return filters.length === 0 || filters.some((filter) => name.includes(filter));
}

async function run(
  operations: number,
  inFlight: number,
  next: () => Promise<unknown>,
): Promise<{ seconds: number; latencies: Float64Array }> {
  const latencies = new Float64Array(operations);
  let started = 0;
  const lane = async (): Promise<void> => {
    while (started < operations) {
      const n = started++;
      const at = performance.now();
      await next();
      latencies[n] = performance.now() - at;
    }
  };
  const at = performance.now();
  await Promise.all(Array.from({ length: inFlight }, lane));
  return { seconds: (performance.now() - at) / 1000, latencies };
}

async function startNode(): Promise<ChildProcess> {
  const flags = {
    data: directory,
    memoryDir: `${directory}/memory`,
    memoryLimit: '2GiB',
    diskLimit: '1GiB',
    listen: 'off',
    logLevel: 'warn',
  };
  const entry = JSON.stringify(new URL('../src/index.ts', import.meta.url).href);
  const child = spawn(
    process.execPath,
    [
      ...process.execArgv,
      ...(process.env.NODE_FLAGS ?? '').split(' ').filter(Boolean),
      '--input-type=module',
      '-e',
      `import { loadConfig, runNode } from ${entry}; process.exitCode = await runNode(loadConfig({ flags: ${JSON.stringify(flags)} }))`,
    ],
    { stdio: 'inherit' },
  );
  for (let n = 0; n < 200; n++) {
    const ready = await new Promise<boolean>((resolve) => {
      request({ socketPath, path: '/readyz' }, (answer) => {
        answer.resume();
        resolve(answer.statusCode === 200);
      })
        .on('error', () => resolve(false))
        .end();
    });
    if (ready) return child;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('the node did not get ready');
}

function rssMiB(): number {
  return Math.round(
    Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${node.pid}/status`, 'utf8'))?.[1]) / 1024,
  );
}

function cpuSeconds(): number {
  const fields = readFileSync(`/proc/${node.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

function http(
  method: string,
  path: string,
  body?: Buffer,
  headers: Record<string, string> = {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    const call = request(
      {
        agent,
        socketPath,
        method,
        path,
        headers: { ...headers, ...(body === undefined ? {} : { 'content-length': body.length }) },
      },
      (answer) => {
        answer.resume();
        answer.once('end', () =>
          (answer.statusCode ?? 500) < 300
            ? resolve()
            : reject(new Error(`${method} ${path}: ${answer.statusCode}`)),
        );
      },
    );
    call.once('error', reject);
    call.end(body);
  });
}

async function openFrames(): Promise<Client & { close(): void }> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const call = request({
      socketPath,
      path: '/v1/frames',
      headers: { connection: 'upgrade', upgrade: FRAMES_UPGRADE },
    });
    call.once('upgrade', (_, upgraded: Socket) => resolve(upgraded));
    call.once('error', reject);
    call.end();
  });
  const waiting = new Map<
    number,
    { resolve: (payload: Buffer) => void; reject: (error: unknown) => void }
  >();
  const splitter = new FrameSplitter((header, payload) => {
    const call = waiting.get(header.requestId);
    waiting.delete(header.requestId);
    if (header.flags === FRAME_FLAG_ERROR) call?.reject(messages.errorPayload.decode(payload));
    else call?.resolve(payload);
  });
  socket.on('data', (chunk: Buffer) => splitter.push(chunk));
  let lastId = 0;
  let counter = 0;
  let batch: Buffer[] = [];
  const client = {
    ...{
      bytes: Buffer.alloc(0),
      sequence: 0,
      count: () => counter++,
      close: () => void socket.destroy(),
    },
    call: (op: number, payload: Buffer) =>
      new Promise<Buffer>((resolve, reject) => {
        waiting.set(++lastId, { resolve, reject });
        if (batch.length === 0)
          queueMicrotask(() => {
            socket.write(Buffer.concat(batch));
            batch = [];
          });
        batch.push(encodeFrame(lastId, op, 0, payload));
      }),
  };
  await client.call(
    OPS.hello,
    messages.hello.request.encode({ protocolVersion: 1, client: 'bench', jobId: '' }),
  );
  return client;
}
