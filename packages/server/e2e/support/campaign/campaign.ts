/**
 * The fault campaign: a node serves clients that behave, while it is killed, paused, filled, given a failing disk and a bad
 * object store, and pestered by clients that do not behave. It goes in rounds, each with keys of its own and one fault.
 *
 * After each round:
 *   C1  Every key was a register all the time (linearizable.ts): no acknowledged write is lost or undone, no refused one seen,
 *       and nobody reads bytes that nobody wrote. The listing names exactly what is there.
 *   C2  Every operation had an answer or an end, and the node answers `/healthz` within `HEALTH_MS_MAX`.
 *   C3  The node is ready again by itself, or says what keeps it from that where only a start helps.
 * At the end:
 *   C4  Every stored byte fits its checksum; tier 2 has what mirrored buckets have; and when all is deleted, no byte, file,
 *       lease or staged write is left, no more descriptors are open than at first, and memory is as it was.
 *
 * What it cannot show: losses of power (tmpfs and the page cache survive a kill), faults of memory, several nodes, clocks that
 * jump, more than one fault at a time, and orders of events that one machine under load does not happen to make. The seed
 * decides operations and faults; when each meets the other depends on the machine.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { type EbbClient, openClient } from '@ebb/client';
import { MiB } from '@ebb/protocol';
import { type FaultyProxy, startFaultyProxy } from '@ebb/testkit';
import { type NodeProcess, startNodeProcess } from '../../../../client/e2e/support/node-process.ts';
import { createRandom } from '../crash-lane.ts';
import { type FailingDisk, openFailingDisk } from './failing-disk.ts';
import { FAULTS, type Fault } from './faults.ts';
import { type Access, History, Lane, type Name, SURFACES, text } from './lanes.ts';
import { findViolation } from './linearizable.ts';
import { NOISE, NOISE_KEY } from './nuisances.ts';

const LANES = 6;
/** So few that lanes meet. */
const KEYS = 3;
const BUCKETS = ['fast', 'mirrored', 'durable'] as const;
const BEFORE_MS = 250;
const AFTER_MS = 400;
const READY_MS_MAX = 60_000;
const HEALTH_MS_MAX = 10_000;
const DRAINED_MS_MAX = 120_000;
/** Rounds after which memory is taken as the measure: code is compiled, pools are filled. Of a short campaign, half of them. */
const WARM_ROUNDS_MAX = 40;
const RSS_GROWTH_MAX = 96 * MiB;
/** After fewer rounds code and pools still grow. */
const SHORT_RSS_GROWTH_MAX = 256 * MiB;
const DESCRIPTORS_MORE_MAX = 24;
const KEY = { accessKeyId: 'CAMPAIGNKEY', secretAccessKey: 'a-secret-of-the-campaign' };

export interface CampaignOptions {
  readonly seed: number;
  /** It ends with the round in which the time is over, or after so many rounds. */
  readonly minutes?: number;
  readonly rounds?: number;
  /** Only faults whose name has this in it. */
  readonly only?: string;
  /** Leaves out faults that keep clients waiting for a minute, and holds the others for a shorter time. */
  readonly quick?: boolean;
  readonly onRound?: (report: CampaignReport) => void;
}

export interface CampaignReport {
  rounds: number;
  readonly byFault: Map<string, number>;
  readonly problems: string[];
  readonly history: History;
  /** How often only a start helped, and the node said so. */
  starts: number;
  healthMsMax: number;
  readonly rssBytes: { warm: number; last: number };
  readonly descriptors: { first: number; last: number };
}

export async function runCampaign(options: CampaignOptions): Promise<CampaignReport> {
  await using campaign = await openCampaign(options);
  const endMs = performance.now() + (options.minutes ?? Number.POSITIVE_INFINITY) * 60_000;
  const roundsMax = options.rounds ?? Number.POSITIVE_INFINITY;
  const { report } = campaign;
  while (report.rounds < roundsMax && performance.now() < endMs) {
    await campaign.round();
    options.onRound?.(report);
    if (report.problems.length > 0) return report;
  }
  await campaign.end();
  return report;
}

