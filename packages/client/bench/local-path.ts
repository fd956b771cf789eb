/**
 * What the node-local path costs:
 *   1. bytes through a staged file, against plain `write` and `pread` of a file on the same tmpfs, in alternating rounds;
 *   2. stage + commit, one in flight, over the socket;
 *   3. commits a second with many in flight.
 *
 *   node --conditions=source packages/client/bench/local-path.ts [--mib 256] [--rounds 7] [--commits 40000] [--json FILE]
 *
 * Both sides use the same source buffer, target buffer and piece size, on a file whose pages are present (a recycled slot).
 * Ebb's side includes stage, CRC32C of every byte, commit, open and release; "plain write + CRC32C" is what any path with a
 * checksum pays on one core. It does not measure many writers at a time.
 */
import { closeSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type EbbClient, openClient } from '@ebb/client';
import { MiB, messages, OPS } from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { startNodeProcess } from '../e2e/support/node-process.ts';

const { values } = parseArgs({
  options: {
    mib: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '7' },
    commits: { type: 'string', default: '40000' },
    inflight: { type: 'string', default: '256' },
    json: { type: 'string' },
  },
});
const sizeBytes = Number(values.mib) * MiB;
const rounds = Number(values.rounds);
const commits = Number(values.commits);
const inflight = Number(values.inflight);
const PIECE = 1 * MiB;
/** Written by one call, as a task would its sorted buffer; larger than the caches. */
const CHUNK = 64 * MiB;

await using node = await startNodeProcess({
  memoryLimit: `${Math.max(1024, Number(values.mib) * 4)}MiB`,
  args: ['--log-level', 'info'],
});
await using client = await openClient({ node: node.unixUrl });
await client.buckets.create('bench', { preset: 'ephemeral' });

const bytes = await measureBytes(client);
const latency = await measureLatency(client);
const throughput = await measureThroughput(client);
const report = { path: client.path, sizeBytes, rounds, bytes, latency, throughput };
print();
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);

async function measureBytes(client: EbbClient) {
  const source = Buffer.alloc(CHUNK, 0xa5);
  const target = Buffer.alloc(PIECE, 1);
  const plainFile = join(node.memoryDir, 'plain.bench');
  const plainFd = openSync(plainFile, 'w+');
  const samples = {
    plainWrite: [],
    crcWrite: [],
    ebbWrite: [],
    plainRead: [],
    ebbRead: [],
  } as Record<'plainWrite' | 'crcWrite' | 'ebbWrite' | 'plainRead' | 'ebbRead', number[]>;
  const pieceAt = (at: number): Buffer => source.subarray(at % CHUNK, (at % CHUNK) + PIECE);

  const arms: Record<keyof typeof samples, () => Promise<void>> = {
    async plainWrite() {
      for (let at = 0; at < sizeBytes; at += PIECE) writeSync(plainFd, pieceAt(at), 0, PIECE, at);
    },
    async crcWrite() {
      let crc = 0;
      for (let at = 0; at < sizeBytes; at += PIECE) {
        crc = crc32c(pieceAt(at), crc);
        writeSync(plainFd, pieceAt(at), 0, PIECE, at);
      }
    },
    async ebbWrite() {
      await using writer = await client.stage('bench', 'bytes', { reserveBytes: sizeBytes });
      for (let at = 0; at < sizeBytes; at += source.byteLength) {
        await writer.write(source.subarray(0, Math.min(source.byteLength, sizeBytes - at)));
      }
      await writer.commit();
    },
    async plainRead() {
      for (let at = 0; at < sizeBytes; at += PIECE) readSync(plainFd, target, 0, PIECE, at);
    },
    async ebbRead() {
      await using handle = await client.open('bench', 'bytes');
      for (let at = 0; at < sizeBytes; at += PIECE) await handle.read(target, at);
    },
  };
  const names = Object.keys(arms) as (keyof typeof samples)[];
  for (let round = -2; round < rounds; round++) {
    // The first two rounds make pages present: of the plain file, and of the two slots that overwriting uses in turn.
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      if (name === 'ebbRead' && round < 0) continue; // in reverse there is nothing to read yet
      const startedMs = performance.now();
      await arms[name]();
      const gbps = sizeBytes / (performance.now() - startedMs) / 1e6;
      if (round >= 0) samples[name].push(gbps);
    }
  }
  closeSync(plainFd);
  rmSync(plainFile);
  await client.delete('bench', 'bytes');
  const ratio = (ebb: number[], plain: number[]): number =>
    median(ebb.map((value, at) => value / (plain[at] as number)));
  return {
    plainWriteGBps: median(samples.plainWrite),
    ebbWriteGBps: median(samples.ebbWrite),
    writeRatio: ratio(samples.ebbWrite, samples.plainWrite),
    writeRatios: samples.ebbWrite.map((value, at) => value / (samples.plainWrite[at] as number)),
    crcWriteGBps: median(samples.crcWrite),
    writeRatioToCrc: ratio(samples.ebbWrite, samples.crcWrite),
    plainReadGBps: median(samples.plainRead),
    ebbReadGBps: median(samples.ebbRead),
    readRatio: ratio(samples.ebbRead, samples.plainRead),
    readRatios: samples.ebbRead.map((value, at) => value / (samples.plainRead[at] as number)),
  };
}

