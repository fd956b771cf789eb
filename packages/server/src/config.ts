/**
 * Configuration of a node: one schema with units, from four places, each stronger than the one before:
 * defaults < JSON file (`--config FILE`) < environment `EBB_*` < flags.
 *
 * Only this file reads the environment. Every complaint is reported at once, each with the value, where it came from, the
 * rule and what to do. Help texts and the table in the docs are made from `SETTINGS`.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { homedir, totalmem } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type Keyring, parseKeyring, parseS3Location } from '@ebb/core';
import {
  formatBytes,
  isStoreError,
  KiB,
  MiB,
  parseBytes,
  parseDuration,
  StoreError,
} from '@ebb/protocol';
import { z } from 'zod';
import { type OwnRemote, parseRemotesFile, type RemotesConfig, type S3Remote } from './remotes.ts';
import { type AccessKey, keyFileSchema } from './s3/auth/key-ring.ts';
import { readTlsIdentity, type TlsFiles } from './tls/identity.ts';

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

const bytes = quantity(parseBytes).refine((value) => value >= 64 * KiB, 'at least 64KiB');
const duration = quantity(parseDuration);
const fraction = z
  .union([z.string(), z.number()])
  .transform((value, context) => {
    const match = /^\s*(\d+(?:\.\d+)?)\s*(%?)\s*$/.exec(String(value));
    if (match !== null) return Number(match[1]) / (match[2] === '%' ? 100 : 1);
    context.addIssue('is not a fraction such as 0.9 or 90%');
    return z.NEVER;
  })
  .refine((value) => value > 0 && value <= 1, 'above 0 and at most 1 (100%)');
const flag = z.union([z.boolean(), z.string()]).transform((value, context) => {
  if (value === true || /^(true|1|yes|on|)$/i.test(String(value))) return true;
  if (value === false || /^(false|0|no|off)$/i.test(String(value))) return false;
  context.addIssue('is not true or false');
  return z.NEVER;
});
const directory = z.string().min(1, 'a directory').refine(noNul, 'a path without NUL');

/**
 * The one schema. Keys are the names in the JSON file; `EBB_MEMORY_LIMIT` and `--memory-limit` follow from `memoryLimit`.
 * A setting that is absent here after all layers takes the default that `means` tells.
 */
