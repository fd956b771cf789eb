/** JSON of `/v1/prefix-snapshots`: an object, or all below a prefix, kept as it was at one moment. */
import { z } from 'zod';

export const prefixSnapshotNameSchema = z
  .string()
  .max(64)
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]*$/,
    'letters, digits, ".", "_" and "-", a letter or digit first',
  );

/** One object, or all whose key begins so: a prefix is empty or ends with `/`. */
export const prefixSnapshotSourceSchema = z.union([
  z.strictObject({ bucket: z.string(), key: z.string() }),
  z.strictObject({ bucket: z.string(), prefix: z.string().regex(/^$|\/$/, 'ends with "/"') }),
]);
export type PrefixSnapshotSource = z.infer<typeof prefixSnapshotSourceSchema>;

export const prefixSnapshotInfoSchema = z.object({
  name: z.string(),
  source: prefixSnapshotSourceSchema,
  kept: z.object({ bucket: z.string(), prefix: z.string() }).describe('where its objects are'),
  createdAtMs: z.number(),
  objects: z.number(),
  sizeBytes: z.number(),
});
export type PrefixSnapshotInfo = z.infer<typeof prefixSnapshotInfoSchema>;

export const prefixSnapshotCreateSchema = z.object({
  name: prefixSnapshotNameSchema,
  source: prefixSnapshotSourceSchema,
});
export const prefixSnapshotRestoreSchema = z.object({
  to: prefixSnapshotSourceSchema
    .optional()
    .describe('of the same kind as the source, which is the default'),
  overwrite: z.boolean().default(false).describe('replaces objects that are there'),
  exact: z
    .boolean()
    .default(false)
    .describe('deletes objects that the snapshot does not have; needs overwrite'),
});
export const prefixSnapshotRestoredSchema = z.object({
  objects: z.number(),
  sizeBytes: z.number(),
  removed: z.number(),
});
export type PrefixSnapshotRestored = z.infer<typeof prefixSnapshotRestoredSchema>;
