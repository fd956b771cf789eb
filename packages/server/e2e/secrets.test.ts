/**
 * No secret leaves the node: a node with secrets of every kind is used well and badly, and then everything that it said and
 * wrote is searched for them: its log at the level of debug, metrics, status, bodies and headers of answers, what `ebb`
 * prints, its command line, and every file of its directories.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CreateBucketCommand, S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import type { RestorePlan } from '@ebb/protocol';
import { createTestCa } from '@ebb/testkit';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { buildImage } from '../../checkpoint/src/testing/build-image.ts';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { presign, signForm, signHeaders, type TestKey } from '../src/testing/sign-s3.ts';
import { runEbb } from './support/ebb-command.ts';

const run = promisify(execFile);

/** What must not be found anywhere, by what it is. Ids of access keys are names, and may be told: but not of remotes. */
const secrets = new Map<string, string>();
/** Everything that was said, by who said it. */
const said = new Map<string, string>();

let dir: string;
let store: NodeProcess;
let node: NodeProcess;
let ca: string;

function secret(what: string): string {
  const value = `${what.replaceAll(/\W/g, '')}${randomBytes(15).toString('hex')}`;
  secrets.set(what, value);
  return value;
}

function hear(who: string, text: string): void {
  said.set(who, `${said.get(who) ?? ''}\n${text}`);
}

async function ebb(args: readonly string[], env: Record<string, string> = {}): Promise<number> {
  const at = { EBB_NODE: node.url, EBB_CA_FILE: ca };
  const { code, stdout, stderr } = await runEbb(args, { ...at, ...env });
  hear(`ebb ${args[0]}`, stdout + stderr);
  return code;
}

