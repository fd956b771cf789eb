import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { buffered, bytesOf as bytes, openTestStore, type TestStore } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';

const MARKER = 'ebb-tier.json';

async function filled(): Promise<TestStore> {
  const at = await openTestStore();
  await at.store.createBucket('buf', buffered);
  await at.put('buf', 'a', bytes(30_000, 1), { ack: 'disk' });
  await at.put('buf', 'b', bytes(30_000, 2), { ack: 'disk' });
  return at;
}

async function reopen(
  at: TestStore,
  meanwhile: (disk: string, away: string) => void = () => undefined,
): Promise<TestStore> {
  const next = await at.crash({
    loseMemory: true,
    meanwhile: (root) => meanwhile(join(root, 'disk'), join(root, 'away')),
  });
  onTestFinished(async () => await next.close());
  return next;
}

const moveAway = (disk: string, away: string): void => renameSync(disk, away);
const moveBack = (disk: string, away: string): void => {
  // An empty place to mount it.
  if (existsSync(disk)) renameSync(disk, `${disk}-empty`);
  renameSync(away, disk);
};

const refusal = (text: string): unknown =>
  expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(text) });

async function expectAllThere(at: TestStore): Promise<void> {
  expect(at.recovery).toMatchObject({ lostCopies: 0, lostBlobs: 0, orphanFiles: 0 });
  expect(await at.get('buf', 'a')).toEqual(bytes(30_000, 1));
  expect(await at.get('buf', 'b')).toEqual(bytes(30_000, 2));
}

test('a disk that is away at a start is no empty one: nothing is made there, and all of it is read when it is back', async () => {
  const at = await filled();
  const why = 'has no ebb-tier.json, and nothing is mounted there';
  await expect(reopen(at, moveAway)).rejects.toEqual(refusal(why));
  expect(readdirSync(join(at.root, 'disk'))).toEqual([]);
  await expect(reopen(at)).rejects.toEqual(refusal(`${join(at.root, 'disk')} ${why}`));
  await expectAllThere(await reopen(at, moveBack));
});

test('another disk of the same node, made while the first held nothing, is not taken for it later', async () => {
  const empty = await openTestStore();
  // The node starts where its disk is not mounted yet, and then with the disk.
  const made = await reopen(empty, (disk, away) => {
    renameSync(disk, away);
    mkdirSync(disk);
  });
  await made.store.createBucket('buf', buffered);
  await made.put('buf', 'a', bytes(30_000, 1), { ack: 'disk' });
  await made.put('buf', 'b', bytes(30_000, 2), { ack: 'disk' });
  const other = (disk: string, away: string): void => {
    renameSync(disk, `${disk}-real`);
    renameSync(away, disk);
  };
  const why = 'is another disk, by its ebb-tier.json';
  await expect(reopen(made, other)).rejects.toEqual(refusal(why));
  const real = (disk: string, away: string): void => {
    renameSync(disk, away);
    renameSync(`${disk}-real`, disk);
  };
  await expectAllThere(await reopen(made, real));
});

test('a node whose disk is gone for good goes on with an empty one when it is told so, once', async () => {
  const at = await filled();
  await expect(reopen(at, moveAway)).rejects.toEqual(refusal('make an empty file'));
  const told = (disk: string): void => writeFileSync(join(disk, 'ebb-disk-lost'), '');
  const next = await reopen(at, told);
  expect(next.recovery).toMatchObject({ lostCopies: 2, lostBlobs: 2, orphanFiles: 0 });
  await next.put('buf', 'c', bytes(30_000, 3), { ack: 'disk' });
  expect(existsSync(join(next.root, 'disk', 'ebb-disk-lost'))).toBe(false);
  const later = (disk: string): void => renameSync(disk, `${disk}-later`);
  await expect(reopen(next, later)).rejects.toEqual(refusal('has no ebb-tier.json'));
});

test('a disk and a catalog of an earlier version are taken as they are, and known from then on', async () => {
  const at = await filled();
  await at.catalog.deleteRecord('tiers', 'disk');
  const withoutId = (disk: string): void => {
    const { id: _, ...marker } = JSON.parse(readFileSync(join(disk, MARKER), 'utf8')) as {
      id: string;
    };
    writeFileSync(join(disk, MARKER), JSON.stringify(marker));
  };
  const next = await reopen(at, withoutId);
  await expectAllThere(next);
  await expect(reopen(next, withoutId)).rejects.toEqual(refusal('is another disk'));
});

test('a disk that held nothing which an object needs may be another one at the next start', async () => {
  const at = await filled();
  for (const key of ['a', 'b']) await at.store.delete({ bucket: 'buf', key }, {});
  const next = await reopen(at, moveAway);
  await next.put('buf', 'c', bytes(30_000, 3), { ack: 'disk' });
  expect(await next.get('buf', 'c')).toEqual(bytes(30_000, 3));
});

test('a disk that goes away while the node runs loses nothing: neither checks nor a clean-up give up a copy', async () => {
  const at = await openTestStore();
  onTestFinished(async () => await at.close());
  await at.store.createBucket('buf', buffered);
  await at.put('buf', 'a', bytes(30_000, 1), { ack: 'disk' });
  await at.put('buf', 'b', bytes(30_000, 2), { ack: 'disk' });
  const disk = join(at.root, 'disk');
  renameSync(disk, `${disk}-away`);
  mkdirSync(disk);
  expect(() => at.tiers.disk.adopt(1_000_000, 1)).toThrow(
    expect.objectContaining({ code: 'io_failed', message: expect.stringContaining(disk) }),
  );
  await at.store.verify({}).catch(() => undefined);
  await expect(at.tiers.disk.removeOrphans()).rejects.toMatchObject({ code: 'io_failed' });
  renameSync(disk, `${disk}-empty`);
  renameSync(`${disk}-away`, disk);
  expect(await at.tiers.disk.removeOrphans()).toEqual({ files: 0, bytes: 0 });
  expect((await at.store.verify({})).broken).toEqual([]);
});
