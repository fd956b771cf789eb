/**
 * What can be set: one schema with units. Keys are the names in the JSON file; `EBB_MEMORY_LIMIT` and `--memory-limit` follow
 * from `memoryLimit`. A setting that is absent after all layers (config.ts) takes the default that its `meta` tells.
 *
 * Help texts and the table in the docs are made from `SETTINGS`.
 */
import { KiB, parseBytes, parseDuration } from '@ebb/protocol';
import { z } from 'zod';

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
    default: '80% of what is free, own files counted as free; grows when others give back room',
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
  presignReads: flag.default(true).meta({
    value: 'BOOL',
    means:
      'hand out presigned URLs with which clients read snapshots straight from an object store, where that alone has them',
    default: 'true',
  }),
  logLevel: z
    .enum(LOG_LEVELS, `one of ${LOG_LEVELS.join(', ')}`)
    .default('info')
    .meta({ value: 'LEVEL', means: `one of ${LOG_LEVELS.join(', ')}`, default: 'info' }),
});

export type ConfigName = keyof typeof configSchema.shape;
/** Parsed; those that did not parse are absent. */
export type Settings = Partial<z.output<typeof configSchema>>;
/** What stood in the file, in the environment or on the command line, not parsed yet. */
export type RawConfig = Partial<Record<ConfigName, unknown>>;

export interface Setting {
  readonly name: ConfigName;
  /** For commander: `--memory-limit <SIZE>`, `--allow-remote`, or `--presign-reads [BOOL]`. */
  readonly flag: string;
  readonly env: string;
  readonly means: string;
  readonly default: string;
}
/** For `ebb node --help` and the docs. */
export const SETTINGS: readonly Setting[] = Object.entries(configSchema.shape).map(
  ([name, schema]) => {
    const meta = schema.meta() as { value?: string; means: string; default: string };
    // One that is true unless said has to be turned off; alone it means true, like all others.
    const value = meta.value === 'BOOL' ? ' [BOOL]' : meta.value && ` <${meta.value}>`;
    const words = name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    return {
      name: name as ConfigName,
      flag: `--${words}${value ?? ''}`,
      env: `EBB_${words.replaceAll('-', '_').toUpperCase()}`,
      means: meta.means,
      default: meta.default,
    };
  },
);

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
