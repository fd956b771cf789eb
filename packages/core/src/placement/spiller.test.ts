/** The spiller on made-up tiers: blobs are numbers in maps, a move is a step of a promise. No faults but those a test sets. */
import { StoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RecencyIndex } from './evictor.ts';
import { Spiller, type SpillerParts } from './spiller.ts';

interface FakeBlob {
  blobId: number;
  sizeBytes: number;
  memoryBytes: number | null;
  diskBytes: number | null;
  remote: object | null;
  pinned: boolean;
}

class FakeNode {
  readonly blobs = new Map<number, FakeBlob>();
  readonly recency = new RecencyIndex();
  readonly leased = new Set<number>();
  readonly errors: unknown[] = [];
  readonly moved: string[] = [];
  readonly limbo = { memory: 0, disk: 0 };
  remoteFails = false;
  /** Called before each move. */
  onMove: () => void = () => undefined;
  readonly capacity: { memory: number; disk: number };

  constructor(capacity: { memory: number; disk: number }) {
    this.capacity = capacity;
  }

  add(blobId: number, where: 'memory' | 'disk', bytes: number, more: Partial<FakeBlob> = {}): void {
    const blob = {
      blobId,
      sizeBytes: bytes,
      memoryBytes: null,
      diskBytes: null,
      remote: null,
      pinned: false,
    };
    this.blobs.set(blobId, { ...blob, [`${where}Bytes`]: bytes, ...more });
    if (where === 'memory') this.recency.add(blobId, bytes);
  }

  used(where: 'memory' | 'disk'): number {
    let sum = this.limbo[where];
    for (const blob of this.blobs.values()) sum += blob[`${where}Bytes`] ?? 0;
    return sum;
  }

  async #move(blobId: number, to: string, options: { drop: readonly string[] }): Promise<string> {
    await Promise.resolve();
    this.onMove();
    const blob = this.blobs.get(blobId);
    if (blob === undefined) return 'gone';
    if (to === 'remote' && blob.remote === null) {
      if (this.remoteFails) throw new StoreError('io_failed', 'tier 2 is away');
      blob.remote = { name: String(blobId) };
    }
    if (to === 'disk' && blob.diskBytes === null) {
      if (this.used('disk') + blob.sizeBytes > this.capacity.disk) return 'full';
      blob.diskBytes = blob.sizeBytes;
    }
    if (options.drop.includes('memory')) {
      blob.memoryBytes = null;
      this.recency.remove(blobId);
    }
    if (options.drop.includes('disk')) blob.diskBytes = null;
    this.moved.push(`${blobId}>${to}`);
    return 'done';
  }

  createSpiller(): Spiller {
    const tier = (name: 'memory' | 'disk') => ({
      usage: () => ({
        capacityBytes: this.capacity[name],
        usedBytes: this.used(name),
        pooledBytes: 0,
        blobs: 0,
      }),
    });
    const parts = {
      memory: tier('memory'),
      disk: tier('disk'),
      recency: this.recency,
      memoryMarks: { high: 0.9, low: 0.5 },
      diskMarks: { high: 0.9, low: 0.5 },
      leases: { isLeased: (id: number) => this.leased.has(id) },
      placement: {
        isMoving: () => false,
        limboBytes: (place: 'memory' | 'disk') => this.limbo[place],
        move: (id: number, to: string, options: { drop: string[] }) => this.#move(id, to, options),
      },
      catalog: {
        findBlob: async (id: number) => {
          const blob = this.blobs.get(id);
          return blob === undefined ? undefined : { ...blob };
        },
        objectsOfBlob: async (id: number) => [{ pinned: this.blobs.get(id)?.pinned === true }],
        listBlobs: async ({ afterBlobId, limit }: { afterBlobId: number; limit: number }) =>
          [...this.blobs.values()]
            .filter((blob) => blob.diskBytes !== null && blob.blobId > afterBlobId)
            .sort((a, b) => a.blobId - b.blobId)
            .slice(0, limit),
      },
      mirrorFirst: async () => undefined,
      dropCached: () => 0,
      onError: (error: unknown) => this.errors.push(error),
    };
    return new Spiller(parts as unknown as SpillerParts);
  }
}

const remaining = (node: FakeNode, where: 'memoryBytes' | 'diskBytes'): number[] =>
  [...node.blobs.values()].filter((blob) => blob[where] !== null).map((blob) => blob.blobId);

