import { ephemeral, openStoreInTest } from '@ebb/testkit';
import { expect, test } from 'vitest';

test('a page longer than what is listed in one turn has the names and the end of one that was not cut', async () => {
  const at = await openStoreInTest({ mem: ephemeral });
  const keys = Array.from(
    { length: 2_100 },
    (_, n) => `${String(n).padStart(4, '0')}${n % 3 === 0 ? '/a' : ''}`,
  );
  const empty = Buffer.alloc(0);
  for (let from = 0; from < keys.length; from += 100)
    await Promise.all(keys.slice(from, from + 100).map((key) => at.put('mem', key, empty)));
  for (const delimiter of ['', '/'])
    for (const limit of [999, 1000, 1001, 2000, 2099, 2100, 5000]) {
      const page = await at.store.list('mem', { prefix: '', delimiter, startAfter: '', limit });
      const named = page.objects.map(({ object }) => object.key);
      const rolledUp = delimiter === '' ? keys : keys.map((key) => key.replace(/\/a$/, '/'));
      const expected = rolledUp.slice(0, limit);
      expect([...named, ...page.prefixes].sort()).toEqual(expected);
      expect(page.next).toBe(limit < keys.length ? (expected.at(-1) as string) : null);
    }
}, 60_000);
