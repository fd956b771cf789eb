/** Metrics of one node, in a registry of its own. Gauges are read when somebody scrapes; nothing here runs in between. */
import type { CheckpointService, CheckpointTotals } from '@ebb/checkpoint';
import type { Conditions, ObjectStore, StoreObserver } from '@ebb/core';
import { OPS, type StoreErrorCode } from '@ebb/protocol';
import type { ShuffleService } from '@ebb/shuffle';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { BufferPool } from './http/buffer-pool.ts';
import { TIER_NAMES } from './http/data/object-headers.ts';
import type { PeerMemory } from './http/peer-memory.ts';

/** From a small call over the socket to a body of some GiB. */
const DURATION_BUCKETS = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60,
];

interface MetricsSources {
  readonly store: ObjectStore;
  readonly shuffles: ShuffleService;
  readonly checkpoints: CheckpointService;
  readonly connections: () => number;
}

interface BodySources {
  readonly pieces: BufferPool;
  readonly held: PeerMemory;
  readonly frames: { readonly heldBytes: number };
}

/** Counted in plain numbers, because there are tens of thousands a second; written out when somebody scrapes. */
export interface FrameMetrics {
  /** Returns when the call began if this one is timed, else a negative number. Hand it to `end`. */
  start(op: number): number;
  end(op: number, startedMs: number): void;
  failed(op: number, code: StoreErrorCode): void;
}

export interface Metrics {
  readonly registry: Registry;
  readonly storeObserver: Pick<StoreObserver, 'committed' | 'moved' | 'corrupt'>;
  /** Background work that failed: it is tried again, and its cause is in the log. */
  readonly backgroundFailures: Counter<'work'>;
  observeHttp(request: {
    readonly method: string;
    readonly route: string;
    readonly status: number;
    readonly seconds: number;
  }): void;
  readonly httpErrors: Counter<'code'>;
  readonly frames: FrameMetrics;
  /** Peers whose connection was ended: for their pace, or because their memory was wanted. */
  readonly peersEnded: Counter<'why'>;
  /** From here on gauges read the memory that bodies take. */
  attachBodies(sources: BodySources): void;
  /** From here on gauges read the node. */
  attach(sources: MetricsSources): void;
}

export function createMetrics(conditions: Conditions): Metrics {
  const registry = new Registry();
  const registers = [registry];
  new Gauge({
    name: 'ebb_condition',
    help: '1 for each condition that the node is in; what they are: conditions.md.',
    labelNames: ['name', 'subject', 'effect'],
    registers,
    collect() {
      this.reset();
      for (const { name, subject, effect } of conditions.list())
        this.set({ name, subject, effect }, 1);
    },
  });
  collectDefaultMetrics({ register: registry });
  const commits = new Counter({
    name: 'ebb_commits_total',
    help: 'Objects and map outputs committed.',
    registers,
  });
  const commitBytes = new Counter({
    name: 'ebb_commit_bytes_total',
    help: 'Bytes committed.',
    registers,
  });
  const moved = new Counter({
    name: 'ebb_spill_bytes_total',
    help: 'Bytes copied from one tier to another: spilled and mirrored downwards, promoted upwards.',
    labelNames: ['from', 'to'],
    registers,
  });
  const corrupt = new Counter({
    name: 'ebb_corrupt_copies_total',
    help: 'Copies found to hold wrong bytes when they were read, by tier: set aside, or kept when it is the last one.',
    labelNames: ['tier'],
    registers,
  });
  const httpRequests = new Counter({
    name: 'ebb_http_requests_total',
    help: 'HTTP requests answered.',
    labelNames: ['method', 'route', 'status'],
    registers,
  });
  const httpDuration = new Histogram({
    name: 'ebb_http_request_duration_seconds',
    help: 'From the head of the request to the end of the answer.',
    labelNames: ['method', 'route'],
    buckets: DURATION_BUCKETS,
    registers,
  });

  return {
    registry,
    storeObserver: {
      committed: (sizeBytes) => {
        commits.inc();
        commitBytes.inc(sizeBytes);
      },
      moved: ({ from, to, bytes }) => moved.inc({ from, to }, bytes),
      corrupt: (tier) => corrupt.inc({ tier: TIER_NAMES[tier] }),
    },
    observeHttp: ({ method, route, status, seconds }) => {
      httpRequests.inc({ method, route, status });
      httpDuration.observe({ method, route }, seconds);
    },
    httpErrors: new Counter({
      name: 'ebb_http_errors_total',
      help: 'HTTP requests answered with an error, by its code.',
      labelNames: ['code'],
      registers,
    }),
    backgroundFailures: new Counter({
      name: 'ebb_background_failures_total',
      help: 'Background work that failed, by what it was; the log has the causes.',
      labelNames: ['work'],
      registers,
    }),
    peersEnded: new Counter({
      name: 'ebb_peers_ended_total',
      help: 'Bodies and connections that were ended: too slow, or in the way of others (memory).',
      labelNames: ['why'],
      registers,
    }),
    frames: createFrameMetrics(registry),
    attachBodies: (sources) => attachBodies(registers, sources),
    attach: (sources) => attachGauges(registry, sources),
  };
}

