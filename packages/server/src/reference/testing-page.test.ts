/** docs/testing.md against the tests: a promise on that page without its test would be worth nothing. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '../../../..');
const ROW = /^\|[^|]*\| (?<title>[^|]+) \| `(?<file>packages\/[^`]+)` \|$/;

test('every title in docs/testing.md is, or begins or ends, the title of a test in its file', () => {
  const rows = readFileSync(join(ROOT, 'docs/testing.md'), 'utf8')
    .split('\n')
    .flatMap((line) => {
      const { title, file } = ROW.exec(line)?.groups ?? {};
      return title === undefined || file === undefined ? [] : [{ title, file }];
    });
  expect(rows.length).toBeGreaterThan(40);
  const missing = rows.filter(({ title, file }) => !titlesIn(file).some((t) => t.includes(title)));
  expect(missing).toEqual([]);
});

/** The string right behind `test(`, or behind the table of `test.each(…)(`. */
function titlesIn(file: string): string[] {
  const source = readFileSync(join(ROOT, file), 'utf8');
  const found = source.matchAll(/(?:\btest\(|^\s*\)\(|\]\)\()\s*(['`"])(?<title>.*?)\1\s*,/gms);
  return [...found].map(({ groups }) => (groups?.['title'] ?? '').replaceAll('\\`', '`'));
}
