/** Snapshots of objects and prefixes over HTTP (docs/snapshots.md). No bytes pass here, and none are copied. */
import {
  PATHS,
  prefixSnapshotCreateSchema,
  prefixSnapshotInfoSchema,
  prefixSnapshotRestoredSchema,
  prefixSnapshotRestoreSchema,
} from '@ebb/protocol';
import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Services } from '../services.ts';
import { errorResponses, json, jsonBody } from './openapi.ts';

const nameParam = z.object({ name: z.string() });

const routes = {
  list: createRoute({
    method: 'get',
    path: PATHS.prefixSnapshots,
    summary: 'Snapshots of objects and prefixes, by name',
    responses: {
      200: json(z.object({ snapshots: z.array(prefixSnapshotInfoSchema) })),
      ...errorResponses,
    },
  }),
  create: createRoute({
    method: 'post',
    path: PATHS.prefixSnapshots,
    summary: 'Keeps an object, or all below a prefix, as it is at this moment; copies no bytes',
    request: { body: jsonBody(prefixSnapshotCreateSchema) },
    responses: { 201: json(prefixSnapshotInfoSchema, 'made'), ...errorResponses },
  }),
  get: createRoute({
    method: 'get',
    path: PATHS.prefixSnapshot,
    summary: 'What a snapshot is of, and where its objects are',
    request: { params: nameParam },
    responses: { 200: json(prefixSnapshotInfoSchema), ...errorResponses },
  }),
  restore: createRoute({
    method: 'post',
    path: PATHS.prefixSnapshotRestore,
    summary: 'Brings back what a snapshot has, in one step',
    request: { params: nameParam, body: jsonBody(prefixSnapshotRestoreSchema) },
    responses: { 200: json(prefixSnapshotRestoredSchema), ...errorResponses },
  }),
  remove: createRoute({
    method: 'delete',
    path: PATHS.prefixSnapshot,
    summary: 'Removes a snapshot; bytes that others have stay',
    request: { params: nameParam },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  }),
} as const;

export function addPrefixSnapshotRoutes(app: OpenAPIHono, { prefixSnapshots }: Services): void {
  app.openapi(routes.list, async (c) =>
    c.json({ snapshots: [...(await prefixSnapshots.list())] }, 200),
  );
  app.openapi(routes.create, async (c) => {
    const { name, source } = c.req.valid('json');
    return c.json(await prefixSnapshots.create(name, source), 201);
  });
  app.openapi(routes.get, async (c) =>
    c.json(await prefixSnapshots.get(c.req.valid('param').name), 200),
  );
  app.openapi(routes.restore, async (c) =>
    c.json(await prefixSnapshots.restore(c.req.valid('param').name, c.req.valid('json')), 200),
  );
  app.openapi(routes.remove, async (c) => {
    await prefixSnapshots.remove(c.req.valid('param').name);
    return c.body(null, 204);
  });
}