/** One call in this many is timed. */
const TIMED_EVERY = 16;

function createFrameMetrics(registry: Registry): FrameMetrics {
  const names = new Map<number, string>(Object.entries(OPS).map(([name, op]) => [op, name]));
  const counts = new Float64Array(Math.max(...names.keys()) + 1);
  new Counter({
    name: 'ebb_frames_total',
    help: 'Calls that came in frames, refused ones included.',
    labelNames: ['op'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [op, name] of names)
        if ((counts[op] as number) > 0) this.inc({ op: name }, counts[op] as number);
    },
  });
  const durations = new Histogram({
    name: 'ebb_frame_duration_seconds',
    help: `From a frame to its answer; one in ${TIMED_EVERY} calls of an op is timed.`,
    labelNames: ['op'],
    buckets: [0.00005, ...DURATION_BUCKETS],
    registers: [registry],
  });
  const errors = new Counter({
    name: 'ebb_frame_errors_total',
    help: 'Calls in frames answered with an error, by its code.',
    labelNames: ['op', 'code'],
    registers: [registry],
  });
  return {
    failed: (op, code) => errors.inc({ op: names.get(op) ?? 'unknown', code }),
    start: (op) => {
      const count = (counts[op] as number) + 1;
      counts[op] = count;
      return count % TIMED_EVERY === 1 ? performance.now() : -1;
    },
    end: (op, startedMs) => {
      if (startedMs >= 0)
        durations.observe({ op: names.get(op) as string }, (performance.now() - startedMs) / 1000);
    },
  };
}

function attachCheckpoints(registers: Registry[], checkpoints: CheckpointService): void {
  const gauge = (name: string, help: string, read: (totals: CheckpointTotals) => number): void => {
    new Gauge({
      ...{ name, help, registers },
      async collect() {
        this.set(read(await checkpoints.totals()));
      },
    });
  };
  const counter = (name: string, help: string, read: (now: CheckpointTotals) => number): void => {
    new Counter({
      ...{ name, help, registers },
      async collect() {
        const now = read(await checkpoints.totals());
        this.reset();
        this.inc(now);
      },
    });
  };
  gauge('ebb_checkpoint_snapshots', 'Snapshots of all runs.', (totals) => totals.snapshots);
  gauge(
    'ebb_checkpoint_unstored_snapshots',
    'Snapshots that are in memory alone, and are to be stored.',
    (totals) => totals.unstored,
  );
  gauge(
    'ebb_checkpoint_unstored_oldest_seconds',
    'How long the oldest of them waits; 0 when none does.',
    ({ oldestUnstoredMs }) =>
      oldestUnstoredMs === null ? 0 : (Date.now() - oldestUnstoredMs) / 1000,
  );
  counter(
    'ebb_checkpoint_commits_total',
    'Snapshots that were committed.',
    (totals) => totals.committed,
  );
  counter(
    'ebb_checkpoint_skipped_total',
    'Snapshots that were left out because storing was behind.',
    (totals) => totals.skipped,
  );
  counter(
    'ebb_checkpoint_stored_bytes_total',
    'Bytes of snapshots that no earlier snapshot had, and that were stored.',
    (totals) => totals.storedBytes,
  );
}

