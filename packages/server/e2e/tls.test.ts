/** TLS on both addresses of a real node: the clients as they come, a certificate that changes under load, and who is refused. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { connect as connectPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { promisify } from 'node:util';
import {
  CompleteMultipartUploadCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { openClient } from '@ebb/client';
import { createTestCa, type Issued, type TestCa } from '@ebb/testkit';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { type Ran, runEbb } from './support/ebb-command.ts';

const KEY = { accessKeyId: 'TLSTESTKEY', secretAccessKey: 'tls-test-secret' };
const PYTHON = join(import.meta.dirname, '../../../.ebb/venv/bin/python');
const run = promisify(execFile);

let dir: string;
let ca: TestCa;
let otherCa: TestCa;
let issued: Issued;
let node: NodeProcess;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'ebb-tls-'));
  ca = await createTestCa(dir);
  otherCa = await createTestCa(dir, 'other-ca');
  issued = await ca.issue('node');
  node = await startTlsNode();
});
afterAll(async () => {
  await node?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

async function startTlsNode(...args: readonly string[]): Promise<NodeProcess> {
  const files = [`--tls-cert=${issued.certFile}`, `--tls-key=${issued.keyFile}`];
  return await startNodeProcess({
    args: ['--socket=off', '--log-level=debug', ...files, ...args],
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
}

async function s3Client(caFile = ca.certFile): Promise<S3Client> {
  return new S3Client({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials: { ...KEY } },
    requestHandler: { httpsAgent: { ca: await readFile(caFile, 'utf8') } },
    maxAttempts: 1,
  });
}

const ebb = async (
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Ran> => await runEbb(args, { EBB_NODE: node.url, ...env });

/** Of the certificate that a new connection is shown. */
async function shownFingerprint(url: string): Promise<string> {
  const { port } = new URL(url);
  return await new Promise((resolve, reject) => {
    const socket = connect(
      { host: '127.0.0.1', port: Number(port), rejectUnauthorized: false },
      () => {
        resolve(socket.getPeerCertificate().fingerprint256);
        socket.destroy();
      },
    );
    socket.once('error', reject);
  });
}

test('both addresses are https:// in the log, and plain HTTP gets nothing there', async () => {
  expect(node.url).toMatch(/^https:/);
  expect(node.s3Url).toMatch(/^https:/);
  for (const url of [node.url, node.s3Url])
    await expect(fetch(url.replace('https:', 'http:'))).rejects.toThrow();
});

