/** docs/testing.md against the tests: a promise on that page without its test would be worth nothing. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '../../../..');
/** A fault, the title of its test, the file; and, for faults that were looked for elsewhere too, where. */
const ROW =
  /^\|[^|]*\| (?<title>[^|]+) \| `(?<file>(?:packages|clients|scripts)\/[^`]+)` \|(?:[^|]*\|)?$/;

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

test('every file that the rules of CONTRIBUTING.md name is there', () => {
  const page = readFileSync(join(ROOT, 'CONTRIBUTING.md'), 'utf8');
  const rules = /^## Rules that a change must keep$(?<rules>.*?)^## /ms.exec(page)?.groups?.[
    'rules'
  ];
  const rows = (rules ?? '').split('\n').filter((line) => /^\| [A-Z]/.test(line));
  expect(rows.length).toBeGreaterThan(10);
  const named = rows.flatMap((row) =>
    [...row.matchAll(/`([^`]+\.(?:ts|py|java))`/g)].map(([, file = '']) => file),
  );
  const all = globSync(['packages/**/*.ts', 'clients/**/*.{py,java}'], {
    cwd: ROOT,
    exclude: (name) => name.includes('node_modules') || name.includes('dist'),
  });
  expect(named.filter((file) => !all.some((path) => `/${path}`.endsWith(`/${file}`)))).toEqual([]);
});

/**
 * TypeScript: the string right behind `test(` or `it(`, or behind the table of `test.each(…)(`. Python: the words of a function
 * `test_…`. Java: the words of a test method's name (`aLateCommit` is "a late commit").
 */
function titlesIn(file: string): string[] {
  const source = readFileSync(join(ROOT, file), 'utf8');
  if (file.endsWith('.py'))
    return [...source.matchAll(/def test_(\w+)/g)].map(([, name = '']) =>
      name.replaceAll('_', ' '),
    );
  if (file.endsWith('.java'))
    return [...source.matchAll(/@(?:Test|ParameterizedTest)\b[^{]*?\bvoid (\w+)\(/gs)].map(
      ([, name = '']) => name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`),
    );
  const found = source.matchAll(
    /(?:\b(?:test|it)\(|^\s*\)\(|\](?: as const)?\)\(|\beach\(\w+\)\()\s*(['`"])(?<title>.*?)\1\s*,/gms,
  );
  return [...found].map(({ groups }) => (groups?.['title'] ?? '').replaceAll('\\`', '`'));
}
