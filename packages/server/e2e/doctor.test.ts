/** `ebb doctor` as it is called, against real stores, a store that is harmed on the way, and machines that are not well. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import {
  CreateBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
} from '@aws-sdk/client-s3';
import {
  createTestCa,
  type FaultyProxy,
  smallTmpfs,
  startFaultyProxy,
  tempDir,
} from '@ebb/testkit';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { cleanEnv, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { EBB_BIN, runEbb } from './support/ebb-command.ts';
import { type ObjectStore, objectStores } from './support/object-store.ts';

const run = promisify(execFile);

interface Finding {
  readonly subject: string;
  readonly check: string;
  readonly level: string;
  readonly says: string;
}
interface Report {
  readonly code: number;
  readonly worst: string;
  readonly findings: readonly Finding[];
  readonly output: string;
}

/** On directories of its own, and with free ports, unless told otherwise. */
async function doctor(args: readonly string[], env: Record<string, string> = {}): Promise<Report> {
  const defaults = [`--data=${await tempDir()}`, `--memory-dir=${await tempDir('/dev/shm')}`];
  const fixed = ['--memory-limit=64MiB', '--disk-limit=64MiB', '--listen=127.0.0.1:0', '--json'];
  const all = ['doctor', ...defaults, ...fixed, ...args];
  const { code, stdout, stderr } = await runEbb(all, env);
  if (stdout === '') throw new Error(`no report, ${code}: ${stderr}`);
  const { worst, findings } = JSON.parse(stdout) as Pick<Report, 'worst' | 'findings'>;
  return { code, worst, findings, output: stdout + stderr };
}

function find({ findings }: Report, check: string, subject?: string): Finding {
  const found = findings.find(
    (one) => one.check === check && (subject === undefined || one.subject === subject),
  );
  if (found === undefined) throw new Error(`no finding "${check}" in ${JSON.stringify(findings)}`);
  return found;
}

/** Of all that needs no remote and is not this test machine's own. */
function notWell({ findings }: Report): readonly string[] {
  const own = new Set(['open files', 'umask', 'time', 'sync', 'nearly full', 'file system']);
  return findings
    .filter(({ level, check }) => level !== 'ok' && !own.has(check))
    .map(({ subject, check, says }) => `${subject}, ${check}: ${says}`);
}

