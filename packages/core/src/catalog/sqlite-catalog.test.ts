import { spawn, spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { text } from 'node:stream/consumers';
import { isStoreError } from '@ebb/protocol';
import { catalogConformance, catalogEventsConformance, tempDir } from '@ebb/testkit';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import type { BucketPolicy, Catalog, ObjectCommit } from './catalog.ts';
import { decodeObjectBody } from './catalog-records.ts';
import { openSqliteCatalog } from './sqlite-catalog.ts';

const POLICY: BucketPolicy = {
  preset: 'ephemeral',
  ack: 'memory',
  mirror: false,
  ttlMs: null,
  quotaBytes: null,
  remote: null,
  revalidateMs: null,
  versioning: 'off',
};

const roots: string[] = [];
const directories = new WeakMap<Catalog, string>();
const newRoot = async (): Promise<string> => {
  const root = await mkdtemp(join(tmpdir(), 'ebb-catalog-'));
  roots.push(root);
  return root;
};
afterAll(async () => {
  for (const root of roots) await rm(root, { recursive: true, force: true });
});
const open = async (
  directory: string,
  options: { readonly eventsMax?: number } = {},
): Promise<Catalog> => {
  const catalog = await openSqliteCatalog({ directory, ...options });
  directories.set(catalog, directory);
  return catalog;
};

const reopenClosed = async (catalog: Catalog): Promise<Catalog> => {
  await catalog.close();
  return await open(directories.get(catalog) as string);
};
/** A copy of the files of an open catalog is what a killed process leaves. */
const reopenCrashed = async (catalog: Catalog): Promise<Catalog> => {
  const copy = await newRoot();
  const result = spawnSync('cp', ['-r', `${directories.get(catalog)}/.`, copy]);
  expect(result.status).toBe(0);
  await catalog.close();
  return await open(copy);
};

for (const [name, reopen] of [
  ['sqlite', reopenClosed],
  ['sqlite, after a crash', reopenCrashed],
] as const) {
  catalogConformance(name, { open: async () => await open(await newRoot()), reopen });
  catalogEventsConformance(name, {
    open: async (options) => await open(await newRoot(), options),
    reopen,
  });
}

describe('sqlite catalog', () => {
  test('every acknowledged commit is there after kill -9 in the middle of commits', async () => {
    const directory = await tempDir();
    // Commits until it is killed, 8 at a time, and prints a key only after its commit resolved.
    const child = runChild(
      directory,
      `
      await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: ${JSON.stringify(POLICY)} });
      const worker = async (name) => {
        for (let i = 0; ; i++) {
          const id = await catalog.nextIds(2);
          const key = name + '/' + i;
          await catalog.commitObject({
            object: { bucket: 'bucket', key, version: id + 1, sizeBytes: 5, etag: 'e', crc32c: 1, contentType: 'x', metadata: {}, attributes: {},
              createdAtMs: 1, jobId: 'job', pinned: false, extents: [{ blobId: id, offset: 0, length: 5 }] },
            newBlobs: [{ blobId: id, sizeBytes: 5, crc32c: 1, createdAtMs: 1, memoryBytes: 8, diskBytes: null, remoteName: null }],
            condition: {},
          });
          fs.writeSync(1, key + ' ' + id + '\\n');
        }
      };
      await Promise.all(Array.from({ length: 8 }, (_, i) => worker('w' + i)));
      `,
    );
    let printed = '';
    for await (const chunk of child.stdout.setEncoding('utf8')) {
      printed += chunk;
      // Far enough for a checkpoint or two to have run (at 8 MiB of log).
      if (printed.length > 400_000 && !child.killed) child.kill('SIGKILL');
    }
    const lines = printed.slice(0, printed.lastIndexOf('\n')).split('\n');
    expect(lines.length).toBeGreaterThan(10_000);

    const catalog = await openSqliteCatalog({ directory });
    onTestFinished(async () => await catalog.close());
    let highest = 0;
    for (const line of lines) {
      const [key, id] = line.split(' ') as [string, string];
      highest = Math.max(highest, Number(id) + 1);
      const found = await catalog.findObject('bucket', key);
      expect(found?.extents[0]?.blobId, key).toBe(Number(id));
    }
    expect(await catalog.nextIds(1)).toBeGreaterThan(highest);
    const { objects } = await catalog.bucketTotals('bucket');
    expect(objects).toBeGreaterThanOrEqual(lines.length);
    expect(objects).toBeLessThanOrEqual(lines.length + 8);
    expect(await catalog.jobTotals('job')).toEqual({ objects, sizeBytes: objects * 5 });
    expect(await catalog.totals()).toMatchObject({
      objects,
      blobs: objects,
      bytes: { 0: objects * 8 },
    });
  });

  test('a second process, and a second opener in this one, are refused at once and harm nothing', async () => {
    const directory = await tempDir();
    const catalog = await openSqliteCatalog({ directory });
    onTestFinished(async () => await catalog.close());
    await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: POLICY });
    const outcomes = async (): Promise<void> => {
      const child = runChild(directory, `console.log('opened')`);
      expect(await outputOf(child)).toBe('refused data_directory_in_use\n');
    };
    await outcomes();
    const begun = performance.now();
    const error = await openSqliteCatalog({ directory }).catch((caught: unknown) => caught);
    expect(isStoreError(error, 'data_directory_in_use')).toBe(true);
    expect(performance.now() - begun).toBeLessThan(1000);
    // The refused opener in this process must not have dropped the lock (POSIX locks go with any descriptor).
    await outcomes();
    await commit(catalog, 'still-works');
    expect(await catalog.findObject('bucket', 'still-works')).toBeDefined();
  });

  test('after close another process may open', async () => {
    const directory = await tempDir();
    const catalog = await openSqliteCatalog({ directory });
    const nodeId = await catalog.nodeId();
    await catalog.close();
    const child = runChild(directory, `console.log('node ' + (await catalog.nodeId()))`);
    expect(await outputOf(child)).toBe(`node ${nodeId}
`);
    expect(await readdir(directory)).toContain('catalog.sqlite');
  });

  test('a file of a later format, and one that is no database, are refused by name', async () => {
    const directory = await tempDir();
    await (await openSqliteCatalog({ directory })).close();
    const database = new DatabaseSync(join(directory, 'catalog.sqlite'));
    database.exec('pragma user_version=99');
    database.close();
    const later = await openSqliteCatalog({ directory }).catch((caught: unknown) => caught);
    expect(isStoreError(later, 'version_unsupported')).toBe(true);
    const other = await tempDir();
    spawnSync('dd', ['if=/dev/urandom', `of=${join(other, 'catalog.sqlite')}`, 'bs=4k', 'count=4']);
    const damaged = await openSqliteCatalog({ directory: other }).catch(
      (caught: unknown) => caught,
    );
    expect(isStoreError(damaged, 'data_corrupt')).toBe(true);
  });

  test('a file from before blobs could be encrypted is opened, and takes encrypted ones', async () => {
    const directory = await tempDir();
    await (await openSqliteCatalog({ directory })).close();
    const database = new DatabaseSync(join(directory, 'catalog.sqlite'));
    database.exec('alter table blobs drop column seal_id');
    database.close();
    for (const sealId of ['aa'.repeat(16), undefined]) {
      const catalog = await openSqliteCatalog({ directory });
      if (sealId !== undefined) {
        const policy = { ...POLICY, encrypted: true };
        await catalog.createBucket({ name: 'enc', createdAtMs: 1, policy });
        const blob = { blobId: 7, sizeBytes: 10, crc32c: 1, createdAtMs: 1, sealId };
        const places = { memoryBytes: null, diskBytes: 4096, remote: null };
        await catalog.commitObject({
          object: {
            ...{ bucket: 'enc', key: 'k', version: 8, sizeBytes: 10, etag: 'e', crc32c: 1 },
            ...{ contentType: 'x/y', metadata: {}, attributes: {}, createdAtMs: 1, jobId: null },
            ...{ pinned: false, remoteEtag: null },
            extents: [{ blobId: 7, offset: 0, length: 10 }],
          },
          newBlobs: [{ ...blob, ...places }],
          condition: {},
        });
      }
      expect((await catalog.findBlob(7))?.sealId).toBe('aa'.repeat(16));
      await catalog.close();
    }
  });

  test('a file from before private copies were noted is opened, and notes them', async () => {
    const directory = await tempDir();
    await (await openSqliteCatalog({ directory })).close();
    const database = new DatabaseSync(join(directory, 'catalog.sqlite'));
    database.exec('drop table private_copies');
    database.close();
    for (let start = 0; start < 2; start++) {
      const catalog = await openSqliteCatalog({ directory });
      if (start === 0) await catalog.notePrivateCopy('b/.ebb/1');
      expect(await catalog.hasPrivateCopy('b/.ebb/1')).toBe(true);
      await catalog.close();
    }
  });

  test('20,000 keys are listed in order, each once, in pages and by common prefix', async () => {
    const catalog = await openSqliteCatalog({ directory: await tempDir() });
    onTestFinished(async () => await catalog.close());
    await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: POLICY });
    const names = Array.from({ length: 20 }, (_, i) => `dir-${String(i).padStart(2, '0')}/`);
    await Promise.all(
      names.flatMap((name) =>
        Array.from({ length: 1000 }, (_, i) => commit(catalog, `${name}${i}`)),
      ),
    );
    const options = { prefix: '', startAfter: '', limit: 1000 };
    const page = await catalog.listObjects('bucket', { ...options, delimiter: '/' });
    expect(page).toEqual({ objects: [], prefixes: names, next: null });
    const seen: string[] = [];
    for (let startAfter: string | null = ''; startAfter !== null; ) {
      const keys = await catalog.listObjects('bucket', { ...options, startAfter, delimiter: '' });
      seen.push(...keys.objects.map((object) => object.key));
      startAfter = keys.next;
    }
    expect(seen).toHaveLength(20_000);
    expect(seen).toEqual(seen.toSorted());
  });

  describe('ids of events', () => {
    const LOGGED: BucketPolicy = { ...POLICY, events: true };

    test('one that was shown is not given again, even if a power cut took its change back', async () => {
      const directory = await newRoot();
      const catalog = await open(directory);
      onTestFinished(async () => await catalog.close());
      await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: LOGGED });
      await catalog.durable();
      // What the disk has for certain: no sync was asked for after this.
      const afterCut = await newRoot();
      expect(spawnSync('cp', ['-r', `${directory}/.`, afterCut]).status).toBe(0);
      for (const key of ['a', 'b', 'c']) await commit(catalog, key);
      const { events } = await catalog.listEvents({ afterEventId: 0, limit: 10 });
      expect(events).toHaveLength(3);

      const next = await open(afterCut);
      onTestFinished(async () => await next.close());
      await commit(next, 'd');
      const shown = events.at(-1)?.eventId as number;
      const after = await next.listEvents({ afterEventId: shown, limit: 10 });
      expect(after.events.map(({ key }) => key)).toEqual(['d']);
    });

    test('they go on beyond a block that was reserved, without a gap', async () => {
      const catalog = await open(await newRoot());
      onTestFinished(async () => await catalog.close());
      await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: LOGGED });
      for (let i = 0; i < 1000; i += 100)
        await Promise.all(Array.from({ length: 100 }, (_, j) => commit(catalog, `0/${i + j}`)));
      // 2,000 events each; a block has 65,536 ids.
      for (let i = 0; i < 40; i++)
        await catalog.renamePrefix(
          { bucket: 'bucket', prefix: `${i}/` },
          { bucket: 'bucket', prefix: `${i + 1}/` },
          { overwrite: false },
        );
      const last = await catalog.lastEventId();
      expect(last).toBe(81_000);
      const page = await catalog.listEvents({ afterEventId: last - 20_000, limit: 30_000 });
      expect(page.events).toHaveLength(20_000);
      expect(page.throughEventId).toBe(last);
    });
  });

  test.each(['off', 'enabled', 'suspended'] as const)(
    'references, holders, places and saved totals equal a recount of the tables, with versions %s',
    async (versioning) => {
      const directory = await tempDir();
      const catalog = await openSqliteCatalog({ directory });
      await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: POLICY });
      await catalog.createBucket({ name: 'other', createdAtMs: 1, policy: POLICY });
      const keyOf = (i: number): string => `p${i % 3}/${i % 41}`;
      for (let i = 0; i < 400; i++) {
        if (i === 200) await catalog.setBucketPolicy('bucket', { ...POLICY, versioning });
        const from = { bucket: 'bucket', key: keyOf(i * 7) };
        const stamp = { version: await catalog.nextIds(1), createdAtMs: 1 };
        const prefix = `p${i % 3}/`;
        const work =
          i % 20 === 19
            ? catalog.copyPrefix(
                { bucket: i % 40 === 19 ? 'bucket' : 'other', prefix },
                { bucket: i % 40 === 19 ? 'other' : 'bucket', prefix },
                { overwrite: true, exact: i % 60 === 19 },
                stamp,
              )
            : i % 5 === 0
              ? catalog.deleteObject('bucket', from.key, {}, stamp)
              : i % 5 === 1
                ? catalog.copyObject(
                    from,
                    {
                      bucket: 'other',
                      key: keyOf(i),
                      version: await catalog.nextIds(1),
                      createdAtMs: 1,
                    },
                    {},
                  )
                : i % 5 === 2
                  ? catalog.renameObject(from, { bucket: 'bucket', key: keyOf(i) }, {}, stamp)
                  : commit(catalog, keyOf(i), { jobId: i % 2 === 0 ? 'job' : null });
        await work.catch((error: unknown) => expect(isStoreError(error, 'not_found')).toBe(true));
      }
      const totals = await catalog.totals();
      const job = await catalog.jobTotals('job');
      await catalog.close();

      const database = new DatabaseSync(join(directory, 'catalog.sqlite'));
      const uses = new Map<number, { refs: number; names: Set<string> }>();
      const objects = database.prepare('select bucket, key, size, job, body from objects').all();
      for (const row of objects) {
        for (const { blobId } of decodeObjectBody(row['body'] as Uint8Array).extents) {
          const use = uses.get(blobId) ?? { refs: 0, names: new Set() };
          use.refs++;
          use.names.add(`${row['bucket']}/${row['key']}`);
          uses.set(blobId, use);
        }
      }
      const links = database.prepare('select bucket, key from blob_links where blob_id = ?');
      const blobs = database.prepare('select * from blobs').all();
      for (const row of blobs) {
        const use = uses.get(row['blob_id'] as number) ?? { refs: 0, names: new Set() };
        expect(row['refs']).toBe(use.refs);
        expect(row['place']).toBe(1 | (use.refs === 0 ? 8 : 0));
        const names = links
          .all(row['blob_id'] as number)
          .map((link) => `${link['bucket']}/${link['key']}`);
        if (row['bucket'] !== null) names.push(`${row['bucket']}/${row['key']}`);
        expect(names.sort()).toEqual([...use.names].sort());
      }
      expect(uses.size).toBeGreaterThan(20);
      expect(totals).toMatchObject({ objects: objects.length, blobs: blobs.length });
      const ofJob = objects.filter((row) => row['job'] === 'job');
      expect(job.objects).toBe(ofJob.length);
      expect(database.prepare('pragma integrity_check').get()).toEqual({ integrity_check: 'ok' });
      database.close();

      const saved = await openSqliteCatalog({ directory });
      expect(await saved.totals()).toEqual(totals);
      expect(await saved.jobTotals('job')).toEqual(job);
      await saved.close();
    },
  );

  test('an error in the middle of a group undoes the whole group, and the catalog goes on', async () => {
    const directory = await tempDir();
    const catalog = await openSqliteCatalog({ directory });
    onTestFinished(async () => await catalog.close());
    await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: POLICY });
    await commit(catalog, 'before');
    const totals = await catalog.totals();
    const first = await catalog.nextIds(4);
    // SQLite takes NaN for null, which no codec looks for and the table refuses: after the blob's row was written.
    const broken: ObjectCommit = commitOf('broken', first, {
      object: { createdAtMs: Number.NaN },
    });
    const results = await Promise.allSettled([
      catalog.createBucket({ name: 'phantom', createdAtMs: 1, policy: POLICY }),
      catalog.commitObject(commitOf('innocent', first + 2)),
      catalog.commitObject(broken),
      commit(catalog, 'innocent-2'),
      catalog.findObject('bucket', 'innocent'),
    ]);
    expect(results.slice(0, 3).map((result) => result.status)).toEqual(Array(3).fill('rejected'));
    const seen = results[4] as PromiseFulfilledResult<unknown>;
    expect(seen.value).toEqual(await catalog.findObject('bucket', 'innocent'));
    expect(await catalog.findBucket('phantom')).toBeUndefined();
    expect(await catalog.findObject('bucket', 'innocent')).toBeUndefined();
    await catalog.deleteObject('bucket', 'innocent-2', {});
    for (const blob of await catalog.listBlobs({ afterBlobId: 0, limit: 9, where: 'freed' })) {
      await catalog.dropBlob(blob.blobId);
    }
    expect(await catalog.totals()).toEqual(totals);
    await commit(catalog, 'after');
    expect(await catalog.bucketTotals('bucket')).toMatchObject({ objects: 2 });
  });

  test('a group that was undone leaves an emptied bucket its count, and its protection', async () => {
    const catalog = await openSqliteCatalog({ directory: await tempDir() });
    onTestFinished(async () => await catalog.close());
    for (const name of ['bucket', 'other']) {
      await catalog.createBucket({ name, createdAtMs: 1, policy: POLICY });
    }
    await commit(catalog, 'a');
    const broken = commitOf('broken', await catalog.nextIds(2), {
      object: { bucket: 'other', createdAtMs: Number.NaN, jobId: 'job' },
    });
    const results = await Promise.allSettled([
      catalog.deleteObject('bucket', 'a', {}),
      catalog.deleteBucket('bucket'),
      catalog.commitObject(broken),
    ]);
    expect(results.map((result) => result.status)).toEqual(Array(3).fill('rejected'));
    expect(await catalog.bucketTotals('bucket')).toEqual({ objects: 1, sizeBytes: 3 });
    const refused = await catalog.deleteBucket('bucket').catch((caught: unknown) => caught);
    expect(isStoreError(refused, 'bucket_not_empty')).toBe(true);
    expect(await catalog.jobTotals('job')).toEqual({ objects: 0, sizeBytes: 0 });
    await catalog.deleteObject('bucket', 'a', {});
    await catalog.deleteBucket('bucket');
    expect(await catalog.totals()).toMatchObject({ buckets: 1, objects: 0 });
  });

  test('checkpoints run under load, and lose nothing', async () => {
    const directory = await tempDir();
    const catalog = await openSqliteCatalog({ directory });
    onTestFinished(async () => await catalog.close());
    await catalog.createBucket({ name: 'bucket', createdAtMs: 1, policy: POLICY });
    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < 12_000) {
        const i = next++;
        await commit(catalog, `${(i * 7919) % 12_007}`);
        if (i % 500 === 0) await catalog.durable();
      }
    };
    await Promise.all(Array.from({ length: 4 }, worker));
    expect(await catalog.bucketTotals('bucket')).toMatchObject({ objects: 12_000 });
    for (let i = 0; i < 12_000; i += 97) {
      expect(await catalog.findObject('bucket', `${(i * 7919) % 12_007}`)).toBeDefined();
    }
    // Only a checkpoint writes to the database file while the catalog is open.
    expect((await stat(join(directory, 'catalog.sqlite'))).size).toBeGreaterThan(1024 * 1024);
  });
});