describe('memory', () => {
  test('above its high mark goes down to the low one, least recently used first', async () => {
    const node = new FakeNode({ memory: 1000, disk: 10_000 });
    for (let id = 1; id <= 10; id++) node.add(id, 'memory', 95);
    node.recency.touch(1);
    await node.createSpiller().makeRoom(0);
    expect(remaining(node, 'memoryBytes')).toEqual([1, 7, 8, 9, 10]);
    expect(remaining(node, 'diskBytes')).toEqual([2, 3, 4, 5, 6]);
  });

  test('below its mark stays as it is, unless a writer needs more', async () => {
    const node = new FakeNode({ memory: 1000, disk: 10_000 });
    for (let id = 1; id <= 8; id++) node.add(id, 'memory', 100);
    const spiller = node.createSpiller();
    spiller.noteGrowth(0);
    expect(spiller.mayFree(0)).toBe(false);
    await spiller.makeRoom(0, 350);
    expect(remaining(node, 'memoryBytes')).toEqual([3, 4, 5, 6, 7, 8]);
  });

  test('what has another copy just loses the one in memory', async () => {
    const node = new FakeNode({ memory: 100, disk: 10_000 });
    node.add(1, 'memory', 50, { diskBytes: 50 });
    node.add(2, 'memory', 50, { remote: { name: 'two' } });
    await node.createSpiller().makeRoom(0, 100);
    expect(node.moved).toEqual(['1>disk', '2>remote']);
    expect(node.blobs.get(2)?.diskBytes).toBe(null);
  });

  test('leased and pinned blobs stay, and the run ends although its demand is not met', async () => {
    const node = new FakeNode({ memory: 300, disk: 1000 });
    node.add(1, 'memory', 100, { pinned: true });
    node.add(2, 'memory', 100);
    node.add(3, 'memory', 100);
    node.leased.add(2);
    await node.createSpiller().makeRoom(0, 300);
    expect(remaining(node, 'memoryBytes')).toEqual([1, 2]);
  });

  test('what waits for its readers counts as free', async () => {
    const node = new FakeNode({ memory: 1000, disk: 1000 });
    node.add(1, 'memory', 400);
    node.limbo.memory = 600;
    await node.createSpiller().makeRoom(0, 500);
    expect(node.moved).toEqual([]);
  });

  test('with a full disk, the disk is emptied first; if that cannot be, bytes go to tier 2', async () => {
    const node = new FakeNode({ memory: 200, disk: 200 });
    for (const id of [1, 2]) node.add(id, 'disk', 100, { remote: { name: 'there' } });
    node.add(3, 'memory', 200);
    await node.createSpiller().makeRoom(0, 200);
    expect(remaining(node, 'diskBytes')).toEqual([3]);

    const pinned = new FakeNode({ memory: 200, disk: 200 });
    for (const id of [1, 2]) pinned.add(id, 'disk', 100, { pinned: true });
    for (const id of [3, 4]) pinned.add(id, 'memory', 100);
    await pinned.createSpiller().makeRoom(0, 200);
    expect(remaining(pinned, 'diskBytes')).toEqual([1, 2]);
    expect([3, 4].map((id) => pinned.blobs.get(id)?.remote)).toEqual([
      { name: '3' },
      { name: '4' },
    ]);
  });
});

