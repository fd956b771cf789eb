/**
 * Configuration of a node: the settings of config-schema.ts, from four places, each stronger than the one before:
 * defaults < JSON file (`--config FILE`) < environment `EBB_*` < flags.
 *
 * Only this file reads the environment. Every complaint is reported at once, each with the value, where it came from, the
 * rule and what to do.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { homedir, totalmem } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { errnoOf, type Keyring, parseKeyring, parseS3Location } from '@ebb/core';
import { formatBytes, isStoreError, MiB, StoreError } from '@ebb/protocol';
import {
  type ConfigName,
  configSchema,
  type RawConfig,
  SETTINGS,
  type Setting,
  type Settings,
} from './config-schema.ts';
import { type OwnRemote, parseRemotesFile, type RemotesConfig, type S3Remote } from './remotes.ts';
import { type AccessKey, keyFileSchema } from './s3/auth/key-ring.ts';
import { readTlsIdentity, type TlsFiles } from './tls/identity.ts';

export interface NodeConfig {
  readonly dataDir: string;
  readonly memoryDir: string;
  readonly memoryLimitBytes: number;
  readonly diskLimitBytes: number;
  /** The limit is no setting, but a part of what is free: it grows when others give back room. */
  readonly diskLimitGrows: boolean;
  readonly remotes: RemotesConfig;
  /** null: buckets cannot be encrypted. */
  readonly encryptionKeys: Keyring | null;
  readonly spoolBytesMax: number | null;
  readonly spoolAgeMsMax: number | null;
  readonly listen: { readonly host: string; readonly port: number } | null;
  readonly allowRemote: boolean;
  readonly socketPath: string | null;
  /** null: no S3 surface. */
  readonly s3: {
    readonly listen: { readonly host: string; readonly port: number };
    readonly domain: string;
    readonly keys: readonly AccessKey[];
    readonly fileRedirect: string | null;
  } | null;
  /** Of both TCP addresses; null: plain HTTP. */
  readonly tls: TlsFiles | null;
  readonly memoryMarks: { readonly high: number; readonly low: number };
  readonly diskMarks: { readonly high: number; readonly low: number };
  readonly poolBytesMax: number;
  readonly stagingTtlMs: number;
  readonly jobHeartbeatTtlMs: number;
  readonly drainDeadlineMs: number;
  readonly persistOnDrain: boolean;
  readonly presignReads: boolean;
  readonly logLevel: NonNullable<Settings['logLevel']>;
  /** Files that hold secrets, by the flag that names them. */
  readonly secretFiles: readonly { readonly setting: string; readonly path: string }[];
  /** For the log at start. */
  readonly warnings: readonly string[];
}

/** What the machine says; a port, so that tests can say something else. */
export interface ConfigHost {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly homeDir: string;
  readonly workDir: string;
  readonly uid: number;
  readonly memoryBytes: number;
  readFile(path: string): string;
  /** Of the file system that holds the path, or would hold it. */
  space(path: string): {
    readonly totalBytes: number;
    readonly freeBytes: number;
    readonly tmpfs: boolean;
  };
  /** Bytes allocated by the files below; 0 when there is no such directory. */
  usedBytes(directory: string): number;
}

/** A Unix socket's path may have 107 bytes and a NUL. */
/** The disk tier without `--disk-limit` takes this part of what is free and its own. */
export const DISK_PART = 0.8;
const SOCKET_PATH_BYTES_MAX = 107;
/** Names in the environment that are ours and not the node's. */
const OTHER_ENV = new Set([
  'EBB_CONFIG',
  'EBB_NODE',
  'EBB_CA_FILE',
  'EBB_CERT_FILE',
  'EBB_KEY_FILE',
  'EBB_JOB',
  'EBB_URL',
  'EBB_HOME',
  'EBB_ACCESS_KEY_ID',
  'EBB_SECRET_ACCESS_KEY',
  'EBB_ENCRYPTION_KEY',
]);

