import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { override, remoteTierConformance, tempDir } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import { openDirectoryTier } from './directory-tier.ts';
import { createRoutedTier } from './routed-tier.ts';
import type { RemoteSource, RemoteTier } from './tier.ts';

remoteTierConformance('a routed tier: names without a target', {
  open: async () => (await setUp()).routed,
});

interface SetUp {
  readonly routed: RemoteTier;
  readonly root: string;
  /** Targets in the order in which they were opened. */
  readonly opened: string[];
  readonly source: (text: string) => Promise<RemoteSource>;
}

async function setUp(
  open: (root: string) => Promise<RemoteTier> = (root) => openDirectoryTier({ root }),
): Promise<SetUp> {
  const root = await tempDir();
  const opened: string[] = [];
  const routed = createRoutedTier({
    fallback: await openDirectoryTier({ root: join(root, 'fallback') }),
    open: async (target) => {
      opened.push(target);
      return await open(join(root, target.replaceAll(/\W/g, '_')));
    },
  });
  onTestFinished(async () => await routed.close().catch(() => undefined));
  const source = async (text: string): Promise<RemoteSource> => {
    const file = join(root, `local-${text}`);
    await writeFile(file, text);
    return { file, offset: 0, length: text.length, crc32c: null };
  };
  return { routed, root, opened, source };
}

const S3 = '|s3://one/p?region=x|';

test('a name with a target lies in that target alone, under the rest of the name', async () => {
  const { routed, root, source } = await setUp();
  await routed.put('b/k', [await source('fallback')]);
  await routed.put(`${S3}b/k`, [await source('one')]);
  await routed.put('|two|b/k', [await source('two')]);
  expect(await readFile(join(root, 'fallback/b/k'), 'utf8')).toBe('fallback');
  expect(await readFile(join(root, 's3___one_p_region_x/b/k'), 'utf8')).toBe('one');
  for (const [name, text] of [
    ['b/k', 'fallback'],
    [`${S3}b/k`, 'one'],
    ['|two|b/k', 'two'],
  ] as const) {
    const target = Buffer.alloc(text.length);
    await routed.read(name, target, 0);
    expect(target.toString()).toBe(text);
    const { file } = await source('');
    await routed.fetch(name, file, { offset: 0, length: text.length, crc32c: null });
    expect(await readFile(file, 'utf8')).toBe(text);
  }
  await routed.delete('|two|b/k');
  expect(await routed.head('|two|b/k')).toBeUndefined();
  expect((await routed.head(`${S3}b/k`))?.sizeBytes).toBe(3);
  const copy = await routed.copy(`${S3}b/k`, `${S3}b/copy`, { offset: 0, length: 2 });
  expect(copy.sizeBytes).toBe(2);
  const across = routed.copy(`${S3}b/k`, 'b/copy', { offset: 0, length: 2 });
  await expect(across).rejects.toMatchObject({ code: 'unsupported' });
});

test('a listing with a target has the names of that target, with it; one without has the fallback’s', async () => {
  const { routed, source } = await setUp();
  await routed.put('b/k', [await source('x')]);
  await routed.put(`${S3}b/l`, [await source('y')]);
  const names = async (prefix: string): Promise<string[]> =>
    (await Array.fromAsync(routed.list(prefix))).map(({ name }) => name);
  expect(await names('')).toEqual(['b/k']);
  expect(await names(`${S3}b/`)).toEqual([`${S3}b/l`]);
  expect(await names(S3)).toEqual([`${S3}b/l`]);
});

test('a target is opened with its first name, once', async () => {
  const { routed, opened, source } = await setUp();
  await routed.put('b/k', [await source('x')]);
  expect(opened).toEqual([]);
  const one = await source('y');
  await Promise.all([1, 2, 3].map(async (n) => await routed.put(`|one|b/${n}`, [one])));
  await routed.head('|two|b/k');
  expect(opened).toEqual(['one', 'two']);
});

test('a target that cannot be opened fails its call, and is tried again with the next', async () => {
  let isDown = true;
  const { routed, source } = await setUp(async (root) => {
    if (isDown) throw new Error('down');
    return await openDirectoryTier({ root });
  });
  const one = await source('y');
  await expect(routed.put('|one|b/k', [one])).rejects.toThrow('down');
  isDown = false;
  expect((await routed.put('|one|b/k', [one])).sizeBytes).toBe(1);
});

test('names are accepted as the target accepts them, as far as it is known', async () => {
  const { routed, source } = await setUp();
  expect(routed.accepts('|one|b/k')).toBe(true);
  expect(routed.accepts('|one|b')).toBe(false);
  await routed.put('|one|b/k', [await source('x')]);
  expect(routed.accepts(`|one|b/${'x'.repeat(300)}`)).toBe(false);
  expect(routed.accepts('|two|b/k/l')).toBe(true);
  expect(routed.accepts('b/k/l')).toBe(true);
});

test('closing closes every tier, also when one fails; no target is opened after', async () => {
  const closed: string[] = [];
  const { routed } = await setUp(async (root) => {
    const tier = await openDirectoryTier({ root });
    return Object.assign(Object.create(tier) as RemoteTier, {
      head: () => Promise.resolve(undefined),
      close: async () => {
        closed.push(root.slice(-3));
        await tier.close();
        if (root.endsWith('one')) throw new Error('stuck');
      },
    });
  });
  await routed.head('|one|b/k');
  await routed.head('|two|b/k');
  await expect(routed.close()).rejects.toThrow('stuck');
  expect(closed.sort()).toEqual(['one', 'two']);
  await expect(routed.head('|new|b/k')).rejects.toMatchObject({ code: 'draining' });
});

test('a URL is of the tier that has the name, under the rest of it; a directory has none', async () => {
  const asked: unknown[] = [];
  const { routed } = await setUp(async (root) =>
    override(await openDirectoryTier({ root }), {
      presign: async (name, { seconds }) => {
        asked.push([name, seconds]);
        return await Promise.resolve(`https://store/${name}`);
      },
    }),
  );
  expect(await routed.presign('b/k', { seconds: 5 })).toBeUndefined();
  expect(await routed.presign(`${S3}b/k`, { seconds: 5 })).toBe('https://store/b/k');
  expect(asked).toEqual([['b/k', 5]]);
});