/** The answer with its headers. */
async function ask(url: string, options: readonly string[] = []): Promise<string> {
  const { stdout } = await run('curl', ['--silent', '--include', '--cacert', ca, ...options, url]);
  hear('answers', stdout);
  return stdout;
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'ebb-secrets-'));
  const authority = await createTestCa(dir);
  ca = authority.certFile;
  const { certFile, keyFile, key } = await authority.issue('node');
  secrets.set('TLS key', key.split('\n')[1] as string);
  const remoteKey = {
    accessKeyId: secret('remote key id'),
    secretAccessKey: secret('remote secret'),
  };
  const awayKey = {
    accessKeyId: secret('away key id'),
    secretAccessKey: secret('away secret'),
    sessionToken: secret('away token'),
  };
  store = await startNodeProcess({
    env: {
      EBB_ACCESS_KEY_ID: remoteKey.accessKeyId,
      EBB_SECRET_ACCESS_KEY: remoteKey.secretAccessKey,
    },
  });
  const s3 = new S3Client({ ...toS3(store.s3Url), credentials: { ...remoteKey } });
  await s3.send(new CreateBucketCommand({ Bucket: 'company' }));
  s3.destroy();
  const at = (url: string): string => `s3://company?endpoint=${encodeURIComponent(url)}`;
  const remotes = join(dir, 'remotes.json');
  await writeFile(
    join(dir, 'wrong.json'),
    JSON.stringify({ ...remoteKey, secretAccessKey: secret('wrong remote secret') }),
  );
  await writeFile(
    remotes,
    JSON.stringify({
      company: { url: at(store.s3Url), layout: 'bucket/key', credentials: remoteKey },
      away: { url: at('http://127.0.0.1:1'), credentials: awayKey },
      refusing: {
        url: `${at(store.s3Url).replace('company', 'company/r')}`,
        credentialsFile: join(dir, 'wrong.json'),
      },
    }),
  );
  const s3Keys = join(dir, 'keys.json');
  await writeFile(
    s3Keys,
    JSON.stringify([
      {
        accessKeyId: 'reader',
        secretAccessKey: secret('S3 reader'),
        grants: [{ bucket: 'data', actions: ['read'] }],
      },
    ]),
  );
  node = await startNodeProcess({
    args: [
      ...['--log-level=debug', '--remote=company', `--remotes=${remotes}`, `--s3-keys=${s3Keys}`],
      ...[`--tls-cert=${certFile}`, `--tls-key=${keyFile}`, '--socket=off'],
    ],
    env: { EBB_ACCESS_KEY_ID: 'owner', EBB_SECRET_ACCESS_KEY: secret('S3 owner') },
  });
});
afterAll(async () => {
  await node?.[Symbol.asyncDispose]();
  await store?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

function toS3(endpoint: string): S3ClientConfig {
  return { endpoint, region: 'us-east-1', forcePathStyle: true, maxAttempts: 1 };
}

/** With curl, which knows the CA; what it says of itself is heard as well. */
async function request(
  url: URL | string,
  { method = 'GET', headers = {} }: { method?: string; headers?: Record<string, string> } = {},
): Promise<string> {
  const given = Object.entries(headers).flatMap(([name, value]) => [
    '--header',
    `${name}: ${value}`,
  ]);
  return await ask(String(url), ['--request', method, ...given]);
}

/** Signatures that are valid open what they sign for as long as they are: they are secrets too. */
function noteSignature(what: string, text: string): void {
  const [found] = /[0-9a-f]{64}(?!.*[0-9a-f]{64})/s.exec(text) ?? [];
  if (found === undefined) throw new Error(`no signature in ${what}`);
  secrets.set(what, found);
}

/** Saves two snapshots over HTTP, and moves the data of the first away; its plan is told to who asked, and so not heard. */
async function directUrl(): Promise<string> {
  const curl = async (path: string, options: readonly string[] = []): Promise<string> => {
    const given = ['--silent', '--fail', '--cacert', ca, ...options];
    return (await run('curl', [...given, String(new URL(path, node.url))])).stdout;
  };
  const post = (body: object): string[] => [
    ...['--header', 'content-type: application/json', '--data', JSON.stringify(body)],
  ];
  const [session, part] = ['life', 'rank-00000'];
  const at = (step: number): string => `/v1/runs/gpt/snapshots/${step}`;
  for (const step of [1, 2]) {
    const image = buildImage({ weights: Buffer.alloc(1_000_000, `step ${step} `) });
    const file = join(dir, `image-${step}`);
    await writeFile(file, image);
    const begin = post({ session, part, imageBytes: image.length });
    const begun: unknown = JSON.parse(await curl(`${at(step)}/begin`, begin));
    const { bucket, key } = begun as { bucket: string; key: string };
    await curl(`/v1/buckets/${bucket}/objects/${key}`, ['--upload-file', file]);
    await curl(`${at(step)}/commit`, post({ session, parts: [part] }));
    await curl(`${at(step)}/wait?for=remote`);
  }
  const plan = async (): Promise<RestorePlan> =>
    JSON.parse(await curl(`${at(1)}/plan?direct=true`)) as RestorePlan;
  for (const [, , key] of (await plan()).parts[0]?.runs ?? [])
    expect(await ebb(['relocate', `checkpoints/${key}`, 'remote'])).toBe(0);
  return (await plan()).parts[0]?.direct[0]?.url ?? '';
}

/** Every file of the node, with what it holds. */
async function filesOfNode(): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const root of [node.dataDir, node.memoryDir])
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (entry.isFile()) found.set(path, await readFile(path, 'latin1'));
    }
  return found;
}

