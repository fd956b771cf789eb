/**
 * Tier 2 as the configuration tells it: the node's own place (`--remote`), and places with a name and credentials of their own
 * (`--remotes FILE`), which buckets choose by name.
 *
 * I1  Credentials are in this process's memory and nowhere else: a bucket's policy holds a name or a plain location.
 * I2  Whoever may create a bucket chooses among places that the operator named, or a bucket of S3 that the node's own
 *     credentials reach; never the host to which signed requests go.
 */
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  assertTrustedPath,
  type Catalog,
  type Conditions,
  createRoutedTier,
  createWatchedTier,
  formatS3Location,
  isOwnPlaceKnown,
  noteOwnCopies,
  openDirectoryTier,
  openS3Tier,
  parseS3Location,
  type RemoteTier,
  type S3Credentials,
  type S3Remark,
  type S3Target,
  type S3Tier,
  type S3TierOptions,
  systemClock,
} from '@ebb/core';
import { type ConditionName, OWN_REMOTE, StoreError } from '@ebb/protocol';
import { z } from 'zod';

const credentialsSchema = z
  .strictObject({
    accessKeyId: z.string().min(1),
    secretAccessKey: z.string().min(1),
    sessionToken: z.string().min(1).optional(),
  })
  .transform(
    ({ sessionToken, ...key }): S3Credentials =>
      sessionToken === undefined ? key : { ...key, sessionToken },
  );

const remoteSchema = z.strictObject({
  url: z.string().min(1),
  /** Where an object lies: `key` below the prefix, for one bucket; `bucket/key`, for any number. */
  layout: z.enum(['key', 'bucket/key']).default('key'),
  /** Absent: the AWS SDK's own chain (environment, files, mounted tokens). */
  credentials: credentialsSchema.optional(),
  /** A file with the credentials, such as a mounted secret. */
  credentialsFile: z.string().min(1).optional(),
  /** PEM file with the CA of an endpoint whose certificate is not of a public one. */
  caFile: z.string().min(1).optional(),
});

/** Names stand in policies and between bars in names of tier 2. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

export interface S3Remote {
  readonly target: S3Target;
  readonly layout: 'key' | 'bucket/key';
  readonly credentials: S3Credentials | undefined;
  /** As PEM, in place of the public ones; undefined: those, and NODE_EXTRA_CA_CERTS. */
  readonly ca: string | undefined;
}
export type OwnRemote = { readonly directory: string } | S3Remote;

export interface RemotesConfig {
  readonly own: OwnRemote;
  readonly named: ReadonlyMap<string, S3Remote>;
}

/** Complaints name fields and remotes, never values. */
export function parseRemotesFile(
  text: string,
  host: { readonly readFile: (path: string) => string },
  complain: (rule: string) => void,
): ReadonlyMap<string, S3Remote> {
  const named = new Map<string, S3Remote>();
  const value = parseJson(text);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    complain('must hold one JSON object: a remote by its name');
    return named;
  }
  for (const [name, entry] of Object.entries(value)) {
    if (!NAME.test(name)) {
      complain('a name of a remote has letters, digits, dots, hyphens and underscores, at most 63');
      continue;
    }
    const parsed = remoteSchema.safeParse(entry);
    if (!parsed.success) {
      for (const { path, message } of parsed.error.issues)
        complain(`${[name, ...path].join('.')}: ${message}`);
      continue;
    }
    const { url, layout, credentials, credentialsFile, caFile } = parsed.data;
    try {
      const target = parseS3Location(url, { allowsEndpoint: true });
      const read =
        credentialsFile === undefined ? credentials : readCredentials(host, credentialsFile);
      const ca = caFile === undefined ? undefined : readCa(host, caFile);
      named.set(name, { target, layout, credentials: read, ca });
    } catch (error) {
      complain(`${name}: ${(error as Error).message}`);
    }
  }
  return named;
}

/** The file's words are not repeated: they may be the secret. */
function readCredentials(
  host: { readonly readFile: (path: string) => string },
  file: string,
): S3Credentials {
  let text: string;
  try {
    text = host.readFile(file);
  } catch {
    throw new StoreError('config_invalid', 'its credentialsFile cannot be read');
  }
  const parsed = credentialsSchema.safeParse(parseJson(text));
  if (parsed.success) return parsed.data;
  throw new StoreError(
    'config_invalid',
    'its credentialsFile must hold one JSON object with accessKeyId and secretAccessKey',
  );
}

