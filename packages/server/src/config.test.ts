import { readFileSync } from 'node:fs';
import { isStoreError, MiB, StoreError } from '@ebb/protocol';
import { createTestCa, tempDir } from '@ebb/testkit';
import { describe, expect, test } from 'vitest';
import { type ConfigHost, loadConfig } from './config.ts';
import { type RawConfig, SETTINGS } from './config-schema.ts';

const GiB = 1024 * MiB;

function host(changes: Partial<ConfigHost> = {}): ConfigHost {
  return {
    env: {},
    homeDir: '/home/ann',
    workDir: '/work',
    uid: 1000,
    memoryBytes: 16 * GiB,
    readFile: () => '{}',
    space: (path) => ({
      totalBytes: 100 * GiB,
      freeBytes: 50 * GiB,
      tmpfs: path.startsWith('/dev/shm'),
    }),
    usedBytes: () => 10 * GiB,
    ...changes,
  };
}

function complaintsOf(
  flags: RawConfig,
  changes: Partial<ConfigHost> = {},
  file?: string,
): readonly string[] {
  try {
    loadConfig({ flags, file }, host(changes));
  } catch (error) {
    if (isStoreError(error, 'config_invalid')) return error.details.complaints as string[];
    throw error;
  }
  return [];
}

describe('defaults', () => {
  test('come from the machine', () => {
    const config = loadConfig({}, host());
    expect(config).toMatchObject({
      dataDir: '/home/ann/.local/share/ebb',
      memoryLimitBytes: 4 * GiB,
      diskLimitBytes: 48 * GiB,
      diskLimitGrows: true,
      remotes: { own: { directory: '/home/ann/.local/share/ebb/remote' } },
      listen: { host: '127.0.0.1', port: 9700 },
      socketPath: '/home/ann/.local/share/ebb/ebb.sock',
      poolBytesMax: 2 * GiB,
      warnings: [],
    });
    expect(config.memoryDir).toMatch(/^\/dev\/shm\/ebb-1000-[0-9a-f]{8}$/);
  });

  test('two data directories never share a memory directory', () => {
    const dirs = ['a', 'b'].map((data) => loadConfig({ flags: { data } }, host()).memoryDir);
    expect(new Set(dirs).size).toBe(2);
  });

  test('a small tmpfs bounds the memory tier', () => {
    const space = () => ({ totalBytes: 64 * MiB, freeBytes: 64 * MiB, tmpfs: true });
    expect(loadConfig({ flags: { diskLimit: '1MiB' } }, host({ space })).memoryLimitBytes).toBe(
      Math.floor(64 * MiB * 0.9),
    );
  });
});

test('flags beat the environment, which beats the file, which beats the default', () => {
  const file = JSON.stringify({
    memoryLimit: '1GiB',
    diskLimit: '2GiB',
    stagingTtl: '1m',
    drainDeadline: 5000,
  });
  const config = loadConfig(
    { flags: { memoryLimit: '3GiB' }, file: 'ebb.json' },
    host({ env: { EBB_MEMORY_LIMIT: '2GiB', EBB_DISK_LIMIT: '5GiB' }, readFile: () => file }),
  );
  expect(config).toMatchObject({
    memoryLimitBytes: 3 * GiB,
    diskLimitBytes: 5 * GiB,
    stagingTtlMs: 60_000,
    drainDeadlineMs: 5000,
    jobHeartbeatTtlMs: 120_000,
  });
});

