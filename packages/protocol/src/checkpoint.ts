/** JSON of `/v1/runs`, and the manifest that stays in the object store: docs/checkpoint-format.md. */
import { z } from 'zod';
import { ackSchema } from './control.ts';
import { StoreError } from './errors.ts';

export const CHECKPOINT_BUCKET = 'checkpoints';
export const CHECKPOINT_FORMAT = 'ebb-checkpoint/1';
/** Bytes; the last block of an image may be shorter. A tensor that changed costs one block more than it has, on average. */
export const CHECKPOINT_BLOCK_BYTES = 256 * 1024;
export const CHECKPOINT_STEP_MAX = 10 ** 12 - 1;

const count = z.number().int().nonnegative();
const step = z.number().int().min(0).max(CHECKPOINT_STEP_MAX);
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const name = z
  .string()
  .max(128)
  .regex(NAME, 'letters, digits, ".", "_" and "-", a letter or digit first');
/** A job names itself; `~N` is the job after it went back to earlier steps for the Nth time. */
const session = z
  .string()
  .max(74)
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(~[1-9][0-9]{0,8})?$/,
    'letters, digits, ".", "_" and "-", a letter or digit first, and "~N" behind it',
  );
export const runNameSchema = name;

/** Also before it becomes a part of a path: `..` would name something else there. @throws `name_invalid` */
export function parseRunName(run: string): string {
  if (!runNameSchema.safeParse(run).success)
    throw new StoreError(
      'name_invalid',
      `run ${JSON.stringify(run.slice(0, 80))}: use 1 to 128 letters, digits, ".", "_" and "-", a letter or digit first.`,
      { run: run.slice(0, 80) },
    );
  return run;
}

export const DTYPES = [
  'bool',
  ...(['uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64'] as const),
  ...(['float16', 'bfloat16', 'float32', 'float64', 'complex64', 'complex128'] as const),
  ...(['float8_e4m3fn', 'float8_e5m2', 'float8_e4m3fnuz', 'float8_e5m2fnuz'] as const),
] as const;

export const shardSchema = z.object({
  name: z.string(),
  /** Absent: plain bytes. */
  dtype: z.enum(DTYPES).optional(),
  shape: z.array(count).optional(),
  /** Bytes from the start of the image. */
  offset: count,
  length: count,
  /** It is a part of a tensor of this shape, and begins there. */
  piece: z.object({ shape: z.array(count), start: z.array(count) }).optional(),
});
export type Shard = z.infer<typeof shardSchema>;
export const imageTableSchema = z.object({ shards: z.array(shardSchema) });

/** `[offset in the image, length, key, offset in that object]` */
export const imageRunSchema = z.tuple([count, count, z.string(), count]);
export type ImageRun = z.infer<typeof imageRunSchema>;

export const manifestPartSchema = z.object({
  name,
  imageBytes: count,
  blockBytes: count,
  digest: z.literal('gmac-aes-128'),
  digests: z.string().describe('base64 of 16 bytes a block'),
  runs: z.array(imageRunSchema),
  shards: z.array(shardSchema),
});
export type ManifestPart = z.infer<typeof manifestPartSchema>;
export const manifestSchema = z.object({
  format: z.literal(CHECKPOINT_FORMAT),
  run: name,
  step,
  session,
  committedAt: z.iso.datetime(),
  /** Manifests of 0.1.0 have none. */
  sequence: count.optional(),
  metadata: z.record(z.string(), z.string()),
  parts: z.array(manifestPartSchema),
});
export type Manifest = z.infer<typeof manifestSchema>;

// ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

export const runPolicySchema = z.object({
  /** The so many that were committed last stay; null: no snapshot goes for its number. */
  keepLast: z.number().int().positive().nullable(),
  /** Those at a multiple of so many steps stay, whatever else says. */
  keepEvery: z.number().int().positive().nullable(),
  /** Older ones go. */
  maxAgeMs: z.number().int().positive().nullable(),
  /** The oldest go while all together take more: what is shared counts once. */
  maxBytes: z.number().int().positive().nullable(),
  /** Images in memory at once: the one being written, the last one, and what is not stored yet. */
  slots: z.number().int().min(1).max(64),
  /** When all slots are taken: the next snapshot waits, is left out, or takes more memory (or disk). */
  behind: z.enum(['wait', 'skip', 'spill']),
  /** A snapshot that a newer one overtook before it was stored: stored after that one, or dropped. */
  superseded: z.enum(['store', 'drop']),
  /** Blocks that an earlier snapshot has are not stored again. */
  delta: z.boolean(),
});
export type RunPolicy = z.infer<typeof runPolicySchema>;
export const DEFAULT_RUN_POLICY: RunPolicy = {
  ...{ keepLast: null, keepEvery: null, maxAgeMs: null, maxBytes: null },
  ...{ slots: 2, behind: 'wait', superseded: 'store', delta: true },
};
/** What is left out stays as it is. */
export const runPolicyChangeSchema = runPolicySchema.partial();
export type RunPolicyChange = z.infer<typeof runPolicyChangeSchema>;