interface Complaint {
  readonly setting: string;
  readonly value: unknown;
  readonly from: string;
  readonly rule: string;
  readonly fix: string;
}

type Complain = (name: ConfigName, value: unknown, rule: string, fix: string) => void;

/** What it takes to go from settings to the configuration. */
interface Resolving {
  readonly settings: Settings;
  readonly host: ConfigHost;
  readonly warnings: string[];
  readonly complain: Complain;
  /** Of a path as it was given: `~/` is the home directory, others start from the work directory. */
  absolute(path: string): string;
}

/**
 * @param options.flags what the command line said, by setting name (`memoryLimit`); undefined where it said nothing
 * @param options.file the value of `--config`; else `EBB_CONFIG` names the file
 * @throws {StoreError} `config_invalid`, with every complaint
 */
export function loadConfig(
  options: { readonly flags?: RawConfig; readonly file?: string | undefined } = {},
  host: ConfigHost = systemHost(),
): NodeConfig {
  const complaints: Complaint[] = [];
  const warnings: string[] = [];
  const raw = new Map<ConfigName, { value: unknown; from: string }>();
  const put = (values: RawConfig, from: (name: ConfigName) => string): void => {
    for (const { name } of SETTINGS)
      if (values[name] !== undefined) raw.set(name, { value: values[name], from: from(name) });
  };
  const file = options.file ?? host.env.EBB_CONFIG;
  if (file !== undefined && file !== '')
    put(readConfigFile(resolve(host.workDir, file), host, complaints), () => file);
  put(readEnvironment(host.env, warnings), (name) => settingOf(name).env);
  put(options.flags ?? {}, (name) => settingOf(name).flag.split(' ')[0] as string);

  const parsed: Record<string, unknown> = {};
  for (const { name, flag } of SETTINGS) {
    const given = raw.get(name);
    const result = configSchema.shape[name].safeParse(given?.value);
    if (result.success) parsed[name] = result.data;
    else
      for (const issue of result.error.issues)
        complaints.push({
          setting: name,
          value: given?.value,
          from: given?.from ?? 'default',
          rule: issue.message,
          fix: `give ${flag}`,
        });
  }
  const config = resolveConfig({
    settings: parsed as Settings,
    host,
    warnings,
    absolute: (path) =>
      path.startsWith('~/') ? join(host.homeDir, path.slice(2)) : resolve(host.workDir, path),
    complain: (name, value, rule, fix) =>
      complaints.push({ setting: name, value, from: raw.get(name)?.from ?? 'default', rule, fix }),
  });
  if (complaints.length > 0) throw invalid(complaints);
  return config;
}