test('keys, tokens, signatures and certificates are in no log, answer, metric, output, command line or file', async () => {
  const owner: TestKey = {
    accessKeyId: 'owner',
    secretAccessKey: secrets.get('S3 owner') as string,
  };
  const reader: TestKey = {
    accessKeyId: 'reader',
    secretAccessKey: secrets.get('S3 reader') as string,
  };
  const canary = `canary${randomBytes(8).toString('hex')}`;
  const url = (path: string): URL => new URL(path, node.s3Url);
  const file = join(dir, 'file');
  await writeFile(file, `bytes with ${canary}`);

  // Used well.
  expect(await ebb(['buckets', 'create', 'data'])).toBe(0);
  expect(await ebb(['put', file, `data/${canary}`, '--ack', 'remote'])).toBe(0);
  const headers = signHeaders(reader, { method: 'GET', url: url(`/data/${canary}`) });
  noteSignature('signed header', headers['authorization'] as string);
  expect(await request(url(`/data/${canary}`), { headers })).toContain('200 OK');
  const link = presign(
    reader,
    { method: 'GET', url: url(`/data/${canary}`) },
    { expiresSeconds: 600 },
  );
  noteSignature('link', link.search);
  expect(await request(link)).toContain('200 OK');
  const conditions = [{ bucket: 'data' }, { key: 'posted' }];
  const form = signForm(owner, { conditions });
  noteSignature('form', form['x-amz-signature'] as string);
  secrets.set('policy of the form', form['policy'] as string);
  const post = async (fields: Record<string, string>): Promise<string> =>
    await ask(String(url('/data')), [
      ...Object.entries({ ...fields, key: 'posted' }).flatMap(([name, value]) => [
        '--form-string',
        `${name}=${value}`,
      ]),
      ...['--form', `file=@${file}`],
    ]);
  expect(await post(form)).toContain(' 204 ');
  const direct = await directUrl();
  expect(direct).toContain(secrets.get('remote key id'));
  noteSignature('URL of a plan', direct);

  // Refused.
  const wrong = { ...reader, secretAccessKey: secret('wrong secret of a client') };
  expect(
    await request(url(`/data/${canary}`), {
      headers: signHeaders(wrong, { method: 'GET', url: url(`/data/${canary}`) }),
    }),
  ).toContain('SignatureDoesNotMatch');
  expect(await request(presign(wrong, { method: 'GET', url: url(`/data/${canary}`) }))).toContain(
    'SignatureDoesNotMatch',
  );
  const nobody = { accessKeyId: 'nobody', secretAccessKey: wrong.secretAccessKey };
  expect(await request(presign(nobody, { method: 'GET', url: url('/data/a') }))).toContain(
    'InvalidAccessKeyId',
  );
  const old = presign(
    reader,
    { method: 'GET', url: url('/data/a') },
    { now: new Date(Date.now() - 3_600_000) },
  );
  expect(await request(old)).toContain('403');
  const elsewhere = new URL(link);
  elsewhere.pathname = '/data/other';
  expect(await request(elsewhere)).toContain('SignatureDoesNotMatch');
  expect(
    await request(presign(reader, { method: 'DELETE', url: url('/data/a') }), { method: 'DELETE' }),
  ).toContain('AccessDenied');
  expect(await post({ ...form, policy: Buffer.from('{}').toString('base64') })).toContain(' 403 ');
  expect(await post(signForm(wrong, { conditions }))).toContain(' 403 ');
  const token = { ...headers, 'x-amz-security-token': secret('token of a client') };
  expect(await request(url('/data/a'), { headers: token })).toContain('403');
  const basic = { authorization: `Basic ${secret('basic password')}`, cookie: secret('cookie') };
  await request(url('/data/a'), { headers: basic });
  await request(new URL('/v1/nothing', node.url), { headers: basic });
  await request(new URL(`/v1/status?key=${secret('in a query')}`, node.url));

  // Remotes that are away or refuse, with their credentials in place.
  for (const remote of ['away', 'refusing']) {
    expect(await ebb(['buckets', 'create', remote, '--remote', remote])).toBe(0);
    expect(await ebb(['put', file, `${remote}/k`])).toBe(0);
    expect(await ebb(['sync', remote])).not.toBe(0);
    expect(await ebb(['wait', `${remote}/k`, '--for', 'remote', '--timeout', '2s'])).not.toBe(0);
  }
  const inLocation = secret('in a location');
  for (const location of [
    `s3://id:${inLocation}@company/x`,
    `s3://company/x?secretAccessKey=${inLocation}`,
    `s3://company?endpoint=${encodeURIComponent(`http://id:${inLocation}@host`)}`,
  ])
    expect(await ebb(['buckets', 'create', 'bad', '--remote', location, '--json'])).not.toBe(0);

  // Configurations that do not hold together: nothing starts.
  const keys = join(dir, 'bad-keys.json');
  const configured = {
    accessKeyId: secret('configured id'),
    secretAccessKey: secret('configured secret'),
  };
  await writeFile(keys, JSON.stringify([{ ...configured, extra: true }]));
  const noJson = join(dir, 'no.json');
  await writeFile(noJson, `not JSON: ${secret('in a broken file')}`);
  const badRemotes = join(dir, 'bad-remotes.json');
  await writeFile(
    badRemotes,
    JSON.stringify({
      bad: { url: 's3://b', credentials: { ...configured, more: 1 } },
      worse: { url: 's3://b', credentialsFile: noJson },
    }),
  );
  const other = join(dir, 'empty');
  await mkdir(other);
  const refusedKey = await (await createTestCa(other)).issue('other');
  secrets.set('key of another certificate', refusedKey.key.split('\n')[1] as string);
  for (const args of [
    [`--s3-keys=${keys}`],
    [`--s3-keys=${noJson}`],
    [`--remotes=${badRemotes}`],
    [`--remotes=${noJson}`],
    [`--tls-cert=${ca}`, `--tls-key=${refusedKey.keyFile}`],
    [`--tls-cert=${noJson}`, `--tls-key=${noJson}`],
  ])
    for (const command of ['node', 'doctor'])
      expect(await ebb([command, `--data=${other}`, ...args])).toBe(2);
  const given = secret('too short on its own');
  expect(await ebb(['node', `--data=${other}`], { EBB_SECRET_ACCESS_KEY: given })).toBe(2);

  // Looked at.
  const remotes = ['--remote=company', `--remotes=${join(dir, 'remotes.json')}`];
  expect(await ebb(['doctor', `--data=${other}`, '--listen=127.0.0.1:0', ...remotes])).toBe(2);
  for (const args of [
    ['status', '--json'],
    ['buckets', '--json'],
    ['ls', '-r', 'data', '--json'],
    ['stat', `data/${canary}`, '--json'],
    ['why', `data/${canary}`],
    ['why', 'away/k'],
    ['jobs', '--json'],
    ['verify'],
  ])
    await ebb(args);
  for (const path of ['/metrics', '/v1/status', '/v1/buckets', '/v1/openapi.json', '/healthz'])
    await request(new URL(path, node.url));
  await vi.waitFor(() => expect(node.log()).toContain('background work failed'), {
    timeout: 60_000,
    interval: 200,
  });

  // A key that does not fit, in the place of the one that does.
  await copyFile(refusedKey.keyFile, join(dir, 'node.key'));
  process.kill(node.pid, 'SIGHUP');
  await vi.waitFor(() => expect(node.log()).toContain('the old one stays'), { timeout: 60_000 });

  const commandLine = await readFile(`/proc/${node.pid}/cmdline`, 'utf8');
  const everywhere = new Map([
    ...said,
    ['log', node.log()],
    ['command line', commandLine],
    ...(await filesOfNode()),
  ]);
  await node.stop();
  everywhere.set('log to the end', node.log());
  for (const [path, content] of await filesOfNode())
    everywhere.set(`${path} after the end`, content);

  const where = (value: string): string[] =>
    [...everywhere].filter(([, content]) => content.includes(value)).map(([place]) => place);
  // The search finds what is there: in answers, outputs, the catalog and the bytes of the object.
  expect(where(canary)).toEqual(
    expect.arrayContaining(['answers', 'ebb stat', expect.stringContaining('/catalog/')]),
  );
  expect(secrets.size).toBeGreaterThan(20);
  const found = [...secrets].flatMap(([what, value]) =>
    where(value).map((place) => `${what}: ${place}`),
  );
  expect(found).toEqual([]);
}, 300_000);
