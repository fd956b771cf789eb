import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createS3Names } from './s3-names.ts';

const shared = createS3Names({ prefix: 'node/x', layout: 'bucket/key' });
const single = createS3Names({ prefix: 'p', layout: 'key', bucket: 'data' });
const anyBucket = createS3Names({ prefix: '', layout: 'key' });

test('a name is a key under the prefix, with its bucket or without', () => {
  expect(shared.findKey('b/k/l')).toBe('node/x/b/k/l');
  expect(single.findKey('data/k/l')).toBe('p/k/l');
  expect(anyBucket.findKey('data/k/l')).toBe('k/l');
});

test('names that lead elsewhere, or have no bucket or key, have no key', () => {
  for (const name of ['b', '/k', 'b/', 'b/../k', 'b/k/..', 'b/./k', '../k', 'b/\ud800', 'b/\0']) {
    expect([name, shared.findKey(name)]).toEqual([name, undefined]);
    expect(shared.accepts(name)).toBe(false);
  }
  expect(single.findKey('other/k')).toBeUndefined();
  expect(single.accepts('other/k')).toBe(false);
});

test('what some stores refuse is not accepted; what others stored so is read', () => {
  for (const name of ['b/a//c', 'b/a/', `b/${'x'.repeat(256)}`, 'b/a\nb']) {
    expect([name, shared.accepts(name)]).toEqual([name, false]);
    expect(shared.findKey(name)).toBe(`node/x/${name}`);
  }
  expect(shared.accepts(`b/${'x'.repeat(255)}`)).toBe(true);
});

test('a key has at most 1024 bytes with its prefix', () => {
  const key = (bytes: number): string => `b/${'s/'.repeat(bytes)}`.slice(0, bytes - 1) + 'e';
  const room = 1024 - 'node/x/'.length;
  expect(shared.accepts(key(room))).toBe(true);
  expect(shared.accepts(key(room + 1))).toBe(false);
});

test('a listing gives the names back whose keys it found, and no other', () => {
  const segment = fc.constantFrom('a', 'b', 'ab', 'data', '..', '', 'ü');
  const name = fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'));
  fc.assert(
    fc.property(name, name, (one, prefix) => {
      for (const names of [shared, single]) {
        const key = names.findKey(one);
        const listing = names.findListing(prefix);
        if (key === undefined) continue;
        const isWanted = one.startsWith(prefix);
        if (isWanted) expect(listing).toBeDefined();
        const isListed = listing !== undefined && key.startsWith(listing.keyPrefix);
        expect(isListed ? listing.findName(key) : undefined).toBe(isWanted ? one : undefined);
      }
    }),
  );
});

test('without its bucket a tier of keys alone lists by bucket', () => {
  expect(anyBucket.findListing('data/a')?.findName('a/b')).toBe('data/a/b');
  expect(() => anyBucket.findListing('data')).toThrow('lists by bucket only');
  expect(single.findListing('')?.findName('p/k')).toBe('data/k');
  expect(single.findListing('other/')).toBeUndefined();
  expect(single.findListing('other')).toBeUndefined();
});