/** Fills in defaults that depend on the machine or on each other, and checks how settings fit together. */
function resolveConfig(input: Resolving): NodeConfig {
  const { settings, host, absolute, warnings, complain } = input;
  const dataHome = host.env.XDG_DATA_HOME || join(host.homeDir, '.local/share');
  const dataDir = absolute(settings.data ?? join(dataHome, 'ebb'));
  const hash = createHash('sha256').update(dataDir).digest('hex').slice(0, 8);
  const memoryDir = absolute(settings.memoryDir ?? `/dev/shm/ebb-${host.uid}-${hash}`);
  if (memoryDir === dataDir || `${dataDir}/`.startsWith(`${memoryDir}/`))
    complain(
      'memoryDir',
      memoryDir,
      `must not be, or contain, the data directory ${dataDir}`,
      'give --memory-dir a directory of its own on a tmpfs',
    );

  const memorySpace = host.space(memoryDir);
  if (!memorySpace.tmpfs)
    warnings.push(
      `${memoryDir} is not on a tmpfs: the memory tier will be as slow as that file system`,
    );
  const memoryRoom = Math.floor(memorySpace.totalBytes * 0.9);
  const memoryLimitBytes =
    settings.memoryLimit ?? Math.min(Math.floor(host.memoryBytes / 4), memoryRoom);
  if (memoryLimitBytes > memorySpace.totalBytes)
    complain(
      'memoryLimit',
      memoryLimitBytes,
      `the file system of ${memoryDir} has ${formatBytes(memorySpace.totalBytes)} in all`,
      'give a smaller --memory-limit, or a larger tmpfs (in a container: --shm-size)',
    );
  else if (memoryLimitBytes < MiB && settings.memoryLimit === undefined)
    complain(
      'memoryLimit',
      memoryLimitBytes,
      'too little room for the default of the memory tier',
      'give --memory-dir a tmpfs with room, or an explicit --memory-limit',
    );

  const diskSpace = host.space(dataDir);
  const diskLimitBytes =
    settings.diskLimit ??
    Math.floor((diskSpace.freeBytes + host.usedBytes(join(dataDir, 'disk'))) * DISK_PART);
  if (diskLimitBytes > diskSpace.totalBytes)
    complain(
      'diskLimit',
      diskLimitBytes,
      `the file system of ${dataDir} has ${formatBytes(diskSpace.totalBytes)} in all`,
      'give a smaller --disk-limit, or --data on a larger disk',
    );

  for (const [high, low] of [
    ['memoryHigh', 'memoryLow'],
    ['diskHigh', 'diskLow'],
  ] as const) {
    const [h, l] = [settings[high], settings[low]];
    if (h !== undefined && l !== undefined && l >= h)
      complain(
        low,
        l,
        `must be below ${high}, which is ${h}`,
        `give a lower --${low.replace('Low', '-low')}`,
      );
  }
  const poolBytesMax = settings.poolLimit ?? Math.floor(memoryLimitBytes / 2);
  if (poolBytesMax > memoryLimitBytes)
    complain(
      'poolLimit',
      poolBytesMax,
      `must not be above the memory limit of ${formatBytes(memoryLimitBytes)}`,
      'give a smaller --pool-limit',
    );

  const allowRemote = settings.allowRemote ?? false;
  const listen = parseListen(settings.listen ?? 'off', complain);
  if (listen !== null && !isLoopback(listen.host) && !allowRemote)
    complain(
      'listen',
      settings.listen,
      'other hosts could reach this address, and no credentials are set',
      'listen on 127.0.0.1, or say --allow-remote if the network is trusted',
    );
  const tls = resolveTls(input);
  if (listen !== null && !isLoopback(listen.host) && allowRemote && !tls?.clientCaFile)
    warnings.push(
      `listening on ${listen.host} without credentials: whoever reaches the port can read and write everything`,
    );

  const socketPath =
    settings.socket === 'off' ? null : absolute(settings.socket ?? join(dataDir, 'ebb.sock'));
  if (socketPath !== null && Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX)
    complain(
      'socket',
      socketPath,
      `a Unix socket's path has at most ${SOCKET_PATH_BYTES_MAX} bytes, this has ${Buffer.byteLength(socketPath)}`,
      'give a shorter --socket, such as /tmp/ebb.sock',
    );
  if (socketPath === null && settings.listen === 'off')
    complain(
      'listen',
      'off',
      'neither an address nor a socket is left to listen on',
      'give --listen or --socket',
    );

  return {
    dataDir,
    memoryDir,
    memoryLimitBytes,
    diskLimitBytes,
    diskLimitGrows: settings.diskLimit === undefined,
    remotes: resolveRemotes(input, dataDir),
    encryptionKeys: resolveEncryptionKeys(input),
    spoolBytesMax: settings.spoolLimit ?? null,
    spoolAgeMsMax: settings.spoolAge ?? null,
    listen,
    allowRemote,
    socketPath,
    s3: resolveS3(input),
    tls,
    memoryMarks: { high: settings.memoryHigh ?? 1, low: settings.memoryLow ?? 0 },
    diskMarks: { high: settings.diskHigh ?? 1, low: settings.diskLow ?? 0 },
    poolBytesMax,
    stagingTtlMs: settings.stagingTtl ?? 0,
    jobHeartbeatTtlMs: settings.jobHeartbeatTtl ?? 0,
    drainDeadlineMs: settings.drainDeadline ?? 0,
    persistOnDrain: settings.persistOnDrain ?? false,
    presignReads: settings.presignReads ?? false,
    logLevel: settings.logLevel ?? 'info',
    secretFiles: (
      [
        ['--tls-key', settings.tlsKey],
        ['--s3-keys', settings.s3Keys],
        ['--remotes', settings.remotes],
      ] as const
    ).flatMap(([setting, path]) => (path === undefined ? [] : [{ setting, path: absolute(path) }])),
    warnings,
  };
}