test('every complaint comes at once, with value, source, rule and remedy', () => {
  const complaints = complaintsOf(
    {
      memoryLimit: 'lots',
      listen: '0.0.0.0:9700',
      socket: `/${'x'.repeat(120)}`,
      memoryHigh: '50%',
      memoryLow: '0.6',
      logLevel: 'loud',
    },
    {
      env: { EBB_STAGING_TTL: '5 parsecs', EBB_REMOTE: 's3://key:secret@bucket' },
      readFile: () => '{"memorylimit": 1}',
    },
    'ebb.json',
  );
  expect(complaints).toHaveLength(8);
  expect(complaints.join('\n')).toMatch(
    /memoryLimit = "lots" \(--memory-limit\): "lots" is not a number of bytes.*give --memory-limit/,
  );
  expect(complaints.join('\n')).toMatch(/stagingTtl = "5 parsecs" \(EBB_STAGING_TTL\)/);
  expect(complaints.join('\n')).toMatch(/memoryLow = 0.6 .*below memoryHigh, which is 0.5/);
  expect(complaints.join('\n')).not.toContain('secret');
});

test.each([
  ['listen', '0.0.0.0:9700', 'credentials'],
  ['listen', '[::]:9700', 'credentials'],
  ['listen', '127.0.0.1', 'HOST:PORT'],
  ['listen', '127.0.0.1:70000', '65535'],
  ['remote', 's3://Bad_Bucket', 'lower-case letters'],
  ['remote', 's3://bucket?secret=x', 'credentials do not belong'],
  ['remote', 'http://host/x', 'file:///DIR'],
  ['remote', 'file://host/x', 'absolute directory'],
  ['remote', 'relative/dir', 'file:///DIR'],
  ['memoryLimit', '1KiB', 'at least 64KiB'],
  ['memoryLimit', '200GiB', '100 GiB in all'],
  ['diskLimit', '200GiB', '100 GiB in all'],
  ['memoryHigh', '1.5', 'at most 1'],
  ['poolLimit', '8GiB', 'memory limit of 4.0 GiB'],
  ['persistOnDrain', 'perhaps', 'true or false'],
  ['presignReads', 'perhaps', 'true or false'],
  ['stagingTtl', '10ms', 'at least 1s'],
  ['data', 'a\0b', 'NUL'],
  ['memoryDir', '/home/ann/.local', 'must not be'],
])('%s = %j is refused: %s', (name, value, rule) => {
  const complaints = complaintsOf({ [name]: value });
  expect(complaints).toHaveLength(1);
  expect(complaints[0]).toContain(rule);
});

test('remote addresses are possible where one says so, with a warning', () => {
  const config = loadConfig({ flags: { listen: '0.0.0.0:0', allowRemote: true } }, host());
  expect(config.listen).toEqual({ host: '0.0.0.0', port: 0 });
  expect(config.warnings.join()).toContain('without credentials');
});

test('with neither address nor socket there is nothing to listen on', () => {
  expect(complaintsOf({ listen: 'off', socket: 'off' })).toHaveLength(1);
  expect(loadConfig({ flags: { listen: 'off' } }, host()).listen).toBeNull();
});

test('a file that is no JSON object, or cannot be read, is a complaint', () => {
  expect(complaintsOf({}, { readFile: () => '[]' }, 'f')[0]).toContain('one JSON object');
  expect(complaintsOf({}, { readFile: () => '{' }, 'f')[0]).toContain('JSON');
  const readFile = () => {
    throw new StoreError('io_failed', 'ENOENT');
  };
  expect(complaintsOf({}, { readFile }, 'f')[0]).toContain('ENOENT');
});

test('a misspelt name in the environment is told', () => {
  const { warnings } = loadConfig({}, host({ env: { EBB_MEMORY_LIMT: '1GiB', EBB_NODE: 'x' } }));
  expect(warnings).toEqual(['EBB_MEMORY_LIMT in the environment is no setting, and was ignored']);
});

test('every setting has a flag, a name in the environment, a meaning and a default to show', () => {
  for (const setting of SETTINGS) {
    expect(setting.flag).toMatch(/^--[a-z0-9-]+( <[A-Z:]+>| \[BOOL\])?$/);
    expect(setting.env).toMatch(/^EBB_[A-Z0-9_]+$/);
    expect(setting.means.length).toBeGreaterThan(5);
    expect(setting.default.length).toBeGreaterThan(0);
  }
});