async function measureLatency(client: EbbClient) {
  const session = await client.connection.session();
  const stageCommitUs: number[] = [];
  const putUs: number[] = [];
  const body = Buffer.alloc(4096, 7);
  for (let at = 0; at < 3000; at++) {
    const startedMs = performance.now();
    await stageAndCommit(session, `latency/${at % 100}`);
    const middleMs = performance.now();
    await client.put('bench', `put/${at % 100}`, body);
    if (at < 500) continue; // warm-up
    stageCommitUs.push((middleMs - startedMs) * 1000);
    putUs.push((performance.now() - middleMs) * 1000);
  }
  return {
    stageCommitP50Us: quantile(stageCommitUs, 0.5),
    stageCommitP99Us: quantile(stageCommitUs, 0.99),
    put4KiBP50Us: quantile(putUs, 0.5),
    put4KiBP99Us: quantile(putUs, 0.99),
  };
}

async function measureThroughput(client: EbbClient) {
  const session = await client.connection.session();
  const body = Buffer.alloc(100, 7);
  const run = async (count: number, work: (at: number) => Promise<unknown>): Promise<number> => {
    let next = 0;
    const startedMs = performance.now();
    const lane = async (): Promise<void> => {
      while (next < count) await work(next++);
    };
    await Promise.all(Array.from({ length: inflight }, lane));
    return (count / (performance.now() - startedMs)) * 1000;
  };
  await run(5000, (at) => stageAndCommit(session, `warm/${at}`));
  const daemonBefore = cpuSeconds();
  const ownBefore = process.cpuUsage();
  const commitsPerSecond = await run(commits, (at) => stageAndCommit(session, `many/${at}`));
  const own = process.cpuUsage(ownBefore);
  const daemonCpuUs = ((cpuSeconds() - daemonBefore) / commits) * 1e6;
  const ping = { request: messages.empty, response: messages.empty };
  return {
    inflight,
    commitsPerSecond,
    daemonCpuUsPerCommit: daemonCpuUs,
    clientCpuUsPerCommit: (own.user + own.system) / commits,
    put100BPerSecond: await run(Math.ceil(commits / 4), (at) =>
      client.put('bench', `p/${at}`, body),
    ),
    pingsPerSecond: await run(commits * 2, () => session.call(OPS.ping, ping, undefined)),
  };
}

type Session = Awaited<ReturnType<EbbClient['connection']['session']>>;

async function stageAndCommit(session: Session, key: string): Promise<void> {
  const { writeId } = await session.call(OPS.stage, messages.stage, {
    bucket: 'bench',
    key,
    reserveBytes: 0,
    tier: 0,
    jobId: '',
  });
  await session.call(OPS.commit, messages.commit, {
    writeId,
    sizeBytes: 0,
    crc32c: 0,
    ifMatch: '',
    ifNoneMatch: false,
    ack: undefined,
    contentType: '',
    metadata: {},
  });
}

/** Of the daemon, user and system. */
function cpuSeconds(): number {
  const fd = openSync(`/proc/${node.pid}/stat`, 'r');
  const buffer = Buffer.alloc(1024);
  const text = buffer.toString('latin1', 0, readSync(fd, buffer));
  closeSync(fd);
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function median(samples: readonly number[]): number {
  return quantile(samples, 0.5);
}
function quantile(samples: readonly number[], part: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] as number;
}

function print(): void {
  const line = (name: string, value: string, wanted = ''): void =>
    console.log(`${name.padEnd(42)} ${value.padStart(14)}   ${wanted}`);
  const spread = (all: readonly number[]): string =>
    `wanted 0.90 or more; rounds ${Math.min(...all).toFixed(2)} to ${Math.max(...all).toFixed(2)}`;
  line(`plain write, ${values.mib} MiB`, `${bytes.plainWriteGBps.toFixed(2)} GB/s`);
  line('staged file: stage, write, CRC, commit', `${bytes.ebbWriteGBps.toFixed(2)} GB/s`);
  line('  ratio (median of pairs)', bytes.writeRatio.toFixed(2), spread(bytes.writeRatios));
  line('plain write + CRC32C, one core', `${bytes.crcWriteGBps.toFixed(2)} GB/s`);
  line('  ratio to that', bytes.writeRatioToCrc.toFixed(2));
  line('plain pread', `${bytes.plainReadGBps.toFixed(2)} GB/s`);
  line('open, read, release', `${bytes.ebbReadGBps.toFixed(2)} GB/s`);
  line('  ratio (median of pairs)', bytes.readRatio.toFixed(2), spread(bytes.readRatios));
  line(
    'stage + commit, one in flight, p50',
    `${latency.stageCommitP50Us.toFixed(0)} µs`,
    'wanted 250 µs or less',
  );
  line('stage + commit, one in flight, p99', `${latency.stageCommitP99Us.toFixed(0)} µs`);
  line('put of 4 KiB, one in flight, p50', `${latency.put4KiBP50Us.toFixed(0)} µs`);
  line(
    `stage + commit, ${inflight} in flight`,
    `${throughput.commitsPerSecond.toFixed(0)} /s`,
    'wanted 20000 or more',
  );
  line('  CPU of the daemon for each', `${throughput.daemonCpuUsPerCommit.toFixed(1)} µs`);
  line('  CPU of the client for each', `${throughput.clientCpuUsPerCommit.toFixed(1)} µs`);
  line(`put of 100 B, ${inflight} in flight`, `${throughput.put100BPerSecond.toFixed(0)} /s`);
  line('ping (the connection alone)', `${throughput.pingsPerSecond.toFixed(0)} /s`);
}