export const configSchema = z.object({
  data: directory.optional().meta({
    value: 'DIR',
    means: 'directory of the node: catalog, disk tier, socket',
    default: '$XDG_DATA_HOME/ebb, else ~/.local/share/ebb',
  }),
  memoryDir: directory.optional().meta({
    value: 'DIR',
    means: 'directory of the memory tier; belongs on a tmpfs',
    default: '/dev/shm/ebb-<uid>-<hash of the data directory>',
  }),
  memoryLimit: bytes.optional().meta({
    value: 'SIZE',
    means: 'most bytes the memory tier may hold, recycled files included',
    default: "25% of the machine's memory, at most 90% of the tmpfs",
  }),
  diskLimit: bytes.optional().meta({
    value: 'SIZE',
    means: 'most bytes the disk tier may hold',
    default: '80% of what is free, own files counted as free',
  }),
  remote: z.string().optional().meta({
    value: 'URL',
    means:
      'the remote tier: file:///DIR, s3://BUCKET/PREFIX?endpoint=URL&region=REGION&pathStyle=true, or a name from --remotes',
    default: 'file://<data>/remote',
  }),
  remotes: z.string().min(1, 'a file').optional().meta({
    value: 'FILE',
    means:
      'places for the remote tier with credentials of their own, as JSON by name; buckets choose one by its name. Without credentials the AWS SDK looks for them (environment, files, mounted tokens)',
    default: 'none',
  }),
  encryptionKeys: z.string().min(1, 'a file').optional().meta({
    value: 'FILE',
    means:
      'master keys of encrypted buckets: a JSON list of {"id", "key"}, 32 bytes in base64 each, the current one first',
    default: 'none; or the one key in EBB_ENCRYPTION_KEY, whose id is "default"',
  }),
  spoolLimit: quantity(parseBytes).optional().meta({
    value: 'SIZE',
    means:
      'most bytes that may wait for the remote tier; beyond, writes into mirrored buckets are told to wait',
    default: 'none: until the disk tier is full',
  }),
  spoolAge: duration.optional().meta({
    value: 'TIME',
    means: 'longest that anything may wait for the remote tier before writes are told to wait',
    default: 'none',
  }),
  listen: z.string().default('127.0.0.1:9700').meta({
    value: 'HOST:PORT',
    means: 'TCP address of the HTTP surface; port 0 takes a free one, "off" none',
    default: '127.0.0.1:9700',
  }),
  socket: z.string().optional().meta({
    value: 'PATH',
    means: 'Unix socket for clients on this host; "off" for none',
    default: '<data>/ebb.sock',
  }),
  allowRemote: flag.default(false).meta({
    means:
      'listen on an address other hosts can reach: there are no credentials yet, so whoever reaches the port can read, write and delete everything',
    default: 'false',
  }),
  tlsCert: z.string().min(1, 'a file').optional().meta({
    value: 'FILE',
    means:
      'PEM file with the certificate of this node and its chain: both TCP addresses then speak TLS, and nothing else. Taken anew when it changes, and on SIGHUP',
    default: 'none: plain HTTP',
  }),
  tlsKey: z.string().min(1, 'a file').optional().meta({
    value: 'FILE',
    means: 'PEM file with the private key of the certificate, without a passphrase',
    default: 'none',
  }),
  tlsClientCa: z.string().min(1, 'a file').optional().meta({
    value: 'FILE',
    means:
      'PEM file with the CA whose certificates clients of --listen must show; clients of the S3 surface have access keys',
    default: 'none: clients need no certificate',
  }),
  s3Listen: z.string().optional().meta({
    value: 'HOST:PORT',
    means:
      'TCP address of the S3 surface; port 0 takes a free one, "off" none. Beyond loopback it needs access keys',
    default: '127.0.0.1:9701; a free port where --listen takes one, off where --listen is',
  }),
  s3Domain: z.string().min(1, 'a host name').default('localhost').meta({
    value: 'HOST',
    means: 'host whose sub-domains are buckets: http://BUCKET.HOST:PORT/KEY',
    default: 'localhost',
  }),
  s3Keys: z.string().min(1, 'a file').optional().meta({
    value: 'FILE',
    means:
      'access keys with grants, as JSON; EBB_ACCESS_KEY_ID and EBB_SECRET_ACCESS_KEY add one that may do everything. Without any, the S3 surface asks for no signature',
    default: 'none',
  }),
  s3FileRedirect: z
    .string()
    .regex(/^(\/[\w.-]+)+$/, 'a path such as /ebb-files')
    .optional()
    .meta({
      value: 'PATH',
      means:
        "a proxy on this host that sends `X-Sendfile-Type: X-Accel-Redirect` serves the tiers' directories below this path, as PATH/memory and PATH/disk, to nobody but us: large objects then go from file to socket without passing this process",
      default: 'none: this process sends every byte',
    }),
  memoryHigh: fraction.default(0.9).meta({
    value: 'FRACTION',
    means: 'above this share of its limit the memory tier spills',
    default: '0.9',
  }),
  memoryLow: fraction.default(0.75).meta({
    value: 'FRACTION',
    means: 'down to this share',
    default: '0.75',
  }),
  diskHigh: fraction.default(0.95).meta({
    value: 'FRACTION',
    means: 'above this share of its limit the disk tier moves objects to the remote tier',
    default: '0.95',
  }),
  diskLow: fraction.default(0.85).meta({
    value: 'FRACTION',
    means: 'down to this share',
    default: '0.85',
  }),
  poolLimit: quantity(parseBytes).optional().meta({
    value: 'SIZE',
    means: 'most bytes of recycled memory files kept ready for the next writes',
    default: 'half of the memory limit',
  }),
  stagingTtl: duration
    .default(600_000)
    .refine((ms) => ms >= 1000, 'at least 1s')
    .meta({
      value: 'TIME',
      means: 'a write that is not committed this long after its last call is thrown away',
      default: '10m',
    }),
  jobHeartbeatTtl: duration
    .default(120_000)
    .refine((ms) => ms >= 1000, 'at least 1s')
    .meta({
      value: 'TIME',
      means:
        'a job ends when neither a heartbeat nor a connection was seen this long, unless it asked otherwise',
      default: '2m',
    }),
  drainDeadline: duration.default(30_000).meta({
    value: 'TIME',
    means: 'longest wait for writers when the node stops',
    default: '30s',
  }),
  persistOnDrain: flag.default(false).meta({
    means: 'copy everything to the remote tier before the node stops',
    default: 'false',
  }),
  logLevel: z
    .enum(LOG_LEVELS, `one of ${LOG_LEVELS.join(', ')}`)
    .default('info')
    .meta({ value: 'LEVEL', means: `one of ${LOG_LEVELS.join(', ')}`, default: 'info' }),
});
export type ConfigName = keyof typeof configSchema.shape;
export type RawConfig = Partial<Record<ConfigName, unknown>>;

export interface Setting {
  readonly name: ConfigName;
  /** For commander: `--memory-limit <SIZE>`, or `--allow-remote`. */
  readonly flag: string;
  readonly env: string;
  readonly means: string;
  readonly default: string;
}
/** For `ebb node --help` and the docs. */
export const SETTINGS: readonly Setting[] = Object.entries(configSchema.shape).map(
  ([name, schema]) => {
    const meta = schema.meta() as { value?: string; means: string; default: string };
    const words = name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    return {
      name: name as ConfigName,
      flag: meta.value === undefined ? `--${words}` : `--${words} <${meta.value}>`,
      env: `EBB_${words.replaceAll('-', '_').toUpperCase()}`,
      means: meta.means,
      default: meta.default,
    };
  },
);

