/** JSON of the control surface, as zod schemas: the server validates with them, clients take their types from them. */
import { z } from 'zod';
import { nodeConditionSchema } from './conditions.ts';

export const ackSchema = z.enum(['memory', 'disk', 'remote']);
export const presetSchema = z.enum(['ephemeral', 'buffered', 'durable']);
const versioningSchema = z.enum(['off', 'enabled', 'suspended']);
export const tierNameSchema = z.enum(['memory', 'disk', 'remote']);

/** What a bucket promises. Presets fill in what is left out; see docs in ARCHITECTURE.md, "Promises". */
export const bucketPolicySchema = z.object({
  preset: presetSchema.default('buffered'),
  /** What must hold before a write is acknowledged. */
  ack: ackSchema.optional(),
  /** Whether committed objects are copied to tier 2 in the background. */
  mirror: z.boolean().optional(),
  /** Objects vanish this long after their commit; absent: never. */
  ttlMs: z.number().int().positive().optional(),
  /** Sum of object sizes the bucket may hold; absent: no limit. */
  quotaBytes: z.number().int().positive().optional(),
  /** Where its objects go in tier 2: `s3://bucket/prefix`, or a name that the node's configuration gives; absent: to the node's own. */
  remote: z.string().min(1).max(1024).optional(),
  /** Others change its objects in tier 2: look again before an object is read that was not compared for so long; absent: never. */
  revalidateMs: z.number().int().nonnegative().optional(),
  /** Whether a write or delete keeps what it replaces. Once on it can be suspended, not turned off; absent: as it is, or off. */
  versioning: versioningSchema.optional(),
  /** Whether changes of its objects are recorded as events; absent: unless the preset is `ephemeral`. */
  events: z.boolean().optional(),
  /** Whether its bytes are encrypted on disk and in tier 2; absent: no. The node needs encryption keys. */
  encrypted: z.boolean().optional(),
});
/** What can be changed of a bucket that is there. */
export const bucketChangeSchema = z.object({ versioning: z.enum(['enabled', 'suspended']) });
export type BucketChange = z.infer<typeof bucketChangeSchema>;
export type BucketPolicyInput = z.input<typeof bucketPolicySchema>;

export const bucketInfoSchema = z.object({
  name: z.string(),
  createdAtMs: z.number(),
  policy: z.object({
    preset: presetSchema,
    ack: ackSchema,
    mirror: z.boolean(),
    ttlMs: z.number().nullable(),
    quotaBytes: z.number().nullable(),
    remote: z.string().nullable(),
    revalidateMs: z.number().nullable(),
    versioning: versioningSchema,
    events: z.boolean(),
    encrypted: z.boolean(),
  }),
  objects: z.number().optional(),
  sizeBytes: z.number().optional(),
  oldVersions: z.number().optional().describe('with delete markers; where versions are kept'),
  oldVersionsBytes: z.number().optional(),
});
export type BucketInfo = z.infer<typeof bucketInfoSchema>;

export const objectInfoSchema = z.object({
  bucket: z.string(),
  key: z.string(),
  version: z.number(),
  sizeBytes: z.number(),
  etag: z.string(),
  crc32c: z.string().nullable().describe('CRC32C of the whole object, 8 hex digits'),
  contentType: z.string(),
  metadata: z.record(z.string(), z.string()),
  createdAtMs: z.number(),
  jobId: z.string().nullable(),
  pinned: z.boolean(),
  durability: ackSchema.describe('what holds now; means nothing of an object that is lost'),
  tiers: z.array(tierNameSchema).describe('where copies of all its bytes lie now, nearest first'),
  lost: z
    .literal(true)
    .optional()
    .describe('bytes of it are in no tier any more: reading it is `data_lost`'),
});
export type ObjectInfo = z.infer<typeof objectInfoSchema>;

export const listResponseSchema = z.object({
  objects: z.array(objectInfoSchema),
  /** Common prefixes, when a delimiter was given. */
  prefixes: z.array(z.string()),
  /** Pass as `startAfter` for the next page; null at the end. */
  next: z.string().nullable(),
});
export type ListResponse = z.infer<typeof listResponseSchema>;

const placeSchema = z.object({ bucket: z.string(), key: z.string() });
/** `key` ending in `/` with `prefix: true` means all keys that start with it. */
export const copyRequestSchema = z.object({
  from: placeSchema,
  to: placeSchema,
  overwrite: z.boolean().default(true),
});
export const renameRequestSchema = z.object({
  from: placeSchema,
  to: placeSchema,
  prefix: z.boolean().default(false),
  overwrite: z.boolean().default(true),
});
export const pinRequestSchema = placeSchema.extend({ pinned: z.boolean() });
export const relocateRequestSchema = placeSchema.extend({
  tier: tierNameSchema,
  prefix: z.boolean().default(false),
});
export const affectedSchema = z.object({ objects: z.number(), sizeBytes: z.number() });
export type Affected = z.infer<typeof affectedSchema>;

export const jobInfoSchema = z.object({
  jobId: z.string(),
  label: z.string(),
  createdAtMs: z.number(),
  heartbeatTtlMs: z.number(),
  lastHeartbeatMs: z.number(),
  budgetBytes: z.number().nullable(),
  objects: z.number(),
  sizeBytes: z.number(),
});
export type JobInfo = z.infer<typeof jobInfoSchema>;
/** What may be asked of a job that was opened under this token, and of no other of its id. */
export const jobTokenSchema = z
  .string()
  .min(1)
  .max(200)
  .describe('chosen once by whoever begins the job, and shown by whoever comes back to it');