export function describeReport(report: CampaignReport): string {
  const { rounds, history, byFault, rssBytes, descriptors } = report;
  const { acknowledged, refused, unknown } = history.counts;
  const faults = [...byFault].map(([name, count]) => `${name} ${count}`).toSorted();
  const codes = [...history.codes].map(([code, count]) => `${code} ${count}`).toSorted();
  return [
    `${rounds} rounds: ${acknowledged} changes acknowledged, ${refused} refused, ${unknown} without a certain answer`,
    `faults: ${faults.join(', ')}`,
    `answers: ${codes.join(', ')}`,
    `the slowest /healthz ${Math.round(report.healthMsMax)} ms; ${report.starts} starts that a failing catalog asked for`,
    `RSS ${Math.round(rssBytes.warm / MiB)} MiB warm, ${Math.round(rssBytes.last / MiB)} MiB at the end; descriptors ${descriptors.first}, ${descriptors.last}`,
    `${report.problems.length} problems`,
  ].join('\n  ');
}

async function openCampaign({
  seed,
  only = '',
  quick = false,
  rounds: roundsMax = Number.POSITIVE_INFINITY,
}: CampaignOptions): Promise<Campaign> {
  const store = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
    diskLimit: '1GiB',
  });
  const tier2 = connect(store.s3Url);
  await tier2.send(new CreateBucketCommand({ Bucket: 'tier' }));
  tier2.destroy();
  const proxy = await startFaultyProxy(store.s3Url);
  const disk = openFailingDisk();
  const node = await startNodeProcess({
    args: [
      `--remote=s3://tier/ebb?endpoint=${encodeURIComponent(proxy.url)}`,
      '--drain-deadline=5s',
    ],
    env: {
      ...{ AWS_ACCESS_KEY_ID: KEY.accessKeyId, AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey },
      ...disk?.env,
    },
    // So little memory that objects go to disk and are read from there.
    ...{ memoryLimit: '24MiB', diskLimit: '512MiB' },
  });
  return await Campaign.open({ node, store, proxy, disk, seed, only, quick, roundsMax });
}

const PROBLEM_LOG_CHARACTERS = 20_000;

class Campaign implements AsyncDisposable {
  readonly report: CampaignReport;
  readonly #node: NodeProcess;
  readonly #store: NodeProcess;
  readonly #proxy: FaultyProxy;
  readonly #disk: FailingDisk | undefined;
  readonly #random: () => number;
  readonly #lanes: readonly Lane[];
  readonly #history = new History();
  readonly #warmRounds: number;
  readonly #faults: readonly Fault[];
  readonly #quick: boolean;
  #access: Access;

