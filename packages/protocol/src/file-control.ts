/** JSON of open files and directories over HTTP. What the flags and calls mean is in docs/files.md. */
import { z } from 'zod';
import { ackSchema } from './control.ts';

export const FILE_FLAG_NAMES = [
  'read',
  'write',
  'create',
  'exclusive',
  'truncate',
  'append',
] as const;
/** Bytes of one read over HTTP: it is answered out of one buffer, so what it shows is the file at one moment. */
export const FILE_READ_BYTES_MAX = 1024 * 1024;
const FILE_IDLE_MS_DEFAULT = 15 * 60_000;
const FILE_IDLE_MS_MAX = 24 * 3_600_000;

export const fileOpenSchema = z.object({
  bucket: z.string(),
  key: z.string(),
  flags: z.array(z.enum(FILE_FLAG_NAMES)),
  ifMatch: z
    .string()
    .optional()
    .describe('ETag the object must have, now and whenever the file is published'),
  job: z.string().optional().describe('the job that owns what is published'),
  contentType: z.string().optional(),
  metadata: z.record(z.string(), z.string()).optional(),
  idleMs: z
    .number()
    .int()
    .min(1000)
    .max(FILE_IDLE_MS_MAX)
    .default(FILE_IDLE_MS_DEFAULT)
    .describe('the file is given up when no call came for this long'),
});
export type FileOpenInput = z.input<typeof fileOpenSchema>;

export const fileInfoSchema = z.object({
  file: z.string().describe('names the open file in the other calls'),
  bucket: z.string(),
  key: z.string(),
  sizeBytes: z.number(),
  version: z.number().nullable().describe('opened, or published last; null when there is none'),
  etag: z.string().nullable(),
  dirty: z.boolean().describe('there are changes that are not published'),
});
export type FileInfo = z.infer<typeof fileInfoSchema>;

export const fileWrittenSchema = z.object({
  offset: z.number().describe('where the first byte went'),
  writtenBytes: z.number(),
  sizeBytes: z.number().describe('of the file afterwards'),
});

export const fileTruncateSchema = z.object({ sizeBytes: z.number().int().min(0) });
export const fileSyncSchema = z.object({
  durability: ackSchema
    .optional()
    .describe("what must hold before the answer; default the bucket's"),
});
/** Null when there was nothing to publish. */
export const filePublishedSchema = z.object({
  published: z
    .object({
      version: z.number(),
      etag: z.string(),
      sizeBytes: z.number(),
      durability: ackSchema,
    })
    .nullable(),
});

export const directorySchema = z.object({
  bucket: z.string(),
  path: z.string().describe('with or without the / at its end'),
});
