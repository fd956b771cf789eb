import { createPrivateKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createTestCa, tempDir } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { readTlsIdentity, type TlsFiles, type TlsIdentity } from './identity.ts';

function read(
  files: Partial<TlsFiles> & Pick<TlsFiles, 'certFile' | 'keyFile'>,
  nowMs = Date.now(),
): { readonly identity: TlsIdentity | undefined; readonly complaints: string[] } {
  const complaints: string[] = [];
  const host = { readFile: (path: string) => readFileSync(path, 'utf8'), nowMs };
  const identity = readTlsIdentity({ clientCaFile: null, ...files }, host, (setting, _file, rule) =>
    complaints.push(`${setting} ${rule}`),
  );
  return { identity, complaints };
}

test('a certificate with its key is taken, with the CA of clients where one is named; no TLS older than 1.2', async () => {
  const ca = await createTestCa(await tempDir());
  const issued = await ca.issue('node', { days: 60 });
  const { identity, complaints } = read({ ...issued, clientCaFile: ca.certFile });
  expect(complaints).toEqual([]);
  expect(identity).toMatchObject({ subject: 'CN=node', asksClients: true, warnings: [] });
  expect(identity?.context.minVersion).toBe('TLSv1.2');
});

test('each file that is missing, holds nothing of use or does not fit is named with what is wrong; the key is not repeated', async () => {
  const dir = await tempDir();
  const ca = await createTestCa(dir);
  const [one, other] = [await ca.issue('one'), await ca.issue('other')];
  const [missing, text] = [join(dir, 'missing'), join(dir, 'text')];
  await writeFile(text, 'no PEM: very-secret');
  expect(read({ certFile: missing, keyFile: missing }).complaints).toEqual([
    'tlsCert cannot be read (ENOENT)',
    'tlsKey cannot be read (ENOENT)',
  ]);
  expect(read({ certFile: text, keyFile: text, clientCaFile: text }).complaints).toEqual([
    'tlsCert holds no certificate as PEM',
    'tlsKey holds no private key as PEM',
    'tlsClientCa holds no certificate as PEM',
  ]);
  const mixed = read({ certFile: one.certFile, keyFile: other.keyFile });
  expect(mixed.identity).toBeUndefined();
  expect(mixed.complaints).toEqual([
    `tlsKey is not the key of the first certificate in ${one.certFile}`,
  ]);
  // A certificate in the key's place is no key.
  expect(read({ certFile: one.certFile, keyFile: one.certFile }).complaints).toEqual([
    'tlsKey holds no private key as PEM',
  ]);
});

test('an expired certificate, one that is not valid yet and one that ends soon are used, with a warning', async () => {
  const dir = await tempDir();
  const ca = await createTestCa(dir);
  const issued = await ca.issue('node', { days: 60 });
  const dayMs = 24 * 3_600_000;
  const at = (days: number): readonly string[] =>
    read(issued, Date.now() + days * dayMs).identity?.warnings ?? ['nothing'];
  expect(at(0)).toEqual([]);
  expect(at(50)[0]).toContain('expires at');
  expect(at(61)[0]).toContain('expired at');
  expect(at(-1)[0]).toContain('is not valid before');
});

test('a key with a passphrase is refused as one', async () => {
  const dir = await tempDir();
  const { keyFile, certFile } = await (await createTestCa(dir)).issue('node');
  const locked = join(dir, 'locked.key');
  const pem = createPrivateKey(readFileSync(keyFile)).export({
    ...{ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'word' },
  });
  await writeFile(locked, pem);
  expect(read({ certFile, keyFile: locked }).complaints).toEqual([
    'tlsKey is protected by a passphrase, which the node cannot ask for',
  ]);
});