describe('the S3 surface', () => {
  const SECRET = 'secret of somebody';
  const keyPair = { EBB_ACCESS_KEY_ID: 'ops', EBB_SECRET_ACCESS_KEY: SECRET };

  test('listens beside the control surface, without keys', () => {
    expect(loadConfig({}, host()).s3).toEqual({
      listen: { host: '127.0.0.1', port: 9701 },
      domain: 'localhost',
      keys: [],
      fileRedirect: null,
    });
    const redirected = loadConfig({ flags: { s3FileRedirect: '/ebb-files' } }, host());
    expect(redirected.s3?.fileRedirect).toBe('/ebb-files');
    expect(complaintsOf({ s3FileRedirect: 'files/' }).join()).toContain('such as /ebb-files');
    expect(loadConfig({ flags: { listen: '127.0.0.1:0' } }, host()).s3?.listen.port).toBe(0);
    expect(loadConfig({ flags: { listen: 'off' } }, host()).s3).toBeNull();
    expect(loadConfig({ flags: { s3Listen: 'off' } }, host()).s3).toBeNull();
  });

  test('takes keys from the environment and from a file, and then listens for other hosts', () => {
    const file = JSON.stringify([{ accessKeyId: 'app', secretAccessKey: SECRET, grants: [] }]);
    const flags = { s3Keys: '/etc/keys', s3Listen: '0.0.0.0:9701' };
    const config = loadConfig({ flags }, host({ env: keyPair, readFile: () => file }));
    expect(config.s3?.keys.map(({ accessKeyId }) => accessKeyId)).toEqual(['ops', 'app']);
    expect(complaintsOf({ s3Listen: '0.0.0.0:9701' })[0]).toContain('no access keys');
  });

  test.each([
    ['half a pair', { EBB_SECRET_ACCESS_KEY: SECRET }, '[]'],
    ['a file that is no JSON', {}, `[{"secretAccessKey": "${SECRET}"`],
    ['a key without id', {}, `[{"secretAccessKey": "${SECRET}"}]`],
    ['one id twice', keyPair, JSON.stringify([{ accessKeyId: 'ops', secretAccessKey: SECRET }])],
  ])('%s is refused, and no complaint repeats the secret', (_what, env, file) => {
    const complaints = complaintsOf({ s3Keys: '/etc/keys' }, { env, readFile: () => file });
    expect(complaints).toHaveLength(1);
    expect(complaints.join()).not.toContain(SECRET);
  });
});

describe('encryption keys', () => {
  const KEY = Buffer.alloc(32, 'k').toString('base64');

  test('come from a file, the current one first, or one from the environment', () => {
    const file = JSON.stringify([
      { id: 'new', key: KEY },
      { id: 'old', key: KEY },
    ]);
    const flags = { encryptionKeys: '/etc/keys' };
    const { encryptionKeys } = loadConfig({ flags }, host({ readFile: () => file }));
    expect(encryptionKeys?.current.keyId).toBe('new');
    expect(encryptionKeys?.find('old')).toBeDefined();
    const fromEnv = loadConfig({}, host({ env: { EBB_ENCRYPTION_KEY: KEY } }));
    expect(fromEnv.encryptionKeys?.current.keyId).toBe('default');
    expect(loadConfig({}, host()).encryptionKeys).toBeNull();
  });

  test.each([
    ['a file that is no JSON', `[{"id": "a", "key": "${KEY}"`],
    ['a key without id', `[{"key": "${KEY}"}]`],
    ['a key of another length', `[{"id": "a", "key": "${KEY}AAAA"}]`],
    ['no keys', '[]'],
    ['one id twice', JSON.stringify([1, 2].map(() => ({ id: 'a', key: KEY })))],
  ])('%s is refused, and no complaint repeats the key', (_what, file) => {
    const complaints = complaintsOf({ encryptionKeys: '/etc/keys' }, { readFile: () => file });
    expect(complaints).toHaveLength(1);
    expect(complaints.join()).not.toContain(KEY);
  });
});

