/** Pieces of the OpenAPI document that routes share, and the description of the data routes. */

import {
  ackSchema,
  affectedSchema,
  errorBodySchema,
  HEADERS,
  listResponseSchema,
  PATHS,
} from '@ebb/protocol';
import { type OpenAPIHono, z } from '@hono/zod-openapi';
import { LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, WAIT_MS_DEFAULT, WAIT_MS_MAX } from '../limits.ts';

export function json<T extends z.ZodType>(schema: T, description = 'done') {
  return { description, content: { 'application/json': { schema } } };
}

export function jsonBody<T extends z.ZodType>(
  schema: T,
  options: { readonly required: boolean } = { required: true },
) {
  return { required: options.required, content: { 'application/json': { schema } } };
}

/** A body that people write: a name that it does not have is refused, for a slip in one would be taken for its absence. */
export function writtenBody<T extends z.ZodObject>(
  schema: T,
  options: { readonly required: boolean } = { required: true },
) {
  return jsonBody(schema.strict() as T, options);
}

/** Every route may answer with any code of the table; the body tells which. */
export const errorResponses = {
  default: json(errorBodySchema, 'an error: branch on its code and retry class'),
};

type Registry = OpenAPIHono['openAPIRegistry'];

export function describeDataRoutes(registry: Registry): void {
  const bucket = z.string();
  const params = z.object({
    bucket,
    key: z.string().describe('percent-encoded UTF-8; / stays as it is'),
  });
  const readConditions = {
    range: z
      .string()
      .optional()
      .describe('one range of bytes; several are answered with the whole object'),
    'if-range': z.string().optional(),
    'if-match': z.string().optional(),
    'if-none-match': z.string().optional(),
  };
  const waitQuery = z.object({
    wait: ackSchema.optional().describe('answer when the object is so durable'),
    timeoutMs: z
      .number()
      .int()
      .max(WAIT_MS_MAX)
      .optional()
      .describe(`how long to wait, default ${WAIT_MS_DEFAULT}; then \`timed_out\``),
    version: z.number().int().optional().describe('with `wait`: only for this version'),
  });
  const writeConditions = {
    'if-match': z.string().optional().describe('one ETag: replace exactly this version'),
    'if-none-match': z.literal('*').optional().describe('only if there is no such object'),
  };
  const objectHeaders = z.object({
    etag: z.string(),
    [HEADERS.version]: z.string(),
    [HEADERS.crc32c]: z.string().optional(),
    [HEADERS.durability]: ackSchema.optional().describe('what holds now; not on GET'),
    [HEADERS.tier]: z.string().optional(),
  });
  const bytes = {
    'application/octet-stream': { schema: z.string().openapi({ format: 'binary' }) },
  };

  registry.registerPath({
    method: 'put',
    path: PATHS.object,
    summary: 'Writes an object; visible when the answer comes',
    request: {
      params,
      headers: z.object({
        [HEADERS.ack]: ackSchema
          .optional()
          .describe("what must hold before the answer; default the bucket's"),
        [HEADERS.crc32c]: z
          .string()
          .optional()
          .describe('CRC32C of the body, 8 hex digits; checked'),
        [HEADERS.job]: z.string().optional().describe('the job that owns the object'),
        [`${HEADERS.metaPrefix}*`]: z.string().optional().describe('user metadata, UTF-8'),
        ...writeConditions,
      }),
      body: { content: bytes },
    },
    responses: { 201: { description: 'committed', headers: objectHeaders }, ...errorResponses },
  });
  for (const method of ['get', 'head'] as const)
    registry.registerPath({
      method,
      path: PATHS.object,
      summary: method === 'get' ? 'Reads an object, or a range of it' : "An object's properties",
      request: { params, query: waitQuery, headers: z.object(readConditions) },
      responses: {
        200: {
          description: 'the object',
          headers: objectHeaders,
          ...(method === 'get' ? { content: bytes } : {}),
        },
        ...(method === 'get' ? { 206: { description: 'the range', content: bytes } } : {}),
        304: { description: 'not modified' },
        ...errorResponses,
      },
    });
  registry.registerPath({
    method: 'delete',
    path: PATHS.object,
    summary: 'Deletes an object',
    request: { params, headers: z.object(writeConditions) },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  });
  registry.registerPath({
    method: 'get',
    path: PATHS.objects,
    summary: 'Lists objects in UTF-8 byte order',
    request: {
      params: z.object({ bucket }),
      query: z.object({
        prefix: z.string().optional(),
        delimiter: z.string().optional(),
        startAfter: z.string().optional(),
        limit: z.coerce
          .number()
          .int()
          .min(1)
          .max(LIST_LIMIT_MAX)
          .default(LIST_LIMIT_DEFAULT)
          .optional(),
      }),
    },
    responses: { 200: json(listResponseSchema), ...errorResponses },
  });
  registry.registerPath({
    method: 'delete',
    path: PATHS.objects,
    summary: 'Deletes all objects whose key starts with the prefix',
    request: {
      params: z.object({ bucket }),
      query: z.object({
        prefix: z.string(),
        allVersions: z
          .enum(['true', 'false'])
          .optional()
          .describe('true: for good, with old versions and delete markers'),
      }),
    },
    responses: { 200: json(affectedSchema), ...errorResponses },
  });
}