function readCa(host: { readonly readFile: (path: string) => string }, file: string): string {
  let text = '';
  try {
    text = host.readFile(file);
  } catch {
    throw new StoreError('config_invalid', 'its caFile cannot be read');
  }
  if (text.includes('-----BEGIN CERTIFICATE-----')) return text;
  throw new StoreError('config_invalid', 'its caFile holds no certificate as PEM');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What a bucket's policy may say. */
export class RemoteChoice {
  readonly #named: RemotesConfig['named'];

  constructor({ named }: RemotesConfig) {
    this.#named = named;
  }

  /** @throws {StoreError} `request_invalid` */
  find(remote: string): S3Remote {
    const named = this.#named.get(remote);
    if (named !== undefined) return named;
    if (!remote.startsWith('s3://')) {
      const names = [...this.#named.keys()].join(', ') || 'none';
      throw invalid(
        `there is no remote "${remote.slice(0, 80)}"; the configuration names: ${names}`,
      );
    }
    // Between bars in names of tier 2.
    if (remote.includes('|')) throw invalid('a remote has no | in its location');
    try {
      const target = parseS3Location(remote, { allowsEndpoint: false });
      return { target, layout: 'key', credentials: undefined, ca: undefined };
    } catch (error) {
      throw invalid((error as Error).message);
    }
  }

  /**
   * Two buckets whose objects lie under their bare keys must not share a place.
   * @throws {StoreError} `request_invalid`
   */
  assertFree(
    bucket: string,
    remote: string,
    others: readonly {
      readonly name: string;
      readonly policy: { readonly remote: string | null };
    }[],
  ): void {
    const { layout } = this.find(remote);
    if (layout !== 'key') return;
    const holder = others.find(({ name, policy }) => policy.remote === remote && name !== bucket);
    if (holder === undefined) return;
    throw invalid(`bucket "${holder.name}" has its objects there already; choose another prefix`);
  }
}

/** No object has it: an answer is all that is wanted. */
const SOME_NAME = 'ebb/is-it-there';

export async function openRemote(
  config: RemotesConfig,
  node: {
    readonly nodeId: string;
    readonly dataDir: string;
    readonly conditions: Conditions;
    readonly catalog: Catalog;
  },
): Promise<RemoteTier> {
  const { own } = config;
  const { conditions } = node;
  const watch = (tier: RemoteTier, subject: string): RemoteTier =>
    createWatchedTier(tier, { conditions, clock: systemClock, subject });
  const choice = new RemoteChoice(config);
  assertTrustedPath({ path: join(node.dataDir, 'uploads'), setting: '--data' });
  const journal = (of: string): string =>
    join(node.dataDir, 'uploads', createHash('sha256').update(of).digest('hex').slice(0, 16));
  const fallback =
    'directory' in own
      ? await openOwnPlace(own.directory, node)
      : await openCleaned({
          ...{ target: own.target, credentials: own.credentials, names: 'bucket/key', ca: own.ca },
          uploadJournal: journal(''),
          onRemark: noting(conditions, OWN_REMOTE, formatS3Location(own.target)),
        });
  const watched = watch(fallback, OWN_REMOTE);
  // A place that is away is told from the start on, and not when somebody first asks for what lies there.
  if ('directory' in own) void watched.head(SOME_NAME).catch(() => undefined);
  return createRoutedTier({
    fallback: watched,
    open: async (remote, bucket) => {
      const { target, layout, credentials, ca } = choice.find(remote);
      const names = layout === 'key' ? { names: layout, bucket } : { names: layout };
      const tier = { target, credentials, ca, ...names };
      const onRemark = noting(conditions, remote, formatS3Location(target));
      const opened = await openCleaned({ ...tier, uploadJournal: journal(remote), onRemark });
      return watch(opened, remote);
    },
  });
}

async function openOwnPlace(
  root: string,
  {
    nodeId,
    dataDir,
    catalog,
  }: Pick<Parameters<typeof openRemote>[1], 'nodeId' | 'dataDir' | 'catalog'>,
): Promise<RemoteTier> {
  const isKnown = await isOwnPlaceKnown(catalog, root);
  // The default. Another one may be shared with whom the operator wants.
  const isOwn = root.startsWith(`${dataDir}/`);
  const tier = await openDirectoryTier({ root, nodeId, isKnown, isOwn });
  return noteOwnCopies(tier, catalog, root);
}

/**
 * Uploads of a killed process end now, behind whoever opens the tier: a put to the same place may never come. Where there
 * are none nothing is asked, and the store's answer is not waited for: the next put tries again.
 */
async function openCleaned(options: S3TierOptions & { uploadJournal: string }): Promise<S3Tier> {
  const tier = openS3Tier(options);
  const noted = await readdir(options.uploadJournal, { recursive: true }).catch(() => []);
  if (noted.some((name) => name.endsWith('.json')))
    void tier.abortLeftoverUploads().catch(() => undefined);
  return tier;
}

function noting(
  conditions: Conditions,
  subject: string,
  location: string,
): (remark: S3Remark) => void {
  return (remark) => {
    const { name, says } = REMARKS[remark];
    conditions.enter(name, subject, { reason: `${location} ${says}` });
  };
}

const REMARKS = {
  ignores_conditions: { name: 'remote_without_conditions', says: 'ignores If-Match' },
  refuses_conditions: {
    name: 'remote_without_conditions',
    says: 'refuses conditions of puts or deletes',
  },
  refuses_checksums: { name: 'remote_without_checksums', says: 'refuses a CRC32C with a put' },
} as const satisfies Record<S3Remark, { name: ConditionName; says: string }>;

function invalid(message: string): StoreError {
  return new StoreError('request_invalid', message);
}