describe('disk', () => {
  test('the oldest go; those that were read get a second chance, once', async () => {
    const node = new FakeNode({ memory: 100, disk: 1000 });
    for (let id = 1; id <= 10; id++) node.add(id, 'disk', 95);
    const spiller = node.createSpiller();
    for (const id of [1, 2, 3]) spiller.noteDiskRead(id);
    await spiller.makeRoom(1);
    expect(remaining(node, 'diskBytes')).toEqual([1, 2, 3, 9, 10]);
    await spiller.makeRoom(1, 900);
    expect(remaining(node, 'diskBytes')).toEqual([3]); // 9 and 10 come first: the hand goes on where it stopped
  });

  test('a run ends although everything is pinned and readers never stop reading', async () => {
    const node = new FakeNode({ memory: 100, disk: 1000 });
    for (let id = 1; id <= 10; id++) node.add(id, 'disk', 100, { pinned: true });
    const spiller = node.createSpiller();
    const reader = setInterval(() => undefined, 1000);
    for (let round = 0; round < 3; round++) {
      for (let id = 1; id <= 10; id++) spiller.noteDiskRead(id);
      await spiller.makeRoom(1, 100);
    }
    clearInterval(reader);
    expect(remaining(node, 'diskBytes')).toHaveLength(10);
  });

  test('with tier 2 away a run gives up after a few failures, and the next one tries again', async () => {
    const node = new FakeNode({ memory: 100, disk: 100_000 });
    for (let id = 1; id <= 1000; id++) node.add(id, 'disk', 100);
    node.remoteFails = true;
    const spiller = node.createSpiller();
    await spiller.makeRoom(1);
    expect(node.errors).toHaveLength(8);
    node.remoteFails = false;
    await spiller.makeRoom(1);
    expect(node.used('disk')).toBeLessThanOrEqual(50_000);
  });

  test('a run that moved nothing was in vain: the next is no reason to wait, until something moved', async () => {
    const node = new FakeNode({ memory: 100, disk: 1000 });
    for (let id = 1; id <= 10; id++) node.add(id, 'disk', 100);
    node.remoteFails = true;
    const spiller = node.createSpiller();
    const mayFree: boolean[] = [];
    node.onMove = () => mayFree.push(spiller.mayFree(1));
    await spiller.makeRoom(1, 100);
    expect(mayFree).toEqual(Array.from({ length: 8 }, () => true));
    expect(spiller.isInVain(1)).toBe(true);
    mayFree.length = 0;
    await spiller.makeRoom(1, 100);
    expect(mayFree).not.toContain(true);
    spiller.noteRemoteTook();
    expect(spiller.isInVain(1)).toBe(false);
    await spiller.makeRoom(1, 100);
    expect(spiller.isInVain(1)).toBe(true);
    node.remoteFails = false;
    await spiller.makeRoom(1, 100);
    expect(spiller.isInVain(1)).toBe(false);
    // A run that nothing was asked of is not in vain, though it moved nothing.
    await spiller.makeRoom(1);
    expect(spiller.isInVain(1)).toBe(false);
  });

  test('where all is pinned a run was in vain, and the next may find something to move', async () => {
    const node = new FakeNode({ memory: 100, disk: 200 });
    for (const id of [1, 2]) node.add(id, 'disk', 100, { pinned: true });
    const spiller = node.createSpiller();
    await spiller.makeRoom(1, 100);
    expect(spiller.isInVain(1)).toBe(true);
    (node.blobs.get(1) as FakeBlob).pinned = false;
    const run = spiller.makeRoom(1, 100);
    expect(spiller.mayFree(1)).toBe(true);
    await run;
    expect(spiller.isInVain(1)).toBe(false);
  });

  test('a catalog that fails makes no unhandled rejection', async () => {
    const node = new FakeNode({ memory: 100, disk: 100 });
    node.add(1, 'disk', 100);
    const spiller = node.createSpiller();
    node.blobs.values = () => {
      throw new StoreError('io_failed', 'catalog closed');
    };
    node.used = () => 100;
    await spiller.makeRoom(1, 50);
    expect(node.errors).toHaveLength(1);
  });
});

test('whatever the sizes, pins, leases and failures: a run ends, loses nothing, and makes room where it may', async () => {
  const blob = fc.record({
    where: fc.constantFrom('memory' as const, 'disk' as const),
    bytes: fc.integer({ min: 1, max: 100 }),
    pinned: fc.boolean(),
    leased: fc.boolean(),
    mirrored: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(blob, { maxLength: 30 }),
      fc.nat(1000),
      fc.boolean(),
      async (blobs, demand, remoteFails) => {
        const node = new FakeNode({ memory: 1000, disk: 1000 });
        node.remoteFails = remoteFails;
        blobs.forEach(({ where, bytes, pinned, leased, mirrored }, id) => {
          if (node.used(where) + bytes > 1000) return;
          node.add(id + 1, where, bytes, { pinned, remote: mirrored ? { name: 'm' } : null });
          if (leased && where === 'memory') node.leased.add(id + 1);
        });
        const known = node.blobs.size;
        await node.createSpiller().makeRoom(0, demand);
        expect(node.blobs.size).toBe(known);
        for (const { memoryBytes, diskBytes, remote } of node.blobs.values())
          expect([memoryBytes, diskBytes, remote].some((copy) => copy !== null)).toBe(true);
        expect(node.used('disk')).toBeLessThanOrEqual(1000);
        if (remoteFails) return;
        const stays = [...node.blobs.values()].filter(
          ({ blobId, memoryBytes, pinned }) =>
            memoryBytes !== null && !pinned && !node.leased.has(blobId),
        );
        if (1000 - node.used('memory') < demand) expect(stays).toEqual([]);
      },
    ),
  );
});