/** The files are read here so that what is wrong with them is told with the rest; the node reads them again. */
function resolveTls({ settings, host, complain, absolute, warnings }: Resolving): TlsFiles | null {
  const { tlsCert, tlsKey, tlsClientCa } = settings;
  if (tlsCert === undefined && tlsKey === undefined) {
    if (tlsClientCa !== undefined)
      complain('tlsClientCa', tlsClientCa, NO_TLS_PAIR, 'give --tls-cert and --tls-key');
    return null;
  }
  if (tlsCert === undefined || tlsKey === undefined) {
    const [given, missing] =
      tlsCert === undefined
        ? (['tlsKey', '--tls-cert'] as const)
        : (['tlsCert', '--tls-key'] as const);
    complain(given, settings[given], NO_TLS_PAIR, `give ${missing}`);
    return null;
  }
  const files: TlsFiles = {
    certFile: absolute(tlsCert),
    keyFile: absolute(tlsKey),
    clientCaFile: tlsClientCa === undefined ? null : absolute(tlsClientCa),
  };
  const identity = readTlsIdentity(files, { readFile: host.readFile, nowMs: Date.now() }, complain);
  warnings.push(...(identity?.warnings ?? []));
  return files;
}

const NO_TLS_PAIR = 'TLS needs a certificate and its key';

/** Where the S3 surface listens, and who may use it. */
function resolveS3({ settings, host, complain, absolute }: Resolving): NodeConfig['s3'] {
  const control = settings.listen ?? 'off';
  const otherwise =
    control === 'off' ? 'off' : /:0$/.test(control) ? '127.0.0.1:0' : '127.0.0.1:9701';
  const listen = parseListen(settings.s3Listen ?? otherwise, complain, 's3Listen');
  const keys: AccessKey[] = [];
  const { EBB_ACCESS_KEY_ID: accessKeyId, EBB_SECRET_ACCESS_KEY: secretAccessKey } = host.env;
  if (accessKeyId || secretAccessKey)
    keys.push(
      ...parseKeys([{ accessKeyId, secretAccessKey }], (rule) =>
        complain('s3Keys', 'EBB_ACCESS_KEY_ID and EBB_SECRET_ACCESS_KEY', rule, 'set both'),
      ),
    );
  if (settings.s3Keys !== undefined) {
    const path = absolute(settings.s3Keys);
    try {
      keys.push(
        ...parseKeys(JSON.parse(host.readFile(path)), (rule) =>
          complain('s3Keys', path, rule, 'docs/s3.md shows the form of the file'),
        ),
      );
    } catch (error) {
      // The words of a parser could repeat what stands in the file.
      const rule = `cannot be read${refusalOf(error) || ' as JSON'}`;
      complain('s3Keys', path, rule, 'name a file that holds a list of keys');
    }
  }
  if (new Set(keys.map((key) => key.accessKeyId)).size !== keys.length)
    complain('s3Keys', 'the access keys', 'must each have an id of their own', 'remove one');
  if (listen !== null && !isLoopback(listen.host) && keys.length === 0)
    complain(
      's3Listen',
      settings.s3Listen,
      'other hosts could reach this address, and there are no access keys',
      'listen on 127.0.0.1, or give --s3-keys, or EBB_ACCESS_KEY_ID and EBB_SECRET_ACCESS_KEY',
    );
  if (listen === null) return null;
  const domain = (settings.s3Domain ?? 'localhost').toLowerCase();
  return { listen, domain, keys, fileRedirect: settings.s3FileRedirect ?? null };
}

