import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StoreError } from '@ebb/protocol';
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

test('the hint fits the failure', async () => {
  const fail = async (...args: ConstructorParameters<typeof StoreError>): Promise<string> =>
    (await said(Promise.reject(new StoreError(...args)))).text;
  expect(await fail('bucket_not_found', 'no bucket "x"')).toContain('`ebb buckets` lists');
  expect(await fail('node_unreachable', 'nobody')).toContain('Is it running?');
  const denied = 'not allowed to use the socket of the node: be a member of its group';
  expect(await fail('node_unreachable', denied)).toBe(`ebb: ${denied} (node_unreachable)\n`);
  const paused = 'has not answered for 10 s; is it paused, or its machine?';
  expect(await fail('node_unreachable', paused, { silentMs: 10_000 })).not.toContain('Start one');
});

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
