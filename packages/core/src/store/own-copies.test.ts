import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { StoreError } from '@ebb/protocol';
import { bytesOf, putFile, tempDir } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import type { Catalog } from '../catalog/catalog.ts';
import { openSqliteCatalog } from '../catalog/sqlite-catalog.ts';
import { CATALOG_FILE } from '../catalog/sqlite-file.ts';
import { crc32c } from '../checksum.ts';
import { createCutTier } from '../tier/cut-tier.ts';
import { openDirectoryTier } from '../tier/directory-tier.ts';
import type { RemoteTier } from '../tier/tier.ts';
import { isOwnPlaceKnown, noteOwnCopies } from './own-copies.ts';

const PLACE = '/mnt/tier2';

/** A catalog with these rows, as a node of an earlier version left it. */
async function catalogWith(rows: string): Promise<Catalog> {
  const directory = await tempDir();
  await (await openSqliteCatalog({ directory })).close();
  const database = new DatabaseSync(join(directory, CATALOG_FILE));
  database.exec(rows);
  database.close();
  const catalog = await openSqliteCatalog({ directory });
  onTestFinished(async () => await catalog.close());
  return catalog;
}

/** `count` blobs in a place of that prefix. */
function blobs(count: number, first: number, prefix: string): string {
  return `
    with recursive ids (id) as (select ${first} union all select id + 1 from ids where id < ${first + count - 1})
    insert into blobs (blob_id, size, refs, created_at, generation, remote_name, remote_offset, remote_etag, place)
    select id, 10, 1, 1, 1, '${prefix}lake/' || id, 0, 'e', 4 from ids;`;
}

function spooled(target: string, seen: string): string {
  return `
    insert into spool (target, bucket, key, version, size, since, seen)
    values ('${target}', 'lake', 'k', null, 0, 1, ${seen});`;
}

test.each([
  ['nothing', '', false],
  ['blobs in named places alone', blobs(20, 1, '|s3://b/p|') + blobs(20, 21, '|cold|'), false],
  [
    'one blob of its own behind 51,200 in a named place',
    blobs(51_200, 1, '|s3://b/p|') + blobs(1, 60_000, ''),
    true,
  ],
  ['a blob of its own whose bucket stands behind the bar', blobs(1, 1, '~'), true],
  ['a name that waits, and that was seen there', spooled('', `'e'`), true],
  ['a name that waits, and that was never there', spooled('', 'null'), false],
  ['a name that waits, and that was seen elsewhere', spooled('cold', `'e'`), false],
] as const)(
  'by its rows, a catalog with %s knows copies in its own tier 2, or none',
  async (_what, rows, isKnown) => {
    expect(await isOwnPlaceKnown(await catalogWith(rows), PLACE)).toBe(isKnown);
  },
);

test('a place is known from the first put on, also when that had no answer, and no other place is', async () => {
  const catalog = await catalogWith('');
  const file = join(await tempDir(), 'local');
  const bytes = bytesOf(100, 1);
  await writeFile(file, bytes);
  const facts = { sizeBytes: bytes.length, crc32c: crc32c(bytes) };
  const directory = await openDirectoryTier({ root: await tempDir() });
  onTestFinished(async () => await directory.close());
  const silent: RemoteTier = {
    ...createCutTier(directory).tier,
    put: () => Promise.reject(new Error('gone')),
  };
  const tier = noteOwnCopies(silent, catalog, PLACE);
  await tier.head('k/a');
  expect(await isOwnPlaceKnown(catalog, PLACE)).toBe(false);
  await expect(putFile(tier, 'k/a', file, facts)).rejects.toThrow('gone');
  expect(await isOwnPlaceKnown(catalog, PLACE)).toBe(true);
  expect(await isOwnPlaceKnown(catalog, '/mnt/other')).toBe(false);
});

test('a put goes on where the catalog has no room for the note, and a later one notes it', async () => {
  const catalog = await catalogWith('');
  let isFull = true;
  const facts: Parameters<typeof noteOwnCopies>[1] = {
    findRecord: (...args) => catalog.findRecord(...args),
    hasOwnCopies: () => catalog.hasOwnCopies(),
    putRecord: async (...args) => {
      if (isFull) throw new StoreError('tier_full', 'no room');
      await catalog.putRecord(...args);
    },
  };
  const file = join(await tempDir(), 'local');
  const bytes = bytesOf(100, 1);
  await writeFile(file, bytes);
  const content = { sizeBytes: bytes.length, crc32c: crc32c(bytes) };
  const directory = await openDirectoryTier({ root: await tempDir() });
  onTestFinished(async () => await directory.close());
  const tier = noteOwnCopies(directory, facts, PLACE);
  await putFile(tier, 'k/a', file, content);
  expect(await isOwnPlaceKnown(catalog, PLACE)).toBe(false);
  isFull = false;
  await putFile(tier, 'k/b', file, content);
  expect(await isOwnPlaceKnown(catalog, PLACE)).toBe(true);
});