describe('the remote tier', () => {
  const file = (value: unknown, more: Record<string, string> = {}): Partial<ConfigHost> => ({
    readFile: (path) => more[path] ?? JSON.stringify(value),
  });
  const url = 's3://lake/raw?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu-west-1';

  test('is a bucket of S3 with the credentials of the environment, or one that a file names', () => {
    const plain = loadConfig({ flags: { remote: url } }, host()).remotes;
    expect(plain.own).toMatchObject({
      target: { bucket: 'lake', prefix: 'raw', endpoint: 'http://127.0.0.1:9000', pathStyle: true },
      layout: 'bucket/key',
    });
    const credentials = { accessKeyId: 'id', secretAccessKey: 'secret' };
    const named = loadConfig(
      { flags: { remotes: 'remotes.json', remote: 'mine' } },
      host(
        file(
          {
            mine: { url, layout: 'bucket/key', credentials },
            theirs: { url: 's3://theirs', credentialsFile: '/run/secrets/theirs' },
          },
          { '/run/secrets/theirs': JSON.stringify({ ...credentials, sessionToken: 'token' }) },
        ),
      ),
    ).remotes;
    expect(named.own).toBe(named.named.get('mine'));
    expect(named.own).toMatchObject({ credentials, layout: 'bucket/key' });
    expect(named.named.get('theirs')).toMatchObject({
      credentials: { ...credentials, sessionToken: 'token' },
      layout: 'key',
    });
  });

  test.each([
    [{ 'no good': { url } }, 'at most 63'],
    [{ a: { url, region: 'x' } }, 'a'],
    [{ a: { url: 's3://SECRET@x' } }, 'credentials do not belong'],
    [{ a: { url, credentials: { accessKeyId: 'SECRET' } } }, 'a.credentials.secretAccessKey'],
    [['SECRET'], 'one JSON object'],
    [{ a: { url, credentialsFile: '/missing' } }, 'cannot be read'],
  ])('a file that is wrong is told without what is in it: %j', (value, rule) => {
    const readFile = (path: string): string => {
      if (path === '/missing') throw new Error('ENOENT SECRET');
      return JSON.stringify(value);
    };
    const complaints = complaintsOf({ remotes: 'remotes.json' }, { readFile }).join('\n');
    expect(complaints).toContain('remotes');
    expect(complaints).toContain(rule);
    expect(complaints).not.toContain('SECRET');
  });
});

describe('TLS', () => {
  test('a certificate without its key, a key without its certificate and a CA without both are refused', () => {
    expect(complaintsOf({ tlsCert: 'a.crt' })).toEqual([
      'tlsCert = "a.crt" (--tls-cert): TLS needs a certificate and its key; give --tls-key',
    ]);
    expect(complaintsOf({ tlsKey: 'a.key' })[0]).toContain('give --tls-cert');
    expect(complaintsOf({ tlsClientCa: 'a.crt' })[0]).toContain('give --tls-cert and --tls-key');
  });

  test('files that hold nothing of use are complaints of the configuration', () => {
    expect(complaintsOf({ tlsCert: 'a.crt', tlsKey: 'a.key' })).toHaveLength(2);
  });

  test('what is refused beyond loopback without keys is refused with TLS as well', async () => {
    const ca = await createTestCa(await tempDir());
    const { certFile, keyFile } = await ca.issue('node');
    const readFile = (path: string): string => readFileSync(path, 'utf8');
    const flags = { tlsCert: certFile, tlsKey: keyFile };
    expect(complaintsOf(flags, { readFile })).toEqual([]);
    expect(complaintsOf({ ...flags, listen: '0.0.0.0:9700' }, { readFile })[0]).toContain(
      '--allow-remote',
    );
    expect(complaintsOf({ ...flags, s3Listen: '0.0.0.0:9701' }, { readFile })[0]).toContain(
      'no access keys',
    );
  });
});