function attachBodies(registers: Registry[], { pieces, held, frames }: BodySources): void {
  new Gauge({
    name: 'ebb_body_pieces',
    help: 'Pieces of 1 MiB lent to bodies on their way in, and to answers.',
    labelNames: ['use'],
    registers,
    collect() {
      const { body, answer } = pieces.lent;
      this.set({ use: 'body' }, body);
      this.set({ use: 'answer' }, answer);
    },
  });
  new Gauge({
    name: 'ebb_body_pieces_waiting',
    help: 'Bodies that wait for a piece.',
    registers,
    collect() {
      this.set(pieces.waiting);
    },
  });
  new Gauge({
    name: 'ebb_held_bytes',
    help: 'Answers and requests that are held whole because their peers have not taken or sent them yet; small ones are not counted.',
    registers,
    collect() {
      this.set(held.bytes);
    },
  });
  new Gauge({
    name: 'ebb_frame_held_bytes',
    help: 'Payloads and answers of frame connections, beyond what each has of its own.',
    registers,
    collect() {
      this.set(frames.heldBytes);
    },
  });
}

function attachGauges(
  registry: Registry,
  { store, shuffles, checkpoints, connections }: MetricsSources,
): void {
  const registers = [registry];
  const tierGauge = (
    name: string,
    help: string,
    read: (tier: ReturnType<ObjectStore['tiers']>[number]) => number | null,
  ): void => {
    new Gauge({
      name,
      help,
      labelNames: ['tier'],
      registers,
      async collect() {
        await store.totals(); // what tier 2 holds is as of the last call
        for (const tier of store.tiers()) {
          const value = read(tier);
          if (value !== null) this.set({ tier: TIER_NAMES[tier.tier] }, value);
        }
      },
    });
  };
  tierGauge(
    'ebb_tier_used_bytes',
    'Bytes a tier holds: committed, staged, and recycled files.',
    (tier) => tier.usedBytes,
  );
  tierGauge('ebb_tier_capacity_bytes', 'Limit of a tier.', (tier) => tier.capacityBytes);
  tierGauge('ebb_tier_pooled_bytes', 'Recycled files kept ready.', (tier) => tier.pooledBytes);
  tierGauge('ebb_tier_staged_bytes', 'Reserved by writes in progress.', (tier) => tier.stagedBytes);
  tierGauge('ebb_tier_blobs', 'Blobs with a copy in a tier.', (tier) => tier.blobs);

  const gauge = (name: string, help: string, read: () => number | Promise<number>): void => {
    new Gauge({
      name,
      help,
      registers,
      async collect() {
        this.set(await read());
      },
    });
  };
  gauge(
    'ebb_objects',
    'Objects committed and not deleted.',
    async () => (await store.totals()).objects,
  );
  gauge('ebb_buckets', 'Buckets.', async () => (await store.totals()).buckets);
  gauge('ebb_jobs', 'Jobs alive.', async () => (await store.listJobs()).length);
  gauge('ebb_shuffles', 'Shuffles registered.', async () => (await shuffles.list()).length);
  gauge('ebb_files_open', 'Objects open as files.', () => store.files.size);
  gauge('ebb_connections', 'Frame connections open.', connections);
  attachCheckpoints(registers, checkpoints);
  const spoolGauge = (
    name: string,
    help: string,
    read: (spool: Awaited<ReturnType<ObjectStore['spool']>>) => number,
  ): void => gauge(name, help, async () => read(await store.spool()));
  spoolGauge(
    'ebb_mirror_backlog_bytes',
    'Bytes waiting for their copy in the remote tier.',
    (spool) => spool.bytes,
  );
  spoolGauge(
    'ebb_mirror_backlog_objects',
    'Names to be stored or deleted in the remote tier.',
    (spool) => spool.entries,
  );
  spoolGauge(
    'ebb_mirror_oldest_seconds',
    'How long the oldest of them waits; 0 when none does.',
    (spool) => (spool.oldestMs === null ? 0 : (Date.now() - spool.oldestMs) / 1000),
  );
  spoolGauge(
    'ebb_disk_seconds_until_full',
    'When the disk tier is full at the rate of the last minute; +Inf while it does not grow.',
    (spool) => spool.secondsUntilFull ?? Number.POSITIVE_INFINITY,
  );
}
