/** docs/files.md names the test behind each of its promises: there is such a test. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const REPO = join(import.meta.dirname, '../../../..');
const TESTS = [
  'packages/core/src/files/files.test.ts',
  'packages/client/e2e/files.test.ts',
  'packages/server/src/http/files/file-routes.test.ts',
  'packages/server/e2e/c-client.test.ts',
];

test('every promise of docs/files.md has the test that it names', () => {
  const page = readFileSync(join(REPO, 'docs/files.md'), 'utf8');
  const sources = TESTS.map((file) => readFileSync(join(REPO, file), 'utf8')).join('\n');
  const rows = [...page.matchAll(/^\| .*\| (`([^`]+)`)? ?\|$/gm)].filter(
    ([row]) => !row.includes('clients/c'),
  );
  const named = rows.flatMap(([, , title]) => title ?? []);
  expect(named.length).toBeGreaterThan(18);
  expect(named.filter((title) => !sources.includes(`'${title}'`))).toEqual([]);
});
