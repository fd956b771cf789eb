/** Open files and directories over HTTP: everything but the bytes, which file-bytes.ts answers before hono sees them. */
import {
  type FileView,
  makeDirectory,
  type Owner,
  type PublishedFile,
  removeDirectory,
} from '@ebb/core';
import {
  directorySchema,
  FILE_READ_BYTES_MAX,
  type FileInfo,
  fileInfoSchema,
  fileOpenSchema,
  filePublishedSchema,
  fileSyncSchema,
  fileTruncateSchema,
  fileWrittenSchema,
  PATHS,
  StoreError,
} from '@ebb/protocol';
import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Services } from '../../services.ts';
import { errorResponses, json, jsonBody } from '../openapi.ts';

const fileParam = z.object({ file: z.string().describe('from the answer to the open') });

const routes = {
  open: createRoute({
    method: 'post',
    path: PATHS.files,
    summary: 'Opens an object as a file, read and written by position',
    request: { body: jsonBody(fileOpenSchema) },
    responses: { 201: json(fileInfoSchema, 'open'), ...errorResponses },
  }),
  stat: createRoute({
    method: 'get',
    path: PATHS.file,
    summary: 'An open file: its size, and whether it has changes',
    request: { params: fileParam },
    responses: { 200: json(fileInfoSchema), ...errorResponses },
  }),
  truncate: createRoute({
    method: 'post',
    path: PATHS.fileTruncate,
    summary: 'Cuts an open file, or grows it with zeros',
    request: { params: fileParam, body: jsonBody(fileTruncateSchema) },
    responses: { 200: json(fileInfoSchema), ...errorResponses },
  }),
  sync: createRoute({
    method: 'post',
    path: PATHS.fileSync,
    summary: 'Publishes what was written so far as a version; the file stays open',
    request: { params: fileParam, body: jsonBody(fileSyncSchema, { required: false }) },
    responses: { 200: json(filePublishedSchema), ...errorResponses },
  }),
  close: createRoute({
    method: 'post',
    path: PATHS.fileClose,
    summary: 'Publishes what was written, if anything was, and closes the file',
    request: { params: fileParam, body: jsonBody(fileSyncSchema, { required: false }) },
    responses: { 200: json(filePublishedSchema), ...errorResponses },
  }),
  abort: createRoute({
    method: 'delete',
    path: PATHS.file,
    summary: 'Closes a file and throws away what was not published',
    request: { params: fileParam },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  }),
  makeDirectory: createRoute({
    method: 'post',
    path: PATHS.directories,
    summary: 'Makes a directory: an empty object whose key ends in /',
    request: { body: jsonBody(directorySchema) },
    responses: { 204: { description: 'made' }, ...errorResponses },
  }),
  removeDirectory: createRoute({
    method: 'delete',
    path: PATHS.directories,
    summary: 'Removes an empty directory',
    request: { query: directorySchema },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  }),
} as const;

export function addFileRoutes(app: OpenAPIHono, { store }: Services, owner: Owner): void {
  app.openapi(routes.open, async (c) => {
    const { bucket, key, flags, ifMatch, job, contentType, metadata, idleMs } = c.req.valid('json');
    const file = await store.files.open(
      owner,
      { bucket, key },
      {
        ...Object.fromEntries(flags.map((flag) => [flag, true])),
        idleMs,
        ...(ifMatch === undefined ? {} : { ifMatch }),
        ...(job === undefined ? {} : { jobId: job }),
        ...(contentType === undefined ? {} : { contentType }),
        ...(metadata === undefined ? {} : { metadata }),
      },
    );
    return c.json(fileInfo(file), 201);
  });
  app.openapi(routes.stat, (c) => {
    const fileId = parseFileId(c.req.valid('param').file);
    return c.json(fileInfo(store.files.stat(owner, fileId)), 200);
  });
  app.openapi(routes.truncate, async (c) => {
    const fileId = parseFileId(c.req.valid('param').file);
    await store.files.truncate(owner, fileId, c.req.valid('json').sizeBytes);
    return c.json(fileInfo(store.files.stat(owner, fileId)), 200);
  });
  app.openapi(routes.sync, async (c) => {
    const fileId = parseFileId(c.req.valid('param').file);
    return c.json(
      publishedInfo(await store.files.sync(owner, fileId, asked(c.req.valid('json')))),
      200,
    );
  });
  app.openapi(routes.close, async (c) => {
    const fileId = parseFileId(c.req.valid('param').file);
    return c.json(
      publishedInfo(await store.files.close(owner, fileId, asked(c.req.valid('json')))),
      200,
    );
  });
  app.openapi(routes.abort, async (c) => {
    await store.files.abort(owner, parseFileId(c.req.valid('param').file));
    return c.body(null, 204);
  });
  app.openapi(routes.makeDirectory, async (c) => {
    await makeDirectory(store, owner, c.req.valid('json'));
    return c.body(null, 204);
  });
  app.openapi(routes.removeDirectory, async (c) => {
    await removeDirectory(store, c.req.valid('query'));
    return c.body(null, 204);
  });

  describeFileBytes(app.openAPIRegistry);
}

function describeFileBytes(registry: OpenAPIHono['openAPIRegistry']): void {
  const bytes = {
    'application/octet-stream': { schema: z.string().openapi({ format: 'binary' }) },
  };
  const offset = z.coerce.number().int().min(0).default(0).optional();
  registry.registerPath({
    method: 'get',
    path: PATHS.fileBytes,
    summary: 'Bytes of an open file from a position: fewer than asked for only at its end',
    request: {
      params: fileParam,
      query: z.object({
        offset,
        length: z.coerce
          .number()
          .int()
          .min(0)
          .max(FILE_READ_BYTES_MAX)
          .default(FILE_READ_BYTES_MAX)
          .optional(),
      }),
    },
    responses: { 200: { description: 'the bytes', content: bytes }, ...errorResponses },
  });
  registry.registerPath({
    method: 'put',
    path: PATHS.fileBytes,
    summary: 'Writes the body into an open file at a position, or at its end when it appends',
    request: { params: fileParam, query: z.object({ offset }), body: { content: bytes } },
    responses: { 200: json(fileWrittenSchema), ...errorResponses },
  });
}

/** @throws {StoreError} `file_not_open` for what was never a file */
export function parseFileId(text: string): number {
  const fileId = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(fileId)) return fileId;
  throw new StoreError('file_not_open', `"${text}" names no open file`);
}

function fileInfo({ fileId, bucket, key, sizeBytes, version, etag, isDirty }: FileView): FileInfo {
  return { ...{ bucket, key, sizeBytes, version, etag }, file: String(fileId), dirty: isDirty };
}

function publishedInfo(published: PublishedFile | undefined): z.infer<typeof filePublishedSchema> {
  return { published: published ?? null };
}

function asked(body: z.infer<typeof fileSyncSchema> | undefined): {
  ack?: NonNullable<z.infer<typeof fileSyncSchema>['durability']>;
} {
  return body?.durability === undefined ? {} : { ack: body.durability };
}
