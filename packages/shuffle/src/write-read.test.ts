/** Writers and readers against a real store, with files in sight and without. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { indexBlockBytes, type MapOutputRow, messages, OPS, StoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { InProcessNode } from '../test/in-process-node.ts';
import type { ReaderOptions } from './partitioned-reader.ts';
import type { WriterOptions, WriterResult } from './partitioned-writer.ts';
import { createShuffleClient, type ShuffleClient } from './shuffle-client.ts';

type Bytes = Uint8Array;
interface Input {
  readonly partition: number;
  readonly key: Bytes;
  readonly value: Bytes;
}

let node: InProcessNode;
let nextShuffle = 0;
beforeAll(async () => {
  node = await InProcessNode.open();
});
afterAll(async () => {
  await node.close();
});

async function openClient(options: { localFiles?: boolean; on?: InProcessNode } = {}) {
  const connection = (options.on ?? node).connect({ localFiles: options.localFiles ?? true });
  const client = createShuffleClient(connection, { jobId: 'app' });
  return { client, connection };
}

async function writeMap(
  client: ShuffleClient,
  options: WriterOptions<Bytes, Bytes>,
  records: Iterable<Input>,
): Promise<WriterResult> {
  await using writer = await client.openWriter<Bytes, Bytes>(options);
  for (const { partition, key, value } of records) await writer.writeTo(partition, key, value);
  return await writer.commit();
}

async function readAll(
  client: ShuffleClient,
  options: ReaderOptions<Buffer, Buffer>,
): Promise<string[]> {
  const found: string[] = [];
  for await (const { partition, key, value } of await client.openReader(options))
    found.push(text({ partition, key, value }));
  return found;
}

function text(record: Input): string {
  const hex = (bytes: Bytes): string => Buffer.from(bytes).toString('hex');
  return `${record.partition} ${hex(record.key)}=${hex(record.value)}`;
}

function records(count: number, partitions: number, valueBytes = 20): Input[] {
  return Array.from({ length: count }, (_, i) => ({
    partition: i % partitions,
    key: Buffer.from(`key-${i}`),
    value: Buffer.alloc(valueBytes, i),
  }));
}

const bytes = fc.oneof(
  fc.constant(new Uint8Array(0)),
  fc.uint8Array({ maxLength: 30, size: 'max' }),
  fc.uint8Array({ minLength: 500, maxLength: 1500, size: 'max' }),
);

describe('what was written is what is read', () => {
  it('for any records, sizes of memory and chunks, ranges of maps and partitions, near and far', async () => {
    const shape = fc.record({
      partitions: fc.integer({ min: 1, max: 7 }),
      maps: fc.integer({ min: 1, max: 4 }),
    });
    const plan = shape.chain(({ partitions, maps }) =>
      fc.record({
        partitions: fc.constant(partitions),
        inputs: fc.array(
          fc.array(fc.record({ partition: fc.nat(partitions - 1), key: bytes, value: bytes }), {
            maxLength: 60,
            size: 'max',
          }),
          { minLength: maps, maxLength: maps },
        ),
        memoryBytes: fc.constantFrom(4096, 16_384, 1 << 20),
        chunkBytes: fc.constantFrom(7, 100, 65_536),
        compression: fc.constantFrom('none', 'zstd') as fc.Arbitrary<'none' | 'zstd'>,
        prefetchBytes: fc.constantFrom(4096, 20_000, 1 << 20),
        localFiles: fc.boolean(),
        a: fc.nat(partitions),
        b: fc.nat(partitions),
        c: fc.nat(maps),
        d: fc.nat(maps),
      }),
    );
    let spills = 0;
    await fc.assert(
      fc.asyncProperty(plan, async (input) => {
        const { partitions, inputs, localFiles } = input;
        const shuffleId = nextShuffle++;
        const { client, connection } = await openClient({ localFiles });
        await client.register({ shuffleId, maps: inputs.length, partitions });
        for (const [mapIndex, list] of inputs.entries()) {
          const { memoryBytes, chunkBytes, compression } = input;
          const options = { shuffleId, mapIndex, attemptId: mapIndex, partitions };
          const result = await writeMap(
            client,
            { ...options, memoryBytes, chunkBytes, compression },
            list,
          );
          expect(result).toMatchObject({ won: true, records: list.length });
          spills += result.spills;
        }
        const range = { from: Math.min(input.a, input.b), to: Math.max(input.a, input.b) };
        const maps = { from: Math.min(input.c, input.d), to: Math.max(input.c, input.d) };
        const found = await readAll(client, {
          shuffleId,
          partitions: range,
          maps,
          prefetchBytes: input.prefetchBytes,
        });
        // Inside one partition of one map the order is that of writing; maps may come in any order.
        const expected = inputs
          .slice(maps.from, maps.to)
          .flat()
          .filter(({ partition }) => partition >= range.from && partition < range.to)
          .map(text);
        expect(found.toSorted()).toEqual(expected.toSorted());
        if (maps.to - maps.from === 1)
          for (let p = range.from; p < range.to; p++)
            expect(found.filter((line) => line.startsWith(`${p} `))).toEqual(
              expected.filter((line) => line.startsWith(`${p} `)),
            );
        await client.remove(shuffleId);
        await connection.close();
      }),
      { numRuns: 60 },
    );
    expect(spills).toBeGreaterThan(50);
  }, 60_000);

  it('through serializers and the default partitioner, every key in one partition', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 2, partitions: 5 });
    const text = { encode: (value: string) => Buffer.from(value), decode: (b: Buffer) => `${b}` };
    const number = {
      encode: (value: number) => Buffer.from(String(value)),
      decode: (b: Buffer) => Number(b),
    };
    const serializers = { keySerializer: text, valueSerializer: number };
    for (const mapIndex of [0, 1]) {
      const options = { shuffleId, mapIndex, attemptId: mapIndex, partitions: 5 };
      await using writer = await client.openWriter({ ...options, ...serializers });
      if (mapIndex === 0) for (let i = 0; i < 100; i++) await writer.write(`word-${i}`, i);
      else await writer.writeAll(Array.from({ length: 100 }, (_, i) => [`word-${i}`, i]));
      await writer.commit();
    }
    const partitionsOf = new Map<string, Set<number>>();
    let sum = 0;
    for (let partition = 0; partition < 5; partition++) {
      const range = { from: partition, to: partition + 1 };
      const reader = await client.openReader({ shuffleId, partitions: range, ...serializers });
      for await (const record of reader) {
        expect(record.partition).toBe(partition);
        sum += record.value;
        partitionsOf.set(
          record.key,
          (partitionsOf.get(record.key) ?? new Set()).add(record.partition),
        );
      }
    }
    expect(sum).toBe(2 * 4950);
    expect([...partitionsOf.values()].every((set) => set.size === 1)).toBe(true);
    expect(partitionsOf.size).toBe(100);
  });

  it('with empty partitions and an empty map output', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 2, partitions: 100 });
    const shape = { shuffleId, partitions: 100 };
    await writeMap(client, { ...shape, mapIndex: 0, attemptId: 0 }, []);
    const one = { partition: 57, key: Buffer.from('k'), value: Buffer.alloc(0) };
    const result = await writeMap(client, { ...shape, mapIndex: 1, attemptId: 1 }, [one]);
    expect(result.partitionBytes.filter((size) => size > 0)).toHaveLength(1);
    expect(await readAll(client, { shuffleId, partitions: { from: 0, to: 100 } })).toEqual([
      text(one),
    ]);
    expect(await readAll(client, { shuffleId, partitions: { from: 0, to: 57 } })).toEqual([]);
  });

  it('after its files were spilled to disk, and to tier 2, under the reader', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 3, partitions: 4 });
    const expected: string[] = [];
    const keys: string[] = [];
    for (let mapIndex = 0; mapIndex < 3; mapIndex++) {
      const list = records(50, 4);
      await writeMap(client, { shuffleId, mapIndex, attemptId: mapIndex, partitions: 4 }, list);
      expected.push(...list.map(text));
      keys.push(`app/${shuffleId}/000000${mapIndex}/${mapIndex}`);
    }
    const all = { shuffleId, partitions: { from: 0, to: 4 } };
    const reader = await client.openReader(all); // has the table of before
    const { store } = node.test;
    await store.relocate({ bucket: 'shuffle', key: keys[0] as string }, 1);
    await store.relocate({ bucket: 'shuffle', key: keys[1] as string }, 2);
    const found: string[] = [];
    for await (const record of reader) found.push(text(record));
    expect(found.toSorted()).toEqual(expected.toSorted());
    const far = await openClient({ localFiles: false });
    await store.relocate({ bucket: 'shuffle', key: keys[2] as string }, 2);
    expect((await readAll(far.client, all)).toSorted()).toEqual(expected.toSorted());
  });

  it('after the daemon was killed between map and reduce', async () => {
    const own = await InProcessNode.open();
    try {
      const { client } = await openClient({ on: own });
      await client.register({ shuffleId: 1, maps: 2, partitions: 3 });
      const list = records(100, 3);
      await writeMap(client, { shuffleId: 1, mapIndex: 0, attemptId: 10, partitions: 3 }, list);
      await own.crash();
      await writeMap(client, { shuffleId: 1, mapIndex: 1, attemptId: 11, partitions: 3 }, list);
      const all = { shuffleId: 1, partitions: { from: 0, to: 3 } };
      expect(await readAll(client, all)).toHaveLength(200);
      await own.crash();
      expect(await readAll(client, all)).toHaveLength(200);
    } finally {
      await own.close();
    }
  });

  it('in many readers at once that share one table', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient({ localFiles: false });
    await client.register({ shuffleId, maps: 4, partitions: 8 });
    for (let mapIndex = 0; mapIndex < 4; mapIndex++)
      await writeMap(
        client,
        { shuffleId, mapIndex, attemptId: mapIndex, partitions: 8 },
        records(80, 8),
      );
    node.calls.clear();
    const found = await Promise.all(
      Array.from({ length: 8 }, (_, p) =>
        readAll(client, { shuffleId, partitions: { from: p, to: p + 1 } }),
      ),
    );
    expect(found.flat()).toHaveLength(320);
    expect(node.calls.get(OPS.shuffleTable)).toBe(1);
  });
});

describe('what cannot be read is an error that names the map', () => {
  async function shuffleOf(maps: number, list: Input[], partitions: number) {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps, partitions });
    const rows: MapOutputRow[] = [];
    for (let mapIndex = 0; mapIndex < maps; mapIndex++) {
      const options = { shuffleId, mapIndex, attemptId: 100 + mapIndex, partitions };
      rows.push((await writeMap(client, options, list)).winner);
    }
    return { shuffleId, client, rows };
  }

  it('a map without an output is missing, and named', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 3, partitions: 2 });
    for (const mapIndex of [0, 2])
      await writeMap(client, { shuffleId, mapIndex, attemptId: mapIndex, partitions: 2 }, []);
    const partitions = { from: 0, to: 2 };
    await expect(client.openReader({ shuffleId, partitions })).rejects.toMatchObject({
      code: 'not_found',
      details: { shuffleId, mapIndex: 1, missing: 1 },
    });
    expect(await readAll(client, { shuffleId, partitions, maps: { from: 2, to: 3 } })).toEqual([]);
    await expect(
      client.openReader({ shuffleId, partitions: { from: 0, to: 3 } }),
    ).rejects.toMatchObject({ code: 'range_invalid' });
  });

  it('one wrong byte anywhere, in data or index, small or streamed, near or far', async () => {
    const list = records(40, 4, 300);
    const { shuffleId, client, rows } = await shuffleOf(2, list, 4);
    const dataBytes = (rows[1] as MapOutputRow).location.length - indexBlockBytes(4, 1);
    const places = fc.record({
      position: fc.nat((rows[1] as MapOutputRow).location.length - 1),
      prefetchBytes: fc.constantFrom(4096, 1 << 20),
      localFiles: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(places, async ({ position, prefetchBytes, localFiles }) => {
        const other = await openClient({ localFiles });
        const [row] = await node.service.resolve({ jobId: 'app', shuffleId }, [101], {
          suspect: false,
        });
        await node.corrupt(row as MapOutputRow, position);
        // The node is told, looks itself, and would drop the only copy: keep it for the next run.
        const resolve = node.test.store.resolve.bind(node.test.store);
        node.test.store.resolve = (blobId, length) => resolve(blobId, length, { suspect: false });
        try {
          const found: string[] = [];
          const read = async (): Promise<void> => {
            const options = { shuffleId, partitions: { from: 0, to: 4 }, prefetchBytes };
            for await (const record of await other.client.openReader(options))
              found.push(text(record));
          };
          await expect(read()).rejects.toMatchObject({
            code: 'data_corrupt',
            details: { jobId: 'app', shuffleId, mapIndex: 1, attemptId: 101 },
          });
          // What did come out before is right.
          const right = new Set(list.map(text));
          expect(found.every((line) => right.has(line))).toBe(true);
        } finally {
          node.test.store.resolve = resolve;
          await node.corrupt(row as MapOutputRow, position);
          await other.connection.close();
        }
        // A range that has none of the wrong byte is read as if nothing was.
      }),
      { numRuns: 40 },
    );
    expect(dataBytes).toBeGreaterThan(10_000);
    expect(await readAll(client, { shuffleId, partitions: { from: 0, to: 4 } })).toHaveLength(80);
  });

  it('an output that is really broken is dropped by the node, and its map may be written again', async () => {
    const { shuffleId, client, rows } = await shuffleOf(2, records(40, 4), 4);
    await node.corrupt(rows[1] as MapOutputRow, 3);
    const all = { shuffleId, partitions: { from: 0, to: 4 } };
    await expect(readAll(client, all)).rejects.toMatchObject({
      code: 'data_corrupt',
      details: { mapIndex: 1, attemptId: 101 },
    });
    const again = await writeMap(
      client,
      { shuffleId, mapIndex: 1, attemptId: 102, epoch: 1, partitions: 4 },
      records(40, 4),
    );
    expect(again.won).toBe(true);
    expect(await readAll(client, all)).toHaveLength(80);
  });

  it('a map whose lost output was written again in the same epoch is read from the new one', async () => {
    const { shuffleId, client, rows } = await shuffleOf(2, records(40, 4), 4);
    const all = { shuffleId, partitions: { from: 0, to: 4 } };
    expect(await readAll(client, all)).toHaveLength(80);
    const other = await openClient();
    await node.corrupt(rows[1] as MapOutputRow, 3);
    await expect(readAll(other.client, all)).rejects.toMatchObject({ code: 'data_corrupt' });
    const options = { shuffleId, mapIndex: 1, attemptId: 102, partitions: 4 };
    expect(await writeMap(client, options, records(44, 4))).toMatchObject({ won: true });
    for (const one of [client, other.client]) expect(await readAll(one, all)).toHaveLength(84);
  });

  it('bytes that went with the memory of the host', async () => {
    const own = await InProcessNode.open();
    try {
      const { client } = await openClient({ on: own });
      await client.register({ shuffleId: 1, maps: 1, partitions: 3 });
      await writeMap(
        client,
        { shuffleId: 1, mapIndex: 0, attemptId: 10, partitions: 3 },
        records(9, 3),
      );
      await own.crash({ loseMemory: true });
      const all = { shuffleId: 1, partitions: { from: 0, to: 3 } };
      await expect(readAll(client, all)).rejects.toMatchObject({ details: { mapIndex: 0 } });
    } finally {
      await own.close();
    }
  });

  it('chunks of a codec that this client does not read, and streams of an engine', async () => {
    const shuffleId = nextShuffle++;
    const { client, connection } = await openClient();
    await client.register({ shuffleId, maps: 1, partitions: 1 });
    const { encodeIndexBlock } = await import('@ebb/protocol');
    const { crc32c } = await import('@node-rs/crc32');
    const { openStagedFile } = await import('@ebb/client');
    const writeRaw = async (attemptId: number, framing: number, data: Buffer): Promise<void> => {
      const shape = { shuffleId, mapIndex: 0, attemptId };
      await using staged = await openStagedFile(
        async ({ reserveBytes, tier }) => {
          const session = await connection.session();
          const request = { jobId: 'app', ...shape, epoch: attemptId, reserveBytes, tier };
          return { session, staged: await session.call(OPS.mapStage, messages.mapStage, request) };
        },
        { tierByPolicy: 255 },
      );
      const index = encodeIndexBlock(
        { ...shape, framing, offsets: [0, data.length], crc32cs: [crc32c(data)] },
        crc32c,
      );
      await staged.write(Buffer.concat([data, index]));
      const sealed = await staged.seal();
      await sealed.session.call(OPS.mapCommit, messages.mapCommit, {
        writeId: sealed.writeId,
        sizeBytes: sealed.sizeBytes,
        crc32c: sealed.crc32c,
        indexBytes: index.length,
      });
      staged.settled();
    };
    const lz4 = Buffer.from('0a00000003000000010102030', 'hex');
    await writeRaw(1, 1, lz4.subarray(0, 12));
    const all = { shuffleId, partitions: { from: 0, to: 1 } };
    const expected = { code: 'unsupported', details: { mapIndex: 0 } };
    await expect(readAll(client, all)).rejects.toMatchObject({
      ...expected,
      message: expect.stringContaining('LZ4') as string,
    });
    await writeRaw(2, 0, Buffer.from('anything'));
    await expect(readAll(client, all)).rejects.toMatchObject(expected);
  });
});

describe('the writer', () => {
  it('tells a loser who won, and leaves nothing of it', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 1, partitions: 2 });
    const options = { shuffleId, mapIndex: 0, partitions: 2 };
    const won = await writeMap(client, { ...options, attemptId: 1 }, records(10, 2));
    const lost = await writeMap(client, { ...options, attemptId: 2 }, records(5, 2));
    expect(lost).toMatchObject({ won: false, winner: { attemptId: 1 } });
    expect(await readAll(client, { shuffleId, partitions: { from: 0, to: 2 } })).toHaveLength(10);
    expect(await client.remove(shuffleId)).toEqual({ freedBytes: won.winner.location.length });
  });

  it('finds its commit when the answer was lost, and does it again when it was not applied', async () => {
    const shuffleId = nextShuffle++;
    const { client, connection } = await openClient();
    await client.register({ shuffleId, maps: 2, partitions: 2 });
    const lose = (when: 'beforeCall' | 'afterCall'): void => {
      node.faults[when] = (op) => {
        if (op !== OPS.mapCommit) return;
        delete node.faults[when];
        connection.drop();
      };
    };
    lose('afterCall');
    const options = { shuffleId, partitions: 2, memoryBytes: 4096 };
    const list = records(500, 2);
    const first = await writeMap(client, { ...options, mapIndex: 0, attemptId: 1 }, list);
    expect(first).toMatchObject({ won: true, winner: { attemptId: 1 } });
    lose('beforeCall');
    const second = await writeMap(client, { ...options, mapIndex: 1, attemptId: 2 }, list);
    expect(second).toMatchObject({ won: true, winner: { attemptId: 2 } });
    expect(second.spills).toBeGreaterThan(0);
    expect(await readAll(client, { shuffleId, partitions: { from: 0, to: 2 } })).toHaveLength(1000);
  });

  it('leaves no spill file, whether it commits, aborts or fails', async () => {
    const spillDirectory = await mkdtemp(join(tmpdir(), 'ebb-spill-test-'));
    onTestFinished(() => rm(spillDirectory, { recursive: true }));
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 3, partitions: 2 });
    const options = { shuffleId, partitions: 2, memoryBytes: 4096, spillDirectory };
    await writeMap(client, { ...options, mapIndex: 0, attemptId: 0 }, records(500, 2));
    {
      await using writer = await client.openWriter({ ...options, mapIndex: 1, attemptId: 1 });
      for (const { key, value } of records(500, 2)) await writer.write(key, value);
    }
    node.faults.beforeCall = (op) => {
      if (op === OPS.mapStage) throw new StoreError('quota_exceeded');
    };
    try {
      await expect(
        writeMap(client, { ...options, mapIndex: 2, attemptId: 2 }, records(500, 2)),
      ).rejects.toMatchObject({ code: 'quota_exceeded' });
    } finally {
      delete node.faults.beforeCall;
    }
    expect(await readdir(spillDirectory)).toEqual([]);
    const staged = node.test.store.tiers().map((tier) => tier.stagedBytes);
    expect(staged.every((bytes) => bytes === 0)).toBe(true);
    await expect(
      writeMap(
        client,
        { ...options, spillDirectory: '/does/not/exist', mapIndex: 2, attemptId: 3 },
        records(500, 2),
      ),
    ).rejects.toMatchObject({ code: 'io_failed' });
  });

  it('refuses a partition, a record or a setting that cannot be', async () => {
    const { client } = await openClient();
    const options = { shuffleId: 1, mapIndex: 0, attemptId: 1, partitions: 2 };
    await expect(client.openWriter({ ...options, memoryBytes: 1 })).rejects.toMatchObject({
      code: 'request_invalid',
    });
    await using writer = await client.openWriter(options);
    const nothing = Buffer.alloc(0);
    await expect(writer.writeTo(2, nothing, nothing)).rejects.toMatchObject({
      code: 'request_invalid',
    });
  });
});

/** Several times: memory of buffers is counted as freed only by a finalizer, which runs in a later turn. */
async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let i = 0; i < 5; i++) {
    collect();
    await setImmediate();
  }
}