/** Complaints repeat nothing of what stands in the file or the variable. */
function resolveEncryptionKeys({ settings, host, complain, absolute }: Resolving): Keyring | null {
  const { EBB_ENCRYPTION_KEY: key } = host.env;
  if (settings.encryptionKeys === undefined && !key) return null;
  const path = settings.encryptionKeys === undefined ? '' : absolute(settings.encryptionKeys);
  const fix = 'docs/encryption.md shows the form';
  try {
    const text = path === '' ? JSON.stringify([{ id: 'default', key }]) : host.readFile(path);
    return parseKeyring(text);
  } catch (error) {
    const isOurs = isStoreError(error, 'config_invalid');
    const rule = isOurs ? error.message : `cannot be read${refusalOf(error)}`;
    complain('encryptionKeys', path === '' ? 'EBB_ENCRYPTION_KEY' : path, rule, fix);
    return null;
  }
}

/** Why the system did not give a file: its code, which is no secret. '' for anything else. */
function refusalOf(error: unknown): string {
  const code = errnoOf(error);
  return /^E[A-Z0-9]+$/.test(code) ? ` (${code})` : '';
}

/** Complaints name fields, never values. */
function parseKeys(value: unknown, complain: (rule: string) => void): readonly AccessKey[] {
  const result = keyFileSchema.safeParse(value);
  if (result.success) return result.data;
  for (const { path, message } of result.error.issues) complain(`${path.join('.')}: ${message}`);
  return [];
}

function parseListen(
  text: string,
  complain: Complain,
  setting: 'listen' | 's3Listen' = 'listen',
): NodeConfig['listen'] {
  if (text === 'off') return null;
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:\s]+):(\d{1,5})$/.exec(text.trim());
  const port = Number(match?.[2]);
  if (match !== null && port <= 65_535)
    return { host: (match[1] as string).replace(/^\[(.*)\]$/, '$1'), port };
  complain(
    setting,
    text,
    'must be HOST:PORT with a port up to 65535, or "off"',
    setting === 'listen' ? 'give --listen 127.0.0.1:9700' : 'give --s3-listen 127.0.0.1:9701',
  );
  return null;
}

function resolveRemotes(
  { settings, host, complain, absolute }: Resolving,
  dataDir: string,
): RemotesConfig {
  let named: ReadonlyMap<string, S3Remote> = new Map();
  if (settings.remotes !== undefined) {
    const path = absolute(settings.remotes);
    try {
      named = parseRemotesFile(host.readFile(path), host, (rule) =>
        complain('remotes', path, rule, 'docs/tier2.md shows the form of the file'),
      );
    } catch (error) {
      const rule = `cannot be read${refusalOf(error)}`;
      complain('remotes', path, rule, 'name a file that this user may read');
    }
  }
  const text = settings.remote ?? pathToFileURL(join(dataDir, 'remote')).href;
  return { own: named.get(text) ?? parseRemote(text, complain), named };
}

