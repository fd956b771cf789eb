/** Certificates for tests, made by the `openssl` of the machine: a CA, and what it signs. */
import { execFile } from 'node:child_process';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface TestCa {
  readonly certFile: string;
  /** Files `NAME.crt` and `NAME.key`, for localhost and 127.0.0.1; those of before are replaced as a whole. */
  issue(
    name: string,
    options?: { readonly hosts?: string; readonly days?: number },
  ): Promise<Issued>;
}

export interface Issued {
  readonly certFile: string;
  readonly keyFile: string;
  /** The key's text, for those who look for it where it must not be. */
  readonly key: string;
  readonly fingerprint: string;
}

export async function createTestCa(dir: string, name = 'ca'): Promise<TestCa> {
  const [key, cert] = [join(dir, `${name}.key`), join(dir, `${name}.crt`)];
  await openssl([
    'req',
    '-x509',
    ...NEW_KEY,
    '-keyout',
    key,
    '-out',
    cert,
    '-days',
    '2',
    '-subj',
    `/CN=Ebb test ${name}`,
  ]);
  return {
    certFile: cert,
    issue: async (leaf, { hosts = 'DNS:localhost,IP:127.0.0.1', days = 2 } = {}) => {
      const file = (end: string): string => join(dir, `${leaf}.${end}`);
      await openssl([
        'req',
        ...NEW_KEY,
        '-keyout',
        file('key.new'),
        '-out',
        file('csr'),
        '-subj',
        `/CN=${leaf}`,
      ]);
      await writeFile(file('ext'), `subjectAltName=${hosts}\n`);
      await openssl([
        ...['x509', '-req', '-in', file('csr'), '-CA', cert, '-CAkey', key, '-CAcreateserial'],
        ...['-out', file('crt.new'), '-extfile', file('ext'), '-days', String(days)],
      ]);
      for (const end of ['crt', 'key'] as const) await rename(file(`${end}.new`), file(end));
      const shown = await openssl([
        'x509',
        '-in',
        file('crt'),
        '-noout',
        '-fingerprint',
        '-sha256',
      ]);
      return {
        certFile: file('crt'),
        keyFile: file('key'),
        key: await readFile(file('key'), 'utf8'),
        fingerprint: shown.split('=')[1]?.trim() ?? '',
      };
    },
  };
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

async function openssl(args: readonly string[]): Promise<string> {
  return (await run('openssl', args)).stdout;
}