test('nothing older than TLS 1.2 is spoken', async () => {
  const { port } = new URL(node.url);
  const shake = async (version: 'TLSv1.1' | 'TLSv1.2'): Promise<string | null> =>
    await new Promise((resolve, reject) => {
      const socket = connect(
        {
          ...{ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false },
          ...{ minVersion: 'TLSv1', maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' },
        },
        () => {
          resolve(socket.getProtocol());
          socket.destroy();
        },
      );
      socket.once('error', reject);
    });
  expect(await shake('TLSv1.2')).toBe('TLSv1.2');
  await expect(shake('TLSv1.1')).rejects.toMatchObject({
    code: expect.stringMatching(/PROTOCOL_VERSION/),
  });
});

test('the ebb command and the TypeScript client, with the CA from a flag, the environment or an option', async () => {
  const file = join(dir, 'object');
  await writeFile(file, 'over TLS '.repeat(100_000));
  expect(await ebb(['buckets', 'create', 'box', '--ca-file', ca.certFile])).toMatchObject({
    code: 0,
  });
  const env = { EBB_CA_FILE: ca.certFile };
  expect(await ebb(['put', file, 'box/object'], env)).toMatchObject({ code: 0 });
  const { stdout } = await ebb(['cat', 'box/object'], env);
  expect(stdout).toBe(await readFile(file, 'utf8'));
  // Local bytes go through frames on the same connection; path http has bodies.
  for (const path of ['auto', 'http'] as const) {
    await using client = await openClient({ node: node.url, caFile: ca.certFile, path });
    expect(Buffer.from(await (await client.get('box', 'object')).bytes()).toString()).toBe(stdout);
    await client.put('box', `from-${path}`, Buffer.from(path));
    expect(Buffer.from(await (await client.get('box', `from-${path}`)).bytes()).toString()).toBe(
      path,
    );
  }
});

test('a wrong CA, no CA and a file that is none are refused at once, and the message says what to do', async () => {
  const wrong = await ebb(['status', '--ca-file', otherCa.certFile]);
  expect(wrong).toMatchObject({ code: 2 });
  expect(wrong.stderr).toMatch(
    /not of a CA that is trusted here; name its CA: --ca-file or EBB_CA_FILE/,
  );
  const none = await ebb(['status']);
  expect(none).toMatchObject({ code: 2 });
  expect(none.stderr).toContain('EBB_CA_FILE');
  const missing = await ebb(['status', '--ca-file', join(dir, 'nowhere')]);
  expect(missing.stderr).toContain('cannot be read (ENOENT)');
  const s3 = await s3Client(otherCa.certFile);
  await expect(s3.send(new CreateBucketCommand({ Bucket: 'no' }))).rejects.toThrow(/certificate/);
  s3.destroy();
});

test('a certificate for another host name is refused', async () => {
  const foreign = await ca.issue('foreign', { hosts: 'DNS:other.example' });
  await using other = await startNodeProcess({
    args: ['--socket=off', `--tls-cert=${foreign.certFile}`, `--tls-key=${foreign.keyFile}`],
  });
  const found = await ebb(['status', '--node', other.url, '--ca-file', ca.certFile]);
  expect(found).toMatchObject({ code: 2 });
  expect(found.stderr).toContain('for another host name');
});

test('https:// to a node without TLS says so', async () => {
  await using plain = await startNodeProcess({ args: ['--socket=off'] });
  const found = await ebb(['status', '--node', plain.url.replace('http:', 'https:')]);
  expect(found).toMatchObject({ code: 2 });
  expect(found.stderr).toContain('speaks no TLS there; use http://');
});

test('the AWS SDK and curl over HTTPS; links in answers are https://', async () => {
  const s3 = await s3Client();
  await s3.send(new CreateBucketCommand({ Bucket: 'sdk' }));
  await s3.send(new PutObjectCommand({ Bucket: 'sdk', Key: 'k', Body: 'bytes' }));
  const { Body } = await s3.send(new GetObjectCommand({ Bucket: 'sdk', Key: 'k' }));
  expect(await Body?.transformToString()).toBe('bytes');
  const at = { Bucket: 'sdk', Key: 'parts' };
  const { UploadId } = await s3.send(new CreateMultipartUploadCommand(at));
  const part = { ...at, UploadId, PartNumber: 1, Body: 'part' };
  const { ETag } = await s3.send(new UploadPartCommand(part));
  const Parts = [{ PartNumber: 1, ETag }];
  const done = await s3.send(
    new CompleteMultipartUploadCommand({ ...at, UploadId, MultipartUpload: { Parts } }),
  );
  expect(done.Location).toMatch(/^https:/);
  s3.destroy();
  const { stdout } = await run('curl', [
    ...['--silent', '--show-error', '--fail', '--cacert', ca.certFile],
    ...[
      '--aws-sigv4',
      'aws:amz:us-east-1:s3',
      '--user',
      `${KEY.accessKeyId}:${KEY.secretAccessKey}`,
    ],
    ...['--header', 'x-amz-content-sha256: UNSIGNED-PAYLOAD'],
    `${node.s3Url}/sdk/k`,
  ]);
  expect(stdout).toBe('bytes');
});

test('who opens a connection and never shakes hands does not keep the node from stopping', async () => {
  await using stopped = await startTlsNode();
  const { port } = new URL(stopped.url);
  const silent = connectPlain(Number(port), '127.0.0.1');
  silent.on('error', () => undefined);
  const ended = once(silent, 'close');
  await once(silent, 'connect');
  // Accepted: one that came later was answered.
  await shownFingerprint(stopped.url);
  const startedMs = performance.now();
  expect(await stopped.stop()).toBe(0);
  await ended;
  // Before the time for a handshake, 10 s, would have ended it.
  expect(performance.now() - startedMs).toBeLessThan(9_000);
});

test('boto3 over HTTPS', { timeout: 120_000 }, async () => {
  expect(existsSync(PYTHON), 'the Python environment is set up: node scripts/setup.mjs').toBe(true);
  const { stdout } = await run(PYTHON, [join(import.meta.dirname, 's3_boto3.py')], {
    env: {
      ...cleanEnv(),
      S3_URL: node.s3Url,
      AWS_CA_BUNDLE: ca.certFile,
      SSL_CERT_FILE: ca.certFile, // Python's own urllib, for links
      AWS_ACCESS_KEY_ID: KEY.accessKeyId,
      AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey,
      AWS_EC2_METADATA_DISABLED: 'true',
    },
  });
  expect(stdout.trim().split('\n').at(-1)).toBe('emptied and deleted');
});

test('a certificate that changes is taken without a restart and without a failed request; open connections go on', async () => {
  const before = await shownFingerprint(node.url);
  const pem = await readFile(ca.certFile, 'utf8');
  const kept = new Agent({ ca: pem, keepAlive: true, maxSockets: 1 });
  const ask = async (agent: Agent): Promise<{ status: number; fingerprint: string }> =>
    await new Promise((resolve, reject) => {
      const asking = request(`${node.url}/readyz`, { agent }, (answer) => {
        const socket = answer.socket as ReturnType<typeof connect>;
        const found = {
          status: answer.statusCode ?? 0,
          fingerprint: socket.getPeerCertificate().fingerprint256,
        };
        answer.resume().once('end', () => resolve(found));
      });
      asking.once('error', reject).end();
    });
  let stop = false;
  let asked = 0;
  const failures: unknown[] = [];
  const fresh = Array.from({ length: 4 }, async () => {
    while (!stop) {
      const agent = new Agent({ ca: pem });
      const { status } = await ask(agent).catch((error: unknown) => {
        failures.push(error);
        return { status: 200 };
      });
      if (status !== 200) failures.push(status);
      asked++;
      agent.destroy();
    }
  });
  expect((await ask(kept)).fingerprint).toBe(before);
  // The file alone: it is looked at.
  const second = await ca.issue('node');
  await vi.waitFor(async () => expect(await shownFingerprint(node.url)).toBe(second.fingerprint), {
    timeout: 60_000,
    interval: 100,
  });
  expect(await shownFingerprint(node.s3Url)).toBe(second.fingerprint);
  // The signal, ten times in a row, with new files each time.
  let last = second;
  for (let round = 0; round < 10; round++) {
    last = await ca.issue('node');
    process.kill(node.pid, 'SIGHUP');
    await vi.waitFor(async () => expect(await shownFingerprint(node.url)).toBe(last.fingerprint), {
      timeout: 60_000,
      interval: 20,
    });
  }
  expect(last.fingerprint).not.toBe(before);
  // The connection of before the change.
  expect(await ask(kept)).toEqual({ status: 200, fingerprint: before });
  stop = true;
  await Promise.all(fresh);
  kept.destroy();
  expect(failures).toEqual([]);
  expect(asked).toBeGreaterThan(20);
});

test('a key that does not belong to the certificate changes nothing, and the log says why', async () => {
  const shown = await shownFingerprint(node.url);
  const stranger = await otherCa.issue('stranger');
  const own = `${issued.keyFile}.own`;
  await copyFile(issued.keyFile, own);
  await copyFile(stranger.keyFile, issued.keyFile);
  process.kill(node.pid, 'SIGHUP');
  await vi.waitFor(() => expect(node.log()).toContain('the old one stays'), { timeout: 60_000 });
  expect(node.log()).toContain('is not the key of the first certificate');
  expect(await shownFingerprint(node.url)).toBe(shown);
  await copyFile(own, issued.keyFile);
  expect(node.log()).not.toContain('PRIVATE KEY');
});

test('with --tls-client-ca the control address lets in whom the CA signed, and nobody else; S3 clients need their keys alone', async () => {
  await using closed = await startTlsNode(`--tls-client-ca=${otherCa.certFile}`);
  const friend = await otherCa.issue('friend');
  const stranger = await ca.issue('stranger');
  const at = ['--node', closed.url, '--ca-file', ca.certFile];
  const show = (who: Issued): string[] => ['--cert-file', who.certFile, '--key-file', who.keyFile];
  expect(await ebb(['status', ...at, ...show(friend)])).toMatchObject({ code: 0 });
  const refused = await ebb(['status', ...at, ...show(stranger)]);
  expect(refused.code).not.toBe(0);
  const without = await ebb(['status', ...at]);
  expect(without.code).not.toBe(0);
  expect(without.stderr).toContain('asks for a certificate of the client');
  const answer = await run('curl', [
    '--silent',
    '--cacert',
    ca.certFile,
    '-o',
    '/dev/null',
    '-w',
    '%{http_code}',
    closed.s3Url,
  ]);
  expect(answer.stdout).toBe('403');
});

test('tier 2 on a store whose certificate is of a private CA: by caFile of the remote, and by NODE_EXTRA_CA_CERTS', async () => {
  const s3 = await s3Client();
  await s3.send(new CreateBucketCommand({ Bucket: 'tier' }));
  const url = (prefix: string): string =>
    `s3://tier/${prefix}?endpoint=${encodeURIComponent(node.s3Url)}`;
  const remotes = join(dir, 'remotes.json');
  const remote = (prefix: string): object => ({
    url: url(prefix),
    layout: 'bucket/key',
    credentials: { ...KEY },
  });
  await writeFile(
    remotes,
    JSON.stringify({ named: { ...remote('named'), caFile: ca.certFile }, bare: remote('bare') }),
  );
  const store = async (name: string, env: Record<string, string> = {}): Promise<string> => {
    await using user = await startNodeProcess({
      args: [`--remote=${name}`, `--remotes=${remotes}`],
      env,
    });
    await using client = await openClient({ node: user.url });
    await client.buckets.create('box', { preset: 'durable' });
    const { durability } = await client.put('box', 'k', Buffer.from(name), {
      signal: AbortSignal.timeout(20_000),
    });
    return durability;
  };
  expect(await store('named')).toBe('remote');
  expect(await store('bare', { NODE_EXTRA_CA_CERTS: ca.certFile })).toBe('remote');
  for (const name of ['named', 'bare']) {
    const { Body } = await s3.send(new GetObjectCommand({ Bucket: 'tier', Key: `${name}/box/k` }));
    expect(await Body?.transformToString()).toBe(name);
  }
  await expect(store('bare')).rejects.toThrow();
  const found = await ebb([
    ...['doctor', `--data=${join(dir, 'nowhere')}`, '--memory-limit=64MiB', '--listen=127.0.0.1:0'],
    ...['--remote=bare', `--remotes=${remotes}`, '--json'],
  ]);
  const { findings } = JSON.parse(found.stdout) as {
    findings: { subject: string; check: string; level: string; says: string }[];
  };
  const reachable = findings.filter(({ check }) => check === 'reachable');
  expect(reachable.map(({ subject, level }) => [subject, level])).toEqual([
    ['remote named', 'ok'],
    ['remote bare', 'fail'],
  ]);
  expect(reachable[1]?.says).toContain('name its CA (caFile of the remote');
  s3.destroy();
});