describe('the machine', () => {
  test('directories of a node that may run: nothing is amiss, and nothing is made', async () => {
    const parent = await tempDir();
    const shm = await tempDir('/dev/shm');
    const report = await doctor([
      `--data=${join(parent, 'a/b')}`,
      `--memory-dir=${join(shm, 'c')}`,
    ]);
    expect(notWell(report)).toEqual([]);
    expect(report.worst).not.toBe('fail');
    expect(report.code).toBe(report.worst === 'ok' ? 0 : 1);
    expect(await readdir(parent)).toEqual([]);
    expect(await readdir(shm)).toEqual([]);
    const sync = find(report, 'sync');
    expect(sync.says).toMatch(/a sync takes \d+\.\d ms/);
  });

  test('a tmpfs that is smaller than the memory limit is a failure, one that others fill a warning', async () => {
    const small = await smallTmpfs(32 * 1024 * 1024);
    if (small === undefined) return;
    const tooSmall = await doctor([`--memory-dir=${join(small, 'ebb')}`]);
    expect(tooSmall.code).toBe(2);
    expect(tooSmall.findings[0]).toMatchObject({ subject: 'configuration', level: 'fail' });
    expect(tooSmall.findings[0]?.says).toContain('--shm-size');
    await writeFile(join(small, 'of others'), Buffer.alloc(20 * 1024 * 1024));
    const filled = await doctor([`--memory-dir=${join(small, 'ebb')}`, '--memory-limit=24MiB']);
    expect(filled.code).toBe(1);
    expect(find(filled, 'room', 'memory')).toMatchObject({ level: 'warn' });
    expect(find(filled, 'room', 'memory').says).toContain('something else holds the rest');
    expect(await readdir(small)).toEqual(['of others']);
  });

  test('a read-only directory is a failure that names the reason', async () => {
    const mounted = await smallTmpfs(16 * 1024 * 1024);
    if (mounted === undefined) return;
    await run('mount', ['-o', 'remount,ro', mounted]);
    const report = await doctor([`--data=${join(mounted, 'data')}`, '--disk-limit=8MiB']);
    expect(report.code).toBe(2);
    expect(find(report, 'rights', 'data')).toMatchObject({ level: 'fail' });
    expect(find(report, 'rights', 'data').says).toContain('read-only');
    // Data on a tmpfs is a warning of its own.
    expect(find(report, 'file system', 'data').says).toContain('lost when the host restarts');
  });

  test('an address that another process holds is named with that process; a file in the place of the socket is told', async () => {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const socket = join(await tempDir(), 'file');
    await writeFile(socket, '');
    const report = await doctor([
      ...[`--s3-listen=127.0.0.1:${port}`, '--listen=192.0.2.1:9700'],
      ...['--allow-remote', `--socket=${socket}`],
    ]);
    expect(report.code).toBe(2);
    expect(find(report, '--s3-listen')).toMatchObject({ level: 'fail' });
    expect(find(report, '--s3-listen').says).toContain(`process ${process.pid} (`);
    expect(find(report, '--listen').says).toContain('no address of this host');
    expect(find(report, '--socket').says).toContain('is no socket');
  });

  test('wrong settings are told each, as failures', async () => {
    const report = await doctor(['--memory-high=0.5', '--memory-low=0.9', '--tls-cert=/nowhere']);
    expect(report.code).toBe(2);
    expect(report.findings.map(({ level }) => level)).toEqual(['fail', 'fail']);
  });

  test('secrets that every user may read, and a certificate that expires soon, are warnings', async () => {
    const { certFile, keyFile } = await (await createTestCa(await tempDir())).issue('node');
    const tls = [`--tls-cert=${certFile}`, `--tls-key=${keyFile}`];
    await chmod(keyFile, 0o644);
    const open = await doctor(tls);
    expect(find(open, '--tls-key')).toMatchObject({ level: 'warn' });
    expect(find(open, '--tls-key').says).toContain('chmod o-rwx');
    expect(find(open, '--tls-cert').says).toContain('expires at');
    await chmod(keyFile, 0o600);
    expect(find(await doctor(tls), '--tls-key')).toMatchObject({ level: 'ok' });
  });

  test('a node that runs with the settings is asked, and holds its addresses itself', async () => {
    const node = await startNodeProcess();
    onTestFinished(async () => await node[Symbol.asyncDispose]());
    const own = [`--data=${node.dataDir}`, `--memory-dir=${node.memoryDir}`];
    const at = (url: string): string => new URL(url).host;
    const report = await doctor([
      ...own,
      `--listen=${at(node.url)}`,
      `--s3-listen=${at(node.s3Url)}`,
    ]);
    expect(notWell(report)).toEqual([]);
    expect(find(report, 'running').says).toContain('is ready');
    for (const flag of ['--listen', '--s3-listen'])
      expect(find(report, flag).says).toContain('is held by the node itself');
    // The same addresses for another node.
    const other = await doctor([`--listen=${at(node.url)}`, '--s3-listen=off']);
    expect(find(other, '--listen')).toMatchObject({ level: 'fail' });
    expect(find(other, '--listen').says).toContain(`process ${node.pid} (`);
  });

  test('for people there is a table with a line below', async () => {
    const data = [`--data=${await tempDir()}`, `--memory-dir=${await tempDir('/dev/shm')}`];
    const sizes = ['--memory-limit=64MiB', '--disk-limit=64MiB', '--listen=127.0.0.1:0'];
    const { stdout } = await runEbb(['doctor', ...data, ...sizes], {});
    expect(stdout).toMatch(/^ {4}ABOUT {2,}WHAT {2,}FOUND\n/);
    expect(stdout).toMatch(/\n\d+ ok, \d+ warnings?, 0 failures\n$/);
  });
});