export interface NodeConfig {
  readonly dataDir: string;
  readonly memoryDir: string;
  readonly memoryLimitBytes: number;
  readonly diskLimitBytes: number;
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
  readonly logLevel: (typeof LOG_LEVELS)[number];
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
    settings: parsed as Partial<z.output<typeof configSchema>>,
    host,
    warnings,
    complain: (name, value, rule, fix) =>
      complaints.push({ setting: name, value, from: raw.get(name)?.from ?? 'default', rule, fix }),
  });
  if (complaints.length > 0) throw invalid(complaints);
  return config;
}

/** Fills in defaults that depend on the machine or on each other, and checks how settings fit together. */
function resolveConfig(input: {
  readonly settings: Partial<z.output<typeof configSchema>>;
  readonly host: ConfigHost;
  readonly warnings: string[];
  readonly complain: (name: ConfigName, value: unknown, rule: string, fix: string) => void;
}): NodeConfig {
  const { settings, host, warnings, complain } = input;
  const absolute = (path: string): string =>
    path.startsWith('~/') ? join(host.homeDir, path.slice(2)) : resolve(host.workDir, path);

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
    Math.floor((diskSpace.freeBytes + host.usedBytes(join(dataDir, 'disk'))) * 0.8);
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
  const tls = resolveTls({ settings, host, complain, absolute, warnings });
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
    remotes: resolveRemotes({ settings, host, complain, absolute, dataDir }),
    encryptionKeys: resolveEncryptionKeys({ settings, host, complain, absolute }),
    spoolBytesMax: settings.spoolLimit ?? null,
    spoolAgeMsMax: settings.spoolAge ?? null,
    listen,
    allowRemote,
    socketPath,
    s3: resolveS3({ settings, host, complain, absolute }),
    tls,
    memoryMarks: { high: settings.memoryHigh ?? 1, low: settings.memoryLow ?? 0 },
    diskMarks: { high: settings.diskHigh ?? 1, low: settings.diskLow ?? 0 },
    poolBytesMax,
    stagingTtlMs: settings.stagingTtl ?? 0,
    jobHeartbeatTtlMs: settings.jobHeartbeatTtl ?? 0,
    drainDeadlineMs: settings.drainDeadline ?? 0,
    persistOnDrain: settings.persistOnDrain ?? false,
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
function resolveTls({
  settings,
  host,
  complain,
  absolute,
  warnings,
}: {
  readonly settings: Partial<z.output<typeof configSchema>>;
  readonly host: ConfigHost;
  readonly complain: Complain;
  readonly absolute: (path: string) => string;
  readonly warnings: string[];
}): TlsFiles | null {
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

type Complain = (name: ConfigName, value: unknown, rule: string, fix: string) => void;

/** Where the S3 surface listens, and who may use it. */
function resolveS3({
  settings,
  host,
  complain,
  absolute,
}: {
  readonly settings: Partial<z.output<typeof configSchema>>;
  readonly host: ConfigHost;
  readonly complain: Complain;
  readonly absolute: (path: string) => string;
}): NodeConfig['s3'] {
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
    } catch {
      // Its words could repeat what stands in the file.
      complain('s3Keys', path, 'cannot be read as JSON', 'name a file that holds a list of keys');
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
function resolveEncryptionKeys({
  settings,
  host,
  complain,
  absolute,
}: {
  readonly settings: Partial<z.output<typeof configSchema>>;
  readonly host: ConfigHost;
  readonly complain: Complain;
  readonly absolute: (path: string) => string;
}): Keyring | null {
  const { EBB_ENCRYPTION_KEY: key } = host.env;
  if (settings.encryptionKeys === undefined && !key) return null;
  const path = settings.encryptionKeys === undefined ? '' : absolute(settings.encryptionKeys);
  const fix = 'docs/encryption.md shows the form';
  try {
    const text = path === '' ? JSON.stringify([{ id: 'default', key }]) : host.readFile(path);
    return parseKeyring(text);
  } catch (error) {
    const isOurs = isStoreError(error, 'config_invalid');
    const rule = isOurs ? error.message : 'cannot be read';
    complain('encryptionKeys', path === '' ? 'EBB_ENCRYPTION_KEY' : path, rule, fix);
    return null;
  }
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

function resolveRemotes({
  settings,
  host,
  complain,
  absolute,
  dataDir,
}: {
  readonly settings: Partial<z.output<typeof configSchema>>;
  readonly host: ConfigHost;
  readonly complain: Complain;
  readonly absolute: (path: string) => string;
  readonly dataDir: string;
}): RemotesConfig {
  let named: ReadonlyMap<string, S3Remote> = new Map();
  if (settings.remotes !== undefined) {
    const path = absolute(settings.remotes);
    try {
      named = parseRemotesFile(host.readFile(path), host, (rule) =>
        complain('remotes', path, rule, 'docs/tier2.md shows the form of the file'),
      );
    } catch {
      complain('remotes', path, 'cannot be read', 'name a file that this user may read');
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

function quantity(parse: (text: string | number) => number) {
  return z.union([z.string(), z.number()]).transform((value, context) => {
    try {
      return parse(value);
    } catch (error) {
      context.addIssue((error as Error).message);
      return z.NEVER;
    }
  });
}

function noNul(text: string): boolean {
  return !text.includes('\0');
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