/** The text may carry credentials: it is not repeated. */
function parseRemote(text: string, complain: Complain): OwnRemote {
  const scheme = /^[a-z0-9+.-]+:/i.exec(text)?.[0] ?? '';
  const refuse = (rule: string): OwnRemote => {
    const shown = scheme === '' ? '…' : `${scheme}//…`;
    complain(
      'remote',
      shown,
      rule,
      'give --remote file:///DIR, s3://BUCKET/PREFIX, or a name from --remotes',
    );
    return { directory: '' };
  };
  if (scheme === 's3:') {
    try {
      const target = parseS3Location(text, { allowsEndpoint: true });
      return { target, layout: 'bucket/key', credentials: undefined, ca: undefined };
    } catch (error) {
      return refuse((error as Error).message);
    }
  }
  if (scheme !== 'file:')
    return refuse(
      'must be file:///DIR with an absolute directory, s3://…, or the name of a remote',
    );
  const url = URL.parse(text);
  const path = url === null || url.host !== '' ? '/' : fileURLToPath(url);
  if (isAbsolute(path) && path !== '/') return { directory: path };
  return refuse('must be file:///DIR with an absolute directory');
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

function readConfigFile(path: string, host: ConfigHost, complaints: Complaint[]): RawConfig {
  const complain = (
    rule: string,
    fix: string,
    value: unknown = path,
    setting = '--config',
  ): void => {
    complaints.push({ setting, value, from: path, rule, fix });
  };
  let values: unknown;
  try {
    values = JSON.parse(host.readFile(path));
  } catch (error) {
    complain(
      `cannot be read as JSON: ${(error as Error).message}`,
      'name a file that holds one JSON object',
    );
    return {};
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    complain(
      'must hold one JSON object',
      `such as {"data": "/var/lib/ebb", "memoryLimit": "4GiB"}`,
    );
    return {};
  }
  for (const [name, value] of Object.entries(values))
    if (!Object.hasOwn(configSchema.shape, name))
      complain(
        'no such setting',
        `settings are: ${SETTINGS.map((setting) => setting.name).join(', ')}`,
        value,
        name,
      );
  return values as RawConfig;
}

function readEnvironment(env: ConfigHost['env'], warnings: string[]): RawConfig {
  const byEnv = new Map(SETTINGS.map((setting) => [setting.env, setting.name]));
  const values: RawConfig = {};
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith('EBB_') || value === undefined || value === '') continue;
    const setting = byEnv.get(name);
    if (setting !== undefined) values[setting] = value;
    else if (!OTHER_ENV.has(name))
      warnings.push(`${name} in the environment is no setting, and was ignored`);
  }
  return values;
}

function invalid(complaints: readonly Complaint[]): StoreError {
  const lines = complaints.map(
    ({ setting, value, from, rule, fix }) =>
      `${setting} = ${JSON.stringify(value) ?? 'nothing'} (${from}): ${rule}; ${fix}`,
  );
  const count = lines.length === 1 ? 'one complaint' : `${lines.length} complaints`;
  return new StoreError(
    'config_invalid',
    `${count} about the configuration:\n  ${lines.join('\n  ')}`,
    { complaints: lines },
  );
}

function settingOf(name: ConfigName): Setting {
  return SETTINGS.find((setting) => setting.name === name) as Setting;
}

const TMPFS_MAGIC = 0x01021994;

/** A user without an entry in the system's table and without HOME has none: then the work directory serves. */
function homeDirectory(): string {
  try {
    return homedir();
  } catch {
    return process.cwd();
  }
}

function systemHost(): ConfigHost {
  return {
    env: process.env,
    homeDir: homeDirectory(),
    workDir: process.cwd(),
    uid: process.getuid?.() ?? 0,
    // In a container the limit of the cgroup counts; it is absurdly high where there is none.
    memoryBytes: Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY),
    readFile: (path) => readFileSync(path, 'utf8'),
    space: (path) => {
      for (let at = path; ; at = join(at, '..')) {
        try {
          const found = statfsSync(at);
          return {
            totalBytes: found.blocks * found.bsize,
            freeBytes: found.bavail * found.bsize,
            tmpfs: found.type === TMPFS_MAGIC,
          };
        } catch (error) {
          if (at === '/') throw error;
        }
      }
    },
    usedBytes: allocatedBytes,
  };
}

/** Of the files below; 0 when there is no such directory. */
export function allocatedBytes(directory: string): number {
  let used = 0;
  try {
    for (const entry of readdirSync(directory, { withFileTypes: true, recursive: true })) {
      if (entry.isFile())
        used +=
          (statSync(join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.blocks ?? 0) *
          512;
    }
  } catch {
    return used; // not there yet
  }
  return used;
}