  private constructor(parts: Parts, access: Access) {
    this.#node = parts.node;
    this.#store = parts.store;
    this.#proxy = parts.proxy;
    this.#disk = parts.disk;
    this.#access = access;
    this.#quick = parts.quick;
    this.#faults = FAULTS.filter(
      ({ name, needsDisk = false, isSlow = false }) =>
        name.includes(parts.only) &&
        !(needsDisk && parts.disk === undefined) &&
        !(isSlow && parts.quick),
    );
    this.#random = createRandom(parts.seed);
    this.#warmRounds = Math.min(WARM_ROUNDS_MAX, Math.ceil(parts.roundsMax / 2));
    this.#lanes = Array.from(
      { length: LANES },
      (_, number) => new Lane(`lane ${number}`, this.#history, parts.seed * 1000 + number),
    );
    this.report = {
      ...{ rounds: 0, byFault: new Map(), problems: this.#history.problems, starts: 0 },
      ...{ history: this.#history, healthMsMax: 0 },
      rssBytes: { warm: 0, last: 0 },
      descriptors: { first: 0, last: 0 },
    };
  }

  static async open(parts: Parts): Promise<Campaign> {
    const access = await openAccess(parts.node);
    const { buckets } = access.local;
    await buckets.create('fast', { preset: 'ephemeral' });
    await buckets.create('mirrored', { preset: 'buffered' });
    await buckets.create('durable', { preset: 'durable' });
    await buckets.create(NOISE, { preset: 'ephemeral' });
    await access.local.put(NOISE, NOISE_KEY, Buffer.alloc(8 * MiB, 'noise'));
    return new Campaign(parts, access);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeAccess(this.#access);
    await this.#node[Symbol.asyncDispose]();
    await this.#proxy[Symbol.asyncDispose]();
    await this.#store[Symbol.asyncDispose]();
    this.#disk?.[Symbol.dispose]();
  }

  async round(): Promise<void> {
    const number = ++this.report.rounds;
    const problemsBefore = this.report.problems.length;
    const names = BUCKETS.flatMap((bucket) =>
      Array.from({ length: KEYS }, (_, key): Name => ({ bucket, key: `r${number}/k${key}` })),
    );
    const fault = this.#choose();
    this.report.byFault.set(fault.name, (this.report.byFault.get(fault.name) ?? 0) + 1);
    let isOver = false;
    const lanes = Promise.all(
      this.#lanes.map((lane) =>
        lane.work(
          () => this.#access,
          names,
          () => isOver,
        ),
      ),
    );
    await sleep(BEFORE_MS);
    await fault.act({ ...this.#parts, random: this.#random, quick: this.#quick });
    if (fault.endsNode === true) await this.#start();
    await sleep(AFTER_MS);
    isOver = true;
    await lanes;
    await this.#recover(fault);
    await this.#judge(names);
    if (this.report.problems.length > problemsBefore) {
      const log = this.#node.log().slice(-PROBLEM_LOG_CHARACTERS);
      this.#problem(`that was round ${number}, ${fault.name}; the end of the node's log:\n${log}`);
    }
    for (const bucket of BUCKETS) await this.#access.local.deletePrefix(bucket, `r${number}/`);
    this.#history.forget();
    if (number === this.#warmRounds) this.report.rssBytes.warm = rssOf(this.#node.pid);
    if (number === 1) this.report.descriptors.first = descriptorsOf(this.#node.pid);
  }

  async end(): Promise<void> {
    await this.#checkTier2();
    const { local } = this.#access;
    const { broken } = await local.verify();
    this.#problem(...broken.map((blob) => `broken: ${JSON.stringify(blob)}`));
    for (const bucket of [...BUCKETS, NOISE]) await local.deletePrefix(bucket, '');
    await local.gc();
    const used = async (): Promise<number> =>
      (await local.status()).tiers.reduce(
        (sum, { usedBytes, pooledBytes, stagedBytes }) =>
          sum + usedBytes - pooledBytes + stagedBytes,
        0,
      );
    if (!(await comesTrue(async () => (await used()) === 0, DRAINED_MS_MAX)))
      this.#problem(`${await used()} bytes are used or staged when all is deleted`);
    for (const directory of [join(this.#node.dataDir, 'disk/b'), join(this.#node.memoryDir, 'b')])
      for (const file of filesOf(directory)) this.#problem(`${file} is left`);
    const { rssBytes, descriptors } = this.report;
    const isSettled = async (): Promise<boolean> => {
      descriptors.last = descriptorsOf(this.#node.pid);
      return descriptors.last <= descriptors.first + DESCRIPTORS_MORE_MAX;
    };
    if (!(await comesTrue(isSettled, READY_MS_MAX)))
      this.#problem(`${descriptors.last} descriptors are open, ${descriptors.first} were at first`);
    rssBytes.last = rssOf(this.#node.pid);
    const isShort = this.#warmRounds < WARM_ROUNDS_MAX;
    const growthMax = isShort ? SHORT_RSS_GROWTH_MAX : RSS_GROWTH_MAX;
    if (rssBytes.warm > 0 && rssBytes.last > rssBytes.warm + growthMax)
      this.#problem(`RSS grew from ${rssBytes.warm} to ${rssBytes.last} bytes`);
  }

  get #parts() {
    return { node: this.#node, proxy: this.#proxy, disk: this.#disk };
  }

  /** Each fault once before any comes again. */
  #choose(): Fault {
    const least = Math.min(...this.#faults.map(({ name }) => this.report.byFault.get(name) ?? 0));
    const due = this.#faults.filter(({ name }) => (this.report.byFault.get(name) ?? 0) === least);
    return due[Math.floor(this.#random() * due.length)] as Fault;
  }

  async #start(): Promise<void> {
    await closeAccess(this.#access);
    await this.#node.start();
    this.#access = await openAccess(this.#node);
  }

  /** C2 and C3. */
  async #recover(fault: Fault): Promise<void> {
    const isReady = async (): Promise<boolean> => (await this.#ask('/readyz'))?.status === 200;
    if (isRunning(this.#node.pid) && (await comesTrue(isReady, READY_MS_MAX / 4))) {
      const beganMs = performance.now();
      const healthy = await this.#ask('/healthz');
      this.report.healthMsMax = Math.max(this.report.healthMsMax, performance.now() - beganMs);
      if (healthy?.status !== 200)
        this.#problem(`/healthz gives ${healthy?.status} after ${fault.name}`);
      return;
    }
    const said = await this.#ask('/readyz');
    const told = said === undefined ? 'it has ended' : `/readyz says ${said.status} ${said.body}`;
    if (fault.mayNeedStart !== true) {
      if (isRunning(this.#node.pid) && (await comesTrue(isReady, READY_MS_MAX))) return;
      this.#problem(`not ready after ${fault.name}: ${told}\n${this.#node.log().slice(-3000)}`);
      return;
    }
    this.report.starts++;
    await this.#node.kill();
    await this.#start();
    if (!(await comesTrue(isReady, READY_MS_MAX)))
      this.#problem(`a start does not help after ${fault.name}: ${told}`);
  }

  async #ask(
    path: string,
  ): Promise<{ readonly status: number; readonly body: string } | undefined> {
    try {
      const answer = await fetch(this.#node.url + path, {
        signal: AbortSignal.timeout(HEALTH_MS_MAX),
      });
      return { status: answer.status, body: await answer.text() };
    } catch {
      return undefined;
    }
  }

  /** C1. */
  async #judge(names: readonly Name[]): Promise<void> {
    const reader = new Lane('afterwards', this.#history, 1);
    const found = new Map<string, string | null>();
    for (const name of names) {
      for (const surface of SURFACES) {
        const value = await reader.read(this.#access, surface, name);
        if (value === undefined)
          this.#problem(`${text(name)} cannot be read afterwards by ${surface}`);
        else found.set(text(name), value);
      }
      const violation = findViolation(this.#history.entries(name));
      if (violation !== undefined)
        this.#problem(
          [`${text(name)}: ${violation}`, ...this.#history.refusals(name)].join('\n  '),
        );
    }
    for (const bucket of BUCKETS) {
      const prefix = `r${this.report.rounds}/`;
      const listed = await Array.fromAsync(
        this.#access.local.listAll(bucket, { prefix }),
        ({ key }) => `${bucket}/${key}`,
      );
      const there = [...found].filter(
        ([name, value]) => name.startsWith(`${bucket}/`) && value !== null,
      );
      const wanted = there.map(([name]) => name);
      if (listed.toSorted().join() !== wanted.toSorted().join())
        this.#problem(`${bucket} lists ${listed.join()}, and has ${wanted.join()}`);
    }
  }

  /** What was put last reaches the object store, and is what it was. */
  async #checkTier2(): Promise<void> {
    const { local } = this.#access;
    const bytes = Buffer.alloc(100_000, 'the last');
    await local.put('mirrored', 'last', bytes);
    const isDrained = async (): Promise<boolean> =>
      (await local.status()).mirrorBacklogObjects === 0;
    if (!(await comesTrue(isDrained, DRAINED_MS_MAX))) {
      this.#problem(`tier 2 is not given what waits for it within ${DRAINED_MS_MAX} ms`);
      return;
    }
    const store = await openClient({ node: this.#store.unixUrl });
    const stored = await Array.fromAsync(store.listAll('tier'), ({ key }) => key);
    const others = stored.filter((key) => key !== 'ebb/mirrored/last');
    if (others.length > 0) this.#problem(`tier 2 has what was deleted: ${others.join()}`);
    const found = await (await store.get('tier', 'ebb/mirrored/last')).bytes();
    if (!bytes.equals(found)) this.#problem('tier 2 has other bytes');
    await store.close();
  }

  #problem(...what: readonly string[]): void {
    this.report.problems.push(...what);
  }
}

interface Parts {
  readonly node: NodeProcess;
  readonly store: NodeProcess;
  readonly proxy: FaultyProxy;
  readonly disk: FailingDisk | undefined;
  readonly seed: number;
  readonly only: string;
  readonly quick: boolean;
  readonly roundsMax: number;
}

/** Without retries: what the first answer was counts. */
async function openAccess(node: NodeProcess): Promise<Access> {
  const retry = { attemptsMax: 1, unreachableMs: 0 };
  const local: EbbClient = await openClient({ node: node.unixUrl, retry });
  return { local, s3: connect(node.s3Url), url: node.url };
}

async function closeAccess({ local, s3 }: Access): Promise<void> {
  await local.close().catch(() => undefined);
  s3.destroy();
}

function connect(endpoint: string): S3Client {
  const place = { endpoint, region: 'us-east-1', forcePathStyle: true, credentials: { ...KEY } };
  return new S3Client({ ...place, maxAttempts: 1 });
}

async function comesTrue(holds: () => Promise<boolean>, withinMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + withinMs;
  while (!(await holds())) {
    if (performance.now() > deadlineMs) return false;
    await sleep(100);
  }
  return true;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

function rssOf(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1]) * 1024;
}

function filesOf(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
