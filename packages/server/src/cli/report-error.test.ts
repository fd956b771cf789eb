import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tempDir } from '@ebb/testkit';
import { afterEach, expect, test, vi } from 'vitest';
import { EXIT } from './exit-codes.ts';
import { reportError } from './report-error.ts';

afterEach(() => vi.restoreAllMocks());

async function said(work: Promise<unknown>, json = false): Promise<{ code: number; text: string }> {
  let text = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((part) => {
    text += String(part);
    return true;
  });
  const error: unknown = await work.then(
    () => expect.unreachable(),
    (thrown: unknown) => thrown,
  );
  return { code: reportError(error, { json }), text };
}

test('a local file that cannot be used is named, with why and what to do', async () => {
  const dir = await tempDir();
  const missing = join(dir, 'missing');
  const { code, text } = await said(readFile(missing));
  expect(code).toBe(EXIT.notFound);
  expect(text).toBe(
    `ebb: ${missing}: there is no such file or directory here; check the path (ENOENT)\n`,
  );
  expect((await said(writeFile(dir, ''))).text).toContain(`${dir}: it is a directory`);
  expect(JSON.parse((await said(readFile(missing), true)).text)).toMatchObject({
    error: { code: 'ENOENT', message: expect.stringContaining(missing) as string },
  });
});