for (const kind of objectStores()) {
  describe(`${kind.name} as the remote`, () => {
    let store: ObjectStore;
    let proxy: FaultyProxy;
    beforeAll(async () => {
      store = await kind.start();
      proxy = await startFaultyProxy(store.url);
    });
    afterAll(async () => {
      await proxy?.[Symbol.asyncDispose]();
      await store?.[Symbol.asyncDispose]();
    });

    function remote(path: string, url = store.url): string {
      return `--remote=s3://${path}?endpoint=${encodeURIComponent(url)}`;
    }

    function credentials(secret = store.credentials.secretAccessKey): Record<string, string> {
      return {
        AWS_ACCESS_KEY_ID: store.credentials.accessKeyId,
        AWS_SECRET_ACCESS_KEY: secret,
        AWS_EC2_METADATA_DISABLED: 'true',
      };
    }

    async function whatIsLeft(Bucket: string): Promise<readonly string[]> {
      const versions = await store.client.send(new ListObjectVersionsCommand({ Bucket }));
      const uploads = await store.client.send(new ListMultipartUploadsCommand({ Bucket }));
      return [
        ...(versions.Versions ?? []),
        ...(versions.DeleteMarkers ?? []),
        ...(uploads.Uploads ?? []),
      ].map(({ Key = '' }) => Key);
    }

    const CHECKS = [
      ...['reachable', 'write and read', 'clock', 'checksums', 'ETags', 'conditional writes'],
      ...['conditional reads', 'conditional deletes', 'ranges'],
      ...['multipart uploads', 'aborted uploads', 'copies of parts', 'delete'],
    ];

    test('everything that Ebb needs is there, and nothing is left behind, also in a bucket that keeps versions', async () => {
      await store.client.send(new CreateBucketCommand({ Bucket: 'versioned' }));
      const VersioningConfiguration = { Status: 'Enabled' } as const;
      await store.client.send(
        new PutBucketVersioningCommand({ Bucket: 'versioned', VersioningConfiguration }),
      );
      for (const bucket of ['tier', 'versioned']) {
        const report = await doctor([remote(`${bucket}/ebb`)], credentials());
        const ours = report.findings.filter(({ subject }) => subject === 'remote');
        expect(ours.map(({ check }) => check)).toEqual(CHECKS);
        expect(ours.filter(({ level }) => level !== 'ok')).toEqual([]);
        expect(await whatIsLeft(bucket)).toEqual([]);
      }
    });

    test('a wrong secret, an unknown key, a missing bucket and a store that is away say what to do; no secret is repeated', async () => {
      const wrong = await doctor([remote('tier')], credentials('not-the-secret'));
      expect(wrong.code).toBe(2);
      expect(find(wrong, 'reachable')).toMatchObject({ level: 'fail' });
      expect(find(wrong, 'reachable').says).toContain('secret key does not belong');
      expect(wrong.output).not.toContain('not-the-secret');
      const unknown = { ...credentials(), AWS_ACCESS_KEY_ID: 'NOBODY' };
      expect(find(await doctor([remote('tier')], unknown), 'reachable').says).toContain(
        'does not know this access key',
      );
      const missing = await doctor([remote('no-such-bucket')], credentials());
      expect(find(missing, 'reachable').says).toContain('there is no bucket no-such-bucket');
      const away = await doctor([remote('tier', 'http://127.0.0.1:1')], credentials());
      expect(find(away, 'reachable').says).toContain('ECONNREFUSED');
      for (const report of [wrong, missing, away])
        expect(report.findings.filter(({ subject }) => subject === 'remote')).toHaveLength(1);
    });

    test('every remote of the file is examined, each by its name', async () => {
      const file = join(await tempDir(), 'remotes.json');
      const { accessKeyId, secretAccessKey } = store.credentials;
      const url = (bucket: string): string =>
        `s3://${bucket}?endpoint=${encodeURIComponent(store.url)}`;
      const key = { credentials: { accessKeyId, secretAccessKey } };
      await writeFile(
        file,
        JSON.stringify({
          good: { url: url('tier'), ...key },
          bad: { url: url('nowhere'), ...key },
        }),
        { mode: 0o600 },
      );
      const report = await doctor([`--remotes=${file}`, '--remote=good']);
      expect(find(report, 'reachable', 'remote good').level).toBe('ok');
      expect(find(report, 'reachable', 'remote bad').level).toBe('fail');
      expect(report.output).not.toContain(secretAccessKey);
      expect(await whatIsLeft('tier')).toEqual([]);
    });

    test('503 for everything, and only for parts: told as a failure; the rest goes on and is cleaned up', async () => {
      proxy.harm('refuse', { when: () => true });
      const all = await doctor([remote('tier', proxy.url)], credentials());
      expect(find(all, 'reachable').says).toContain('503 SlowDown');
      proxy.heal();
      proxy.harm('refuse', { when: ({ path }) => path.includes('partNumber=1') });
      const parts = await doctor([remote('tier', proxy.url)], credentials());
      proxy.heal();
      expect(parts.code).toBe(2);
      expect(find(parts, 'multipart uploads')).toMatchObject({ level: 'fail' });
      expect(find(parts, 'ETags').level).toBe('ok');
      expect(find(parts, 'delete').level).toBe('ok');
      expect(await whatIsLeft('tier')).toEqual([]);
    });

    test('a store that repeats no checksums is a warning', async () => {
      proxy.harm('hide-checksums', { when: () => true });
      const report = await doctor([remote('tier', proxy.url)], credentials());
      proxy.heal();
      expect(find(report, 'checksums')).toMatchObject({ level: 'warn' });
      expect(find(report, 'checksums').says).toContain('reads back what it puts');
    });

    test.each(['SIGINT', 'SIGTERM'] as const)(
      '%s in the middle of an upload: it ends with 130, and nothing is left behind',
      async (signal) => {
        const harmed = proxy.harmed();
        proxy.harm('hang', { when: ({ path }) => path.includes('partNumber=2'), times: 1 });
        const where = [`--data=${await tempDir()}`, `--memory-dir=${await tempDir('/dev/shm')}`];
        const sizes = ['--memory-limit=64MiB', '--disk-limit=64MiB', '--listen=127.0.0.1:0'];
        const args = [EBB_BIN, 'doctor', ...where, ...sizes, remote('tier', proxy.url)];
        const child = spawn(process.execPath, args, {
          env: { ...cleanEnv(), ...credentials() },
          stdio: ['ignore', 'ignore', 'pipe'],
        });
        const said = text(child.stderr);
        const exited = once(child, 'exit');
        await harmed;
        expect((await whatIsLeft('tier')).length).toBeGreaterThan(0);
        child.kill(signal);
        expect((await exited)[0]).toBe(130);
        expect(await said).toContain('interrupted');
        expect(await whatIsLeft('tier')).toEqual([]);
        proxy.heal();
      },
    );
  });
}

test('a directory as the remote that cannot be written in is a failure', async () => {
  const mounted = await smallTmpfs(1024 * 1024);
  if (mounted === undefined) return;
  await mkdir(join(mounted, 'remote'));
  await run('mount', ['-o', 'remount,ro', mounted]);
  const directory = join(mounted, 'remote');
  const report = await doctor([`--remote=file://${directory}`]);
  expect(report.code).toBe(2);
  expect(find(report, 'rights', `remote file://${directory}`)).toMatchObject({ level: 'fail' });
});
