/**
 * What tier 2 may have lost when the power fails: the catalog as it was when it was synced last, tier 2 as it is. Real
 * directories; the power cut is a fake, which puts back a copy of the catalog that was made after each sync.
 */
import { cpSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  buffered,
  ephemeral,
  mirrored,
  openStoreInTest,
  override,
  reopen,
  type TestStore,
  tempDir,
} from '@ebb/testkit';
import { expect, test, vi } from 'vitest';

interface Power {
  readonly at: TestStore;
  /** A sync of the catalog waits for it. */
  slowSync: Promise<void> | undefined;
  /** A put into tier 2 under such a name waits for it. */
  holds: ((name: string) => Promise<void> | undefined) | undefined;
  puts: number;
  /** The store after a power cut that came after the last sync before `freeze`. */
  cut(): Promise<TestStore>;
  freeze(): void;
}

async function open(): Promise<Power> {
  const copies = await tempDir();
  const synced = join(copies, 'synced');
  let root = '';
  let isFrozen = false;
  const power: Omit<Power, 'at'> = {
    slowSync: undefined,
    holds: undefined,
    puts: 0,
    freeze: () => {
      isFrozen = true;
    },
    cut: async () => {
      power.freeze();
      power.slowSync = undefined;
      return await reopen(at, {
        faults: {},
        loseMemory: true,
        meanwhile: (where) => {
          rmSync(join(where, 'catalog'), { recursive: true });
          cpSync(synced, join(where, 'catalog'), { recursive: true });
        },
      });
    },
  };
  const at = await openStoreInTest(
    { buf: buffered, mem: ephemeral },
    {
      faults: {
        catalog: (catalog) =>
          override(catalog, {
            durable: async () => {
              await power.slowSync;
              await catalog.durable();
              if (isFrozen || root === '') return;
              rmSync(synced, { recursive: true, force: true });
              cpSync(join(root, 'catalog'), synced, { recursive: true });
            },
          }),
        remote: (remote) =>
          override(remote, {
            put: async (name, ...args) => {
              power.puts++;
              await power.holds?.(name);
              return await remote.put(name, ...args);
            },
          }),
      },
    },
  );
  root = at.root;
  return Object.assign(power, { at });
}

/** `buf/n` holds the only copy of the bytes of `mem/m`. */
async function shareInTier2({ at }: Power): Promise<void> {
  await at.put('buf', 'n', Buffer.from('first'));
  await mirrored(at);
  await at.store.relocate({ bucket: 'buf', key: 'n' }, 2);
  await at.store.copy({ bucket: 'buf', key: 'n' }, { bucket: 'mem', key: 'm' });
  await at.catalog.durable();
}

/** All senders of the mirror are busy until the promise that is returned is resolved. */
async function holdSenders(power: Power): Promise<() => void> {
  const gate = Promise.withResolvers<void>();
  power.holds = (name) => (name.includes('/x') ? gate.promise : undefined);
  power.puts = 0;
  for (let n = 0; n < 4; n++) await power.at.put('buf', `x${n}`, Buffer.from('x'));
  await vi.waitFor(() => expect(power.puts).toBe(4));
  return gate.resolve;
}

const inTier2 = ({ at }: Power, name: string): string =>
  readFileSync(join(at.root, 'remote', name), 'utf8');

test('bytes that an overwrite moved to a private name are found there after a power cut', async () => {
  const power = await open();
  await shareInTier2(power);
  await power.at.put('buf', 'n', Buffer.from('second'));
  await vi.waitFor(() => expect(inTier2(power, 'buf/n')).toBe('second'));
  const after = await power.cut();
  expect(String(await after.get('mem', 'm'))).toBe('first');
}, 60_000);

test('a name is overwritten only when the deletion that let go of its bytes is durable', async () => {
  const power = await open();
  await shareInTier2(power);
  const release = await holdSenders(power);
  await power.at.put('buf', 'n', Buffer.from('second'));
  await new Promise((resolve) => setTimeout(resolve, 200)); // it waits in the queue
  const disk = Promise.withResolvers<void>();
  power.slowSync = disk.promise;
  const deleting = power.at.store.delete({ bucket: 'mem', key: 'm' });
  await new Promise((resolve) => setTimeout(resolve, 100));
  release();
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(inTier2(power, 'buf/n')).toBe('first');
  power.slowSync = undefined;
  disk.resolve();
  await deleting;
  await mirrored(power.at);
  expect(inTier2(power, 'buf/n')).toBe('second');
}, 60_000);

test('an entry that another change of the policy made is not taken for the one that was durable', async () => {
  const power = await open();
  const { at } = power;
  const release = await holdSenders(power);
  await at.put('buf', 'n', Buffer.from('bytes'));
  await new Promise((resolve) => setTimeout(resolve, 200)); // it waits in the queue
  const disk = Promise.withResolvers<void>();
  power.slowSync = disk.promise;
  await at.catalog.setBucketPolicy('buf', { ...buffered, mirror: false, ack: 'memory' });
  await at.catalog.setBucketPolicy('buf', { ...buffered, remote: 'x' });
  release();
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(existsSync(join(at.root, 'remote/|x|buf/n'))).toBe(false);
  power.slowSync = undefined;
  disk.resolve();
}, 60_000);