function commitOf(
  key: string,
  id: number,
  fields: { object?: Partial<ObjectCommit['object']> } = {},
): ObjectCommit {
  return {
    object: {
      bucket: 'bucket',
      key,
      version: id + 1,
      sizeBytes: 3,
      etag: `e-${id}`,
      crc32c: 1,
      contentType: 'text/plain',
      metadata: {},
      attributes: {},
      createdAtMs: 1,
      jobId: null,
      pinned: false,
      extents: [{ blobId: id, offset: 0, length: 3 }],
      remoteEtag: null,
      ...fields.object,
    },
    newBlobs: [
      {
        blobId: id,
        sizeBytes: 3,
        crc32c: 1,
        createdAtMs: 1,
        memoryBytes: 4096,
        diskBytes: null,
        remote: null,
      },
    ],
    condition: {},
  };
}

async function commit(
  catalog: Catalog,
  key: string,
  object: Partial<ObjectCommit['object']> = {},
): Promise<void> {
  await catalog.commitObject(commitOf(key, await catalog.nextIds(2), { object }));
}

async function outputOf(child: ReturnType<typeof runChild>): Promise<string> {
  return await text(child.stdout);
}

/** Opens the catalog in another process and runs `body`; prints `refused <code>` when it cannot be opened. */
function runChild(directory: string, body: string) {
  const module = new URL('./sqlite-catalog.ts', import.meta.url).href;
  const script = `
    import fs from 'node:fs';
    const { openSqliteCatalog } = await import(${JSON.stringify(module)});
    const catalog = await openSqliteCatalog({ directory: ${JSON.stringify(directory)} }).catch((error) => {
      console.log('refused ' + error.code);
      process.exit(0);
    });
    ${body}
  `;
  const flags = ['--conditions=source', '--input-type=module', '--no-warnings', '-e', script];
  return spawn(process.execPath, flags, { stdio: ['ignore', 'pipe', 'inherit'] });
}