describe('memory and leases', () => {
  it('the reader fetches ahead no more than it was allowed', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient({ localFiles: false });
    await client.register({ shuffleId, maps: 20, partitions: 1 });
    for (let mapIndex = 0; mapIndex < 20; mapIndex++)
      await writeMap(
        client,
        { shuffleId, mapIndex, attemptId: mapIndex, partitions: 1 },
        records(10, 1, 1000),
      );
    const prefetchBytes = 32_768;
    const reader = await client.openReader({
      shuffleId,
      partitions: { from: 0, to: 1 },
      prefetchBytes,
    });
    node.calls.clear();
    const batches = reader.batches();
    await batches.next();
    await new Promise((resolve) => setTimeout(resolve, 20));
    // One call for the index blocks, and as many units of half the budget as fit.
    expect(node.calls.get(OPS.read)).toBeLessThanOrEqual(4);
    await batches.return();
    const calls = node.calls.get(OPS.read);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(node.calls.get(OPS.read)).toBe(calls);
  });

  it('an abort ends a read with that error', async () => {
    const shuffleId = nextShuffle++;
    const { client } = await openClient();
    await client.register({ shuffleId, maps: 1, partitions: 1 });
    const options = { shuffleId, mapIndex: 0, attemptId: 1, partitions: 1 };
    await writeMap(client, options, records(100, 1, 1000));
    const stop = new AbortController();
    const range = { from: 0, to: 1 };
    const reader = await client.openReader({
      shuffleId,
      partitions: range,
      prefetchBytes: 8192,
      signal: stop.signal,
    });
    const read = async (): Promise<void> => {
      for await (const _record of reader) stop.abort();
    };
    await expect(read()).rejects.toMatchObject({ code: 'aborted' });
  });

  it('stays flat over a thousand shuffles registered, written, read and removed', async () => {
    const own = await InProcessNode.open();
    try {
      const { client } = await openClient({ on: own });
      const round = async (shuffleId: number): Promise<void> => {
        await client.register({ shuffleId, maps: 100, partitions: 2 });
        await writeMap(
          client,
          { shuffleId, mapIndex: 0, attemptId: 1, partitions: 2 },
          records(4, 2),
        );
        const maps = { from: 0, to: 1 };
        await readAll(client, { shuffleId, maps, partitions: { from: 0, to: 2 } });
        await client.remove(shuffleId);
      };
      for (let i = 0; i < 100; i++) await round(i);
      const used = own.test.store.tiers().map((tier) => tier.usedBytes - tier.pooledBytes);
      await collectGarbage();
      const before = process.memoryUsage();
      for (let i = 100; i < 1100; i++) await round(i);
      await collectGarbage();
      const after = process.memoryUsage();
      expect(own.test.store.tiers().map((tier) => tier.usedBytes - tier.pooledBytes)).toEqual(used);
      expect([...own.records.records.keys()]).toEqual(['shuffle:generation']);
      expect(await own.service.list()).toEqual([]);
      expect(after.heapUsed - before.heapUsed).toBeLessThan(4 * 1024 * 1024);
      expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(1024 * 1024);
    } finally {
      await own.close();
    }
  }, 120_000);
});