export const runInfoSchema = z.object({
  bucket: z.string(),
  run: z.string(),
  policy: runPolicySchema,
  snapshots: count,
  latestStep: step
    .nullable()
    .describe('of the snapshot that was committed last, of those not marked bad'),
  storedBytes: count.describe('of its data objects: what is shared counts once'),
});
export type RunInfo = z.infer<typeof runInfoSchema>;

// ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────

export const snapshotInfoSchema = z.object({
  bucket: z.string(),
  run: z.string(),
  step,
  session: z.string(),
  sequence: count.describe(
    'a later commit has a higher one, whatever its step and the time of day',
  ),
  committedAtMs: count,
  durability: ackSchema.describe('what holds now'),
  inMemory: z.boolean().describe('its images are in memory, whole'),
  imageBytes: count.describe('of all parts'),
  newBytes: count.nullable().describe('that no earlier snapshot had; null while it is not stored'),
  parts: z.array(z.object({ name: z.string(), imageBytes: count })),
  pinned: z.boolean(),
  bad: z.string().nullable().describe('why it is not to be resumed from'),
  metadata: z.record(z.string(), z.string()),
});
export type SnapshotInfo = z.infer<typeof snapshotInfoSchema>;

export const snapshotBeginSchema = z.object({
  session,
  part: name,
  imageBytes: z.number().int().positive(),
  /** How long to wait for a slot, a minute at most: then `busy`, and who still wants one asks again. */
  waitMs: count.optional(),
});
/** `go`: stage the image under this name and commit it there. Each answer has another key. */
export const snapshotBegunSchema = z.discriminatedUnion('decision', [
  z.object({ decision: z.literal('go'), bucket: z.string(), key: z.string() }),
  z.object({ decision: z.literal('skip'), reason: z.string() }),
]);
export type SnapshotBegun = z.infer<typeof snapshotBegunSchema>;

export const snapshotCommitSchema = z.object({
  session,
  /** All of them: one that is not there yet is waited for. */
  parts: z.array(name).min(1),
  /** By part, the key that `begin` gave: the snapshot has this image of it, and not that of another save by the same session. */
  images: z.record(z.string(), z.string()).optional(),
  metadata: z.record(z.string(), z.string()).default({}),
  /** Whether a snapshot of this step that is there is replaced, in one step. */
  overwrite: z.boolean().default(true),
  /** How long to wait for parts, a minute at most: then `busy`, and who still waits asks again. */
  waitMs: count.optional(),
});
export const snapshotAbortSchema = z.object({ session });
export const snapshotPinSchema = z.object({ pinned: z.boolean() });
export const snapshotBadSchema = z.object({ bad: z.string().min(1).max(1000).nullable() });

/** A data object that can be read without the node. `url` reads it for a while, and is a secret of whoever asked for it. */
export const directReadSchema = z.object({
  key: z.string(),
  url: z.string(),
  etag: z.string().describe('for `If-Match`, in quotes there'),
});
export type DirectRead = z.infer<typeof directReadSchema>;

/** Where the bytes of a part are: its image, if that is in memory, else (or besides) runs of data objects. */
export const restorePartSchema = z.object({
  name: z.string(),
  imageBytes: count,
  image: z.object({ bucket: z.string(), key: z.string() }).nullable(),
  blockBytes: count,
  digests: z.string().nullable().describe('base64; null while they are not known'),
  runs: z.array(imageRunSchema).nullable().describe('null while it is not stored'),
  direct: z
    .array(directReadSchema)
    .describe('what of `runs` an object store alone has, if that was asked for'),
  shards: z.array(shardSchema),
});
export type RestorePart = z.infer<typeof restorePartSchema>;
export const restorePlanSchema = z.object({
  snapshot: snapshotInfoSchema,
  parts: z.array(restorePartSchema),
});
export type RestorePlan = z.infer<typeof restorePlanSchema>;

export const brokenBlockSchema = z.object({
  part: z.string(),
  source: z.enum(['image', 'stored']),
  offset: count,
  length: count,
  shards: z.array(z.string()).describe('names of the shards that lie there'),
  problem: z.string(),
});
export type BrokenBlock = z.infer<typeof brokenBlockSchema>;
export const snapshotVerifiedSchema = z.object({
  bytes: count,
  broken: z.array(brokenBlockSchema),
  fallback: step.nullable().describe('newest older snapshot that is not marked bad'),
});
export type SnapshotVerified = z.infer<typeof snapshotVerifiedSchema>;

/** Files are ready in tier 0 for what is staged in this bucket. */
export const preparedRunSchema = z.object({ bucket: z.string(), slots: count });
export type PreparedRun = z.infer<typeof preparedRunSchema>;

export const importRunsSchema = z.object({
  run: name.optional().describe('one run; all in the bucket unless given'),
});

export const prepareRunSchema = z.object({
  imageBytes: z.number().int().positive(),
  slots: z.number().int().min(1).max(64).optional(),
});