/** The answer to whoever opened it; nobody else is told the token. */
export const jobOpenedSchema = jobInfoSchema.extend({ token: jobTokenSchema });
export type JobOpened = z.infer<typeof jobOpenedSchema>;
export const jobPutSchema = z.object({
  token: jobTokenSchema
    .optional()
    .describe(
      'a job that is open under another token is refused: `job_exists`; without one, the node makes it',
    ),
  label: z.string().default(''),
  heartbeatTtlMs: z.number().int().min(1000).default(120_000),
  budgetBytes: z.number().int().positive().nullable().default(null),
});
export const jobReceiptSchema = z.object({
  jobId: z.string(),
  objects: z.number(),
  freedBytes: z.number(),
  stagedWrites: z.number().describe('unfinished writes that were thrown away'),
});
export type JobReceipt = z.infer<typeof jobReceiptSchema>;

export const shuffleInfoSchema = z.object({
  jobId: z.string(),
  shuffleId: z.number(),
  maps: z.number(),
  partitions: z.number(),
  committedMaps: z.number(),
  sizeBytes: z.number(),
});
export type ShuffleInfo = z.infer<typeof shuffleInfoSchema>;

export const tierStatusSchema = z.object({
  tier: tierNameSchema,
  location: z.string(),
  capacityBytes: z.number().nullable(),
  usedBytes: z.number().describe('committed and staged bytes, and recycled files kept ready'),
  stagedBytes: z.number(),
  pooledBytes: z.number(),
  blobs: z.number(),
});
export const statusSchema = z.object({
  nodeId: z.string(),
  version: z.string(),
  startedAtMs: z.number(),
  /** `read_only`: every change is refused, by a condition that says why. */
  state: z.enum(['starting', 'ready', 'read_only', 'draining']),
  socket: z.string().nullable(),
  tiers: z.array(tierStatusSchema),
  buckets: z.number(),
  objects: z.number(),
  jobs: z.number(),
  shuffles: z.number(),
  connections: z.number(),
  mirrorBacklogBytes: z.number(),
  mirrorBacklogObjects: z.number(),
  /** Since when the oldest of them waits. */
  mirrorOldestMs: z.number().nullable(),
  /** At the rate of the last minute; null while tier 1 does not grow. */
  diskSecondsUntilFull: z.number().nullable(),
  /** What the node goes on with less than all it offers for, the gravest first. */
  conditions: z.array(nodeConditionSchema).default([]),
});
export type Status = z.infer<typeof statusSchema>;

export const whySchema = z.object({
  subject: z.string(),
  object: objectInfoSchema.nullable(),
  events: z.array(
    z.object({
      atMs: z.number(),
      what: z.string(),
      details: z.record(z.string(), z.union([z.string(), z.number()])),
    }),
  ),
  summary: z.string(),
  /** Those of the node that touch this object. */
  conditions: z.array(nodeConditionSchema).default([]),
});
export type Why = z.infer<typeof whySchema>;

export const verifyResponseSchema = z.object({
  blobs: z.number(),
  bytes: z.number(),
  broken: z.array(
    z.object({
      blobId: z.number(),
      tier: tierNameSchema,
      objects: z.array(z.string()),
      problem: z.string(),
    }),
  ),
});
export type VerifyResponse = z.infer<typeof verifyResponseSchema>;

export const syncRequestSchema = z.object({
  prefix: z.string().default(''),
  /** What went in the remote tier goes here too; never the other way round. */
  remove: z.boolean().default(false),
  /** Also where so much went that the remote tier looks broken. */
  force: z.boolean().default(false),
  /** Looks, and changes nothing. */
  dryRun: z.boolean().default(false),
});
/** Of `/v1/runs/import`, and of every sync. */
export const runsImportedSchema = z.object({
  runs: z.array(
    z.object({
      run: z.string(),
      imported: z.number().describe('snapshots that the node had no record of'),
      unchanged: z.number().describe('it had a record of them, which stays as it is'),
      latestStep: z.number().nullable().describe('what a training job goes on from'),
    }),
  ),
  refused: z
    .array(z.object({ key: z.string(), problem: z.string() }))
    .describe('manifests that were not taken in'),
});
export type RunsImported = z.infer<typeof runsImportedSchema>;

export const syncResponseSchema = z.object({
  added: z.number(),
  updated: z.number().describe('changed in the remote tier by others'),
  removed: z.number(),
  unchanged: z.number(),
  bytes: z.number().describe('of those added and updated; none was read'),
  refused: z.array(z.object({ key: z.string(), problem: z.string() })),
  missing: z
    .number()
    .describe('objects that are here and went in the remote tier; counted with `remove`'),
  removalRefused: z
    .string()
    .optional()
    .describe('why none of the missing ones was removed, though that was asked for'),
  checkpoints: runsImportedSchema,
});
export type SyncResponse = z.infer<typeof syncResponseSchema>;

export const gcResponseSchema = z.object({
  expiredStagings: z.number(),
  orphanFiles: z.number(),
  orphanBytes: z.number(),
  lostObjects: z.number(),
  trimmedPoolBytes: z.number(),
});
export type GcResponse = z.infer<typeof gcResponseSchema>;

export const errorBodySchema = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    retry: z.enum(['never', 'safe', 'ambiguous']),
    details: z.record(z.string(), z.unknown()),
  }),
});
