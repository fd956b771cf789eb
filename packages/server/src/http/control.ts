/**
 * The control surface: JSON over hono, every route described, so that the OpenAPI document is made from what runs.
 * The data routes (http/data) are described here too, and answered before hono sees them.
 */

import { type ObjectRef, type Owner, resolvePolicy } from '@ebb/core';
import {
  affectedSchema,
  bucketChangeSchema,
  bucketInfoSchema,
  bucketPolicySchema,
  copyRequestSchema,
  gcResponseSchema,
  isStoreError,
  jobInfoSchema,
  jobOpenedSchema,
  jobPutSchema,
  jobReceiptSchema,
  jobTokenSchema,
  objectInfoSchema,
  PATHS,
  pinRequestSchema,
  relocateRequestSchema,
  renameRequestSchema,
  StoreError,
  shuffleInfoSchema,
  statusSchema,
  syncRequestSchema,
  syncResponseSchema,
  verifyResponseSchema,
  whySchema,
} from '@ebb/protocol';
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { Services } from '../services.ts';
import { TIER_NAMES, tierName } from './data/object-headers.ts';
import { errorAnswer, toStoreError } from './error-response.ts';
import { describeEventsRoute } from './events.ts';
import { addFileRoutes } from './files/file-routes.ts';
import { describeDataRoutes, errorResponses, json, writtenBody } from './openapi.ts';
import { addPrefixSnapshotRoutes } from './prefix-snapshots.ts';
import { addRunRoutes } from './runs/run-routes.ts';
import { bucketInfo, jobInfo, objectInfo, tierInfo } from './views.ts';
import { explain } from './why.ts';

const bucketParam = z.object({ bucket: z.string() });
const jobParam = z.object({ job: z.string() });
const jobToken = z.object({ token: jobTokenSchema.optional() });

const routes = {
  status: createRoute({
    method: 'get',
    path: PATHS.status,
    summary: 'What the node is doing',
    responses: { 200: json(statusSchema), ...errorResponses },
  }),
  listBuckets: createRoute({
    method: 'get',
    path: PATHS.buckets,
    summary: 'All buckets, with what they hold',
    responses: { 200: json(z.object({ buckets: z.array(bucketInfoSchema) })), ...errorResponses },
  }),
  putBucket: createRoute({
    method: 'put',
    path: PATHS.bucket,
    summary: 'Creates a bucket; again with the same policy changes nothing',
    request: { params: bucketParam, body: writtenBody(bucketPolicySchema, { required: false }) },
    responses: { 200: json(bucketInfoSchema), 201: json(bucketInfoSchema), ...errorResponses },
  }),
  changeBucket: createRoute({
    method: 'post',
    path: PATHS.bucket,
    summary: 'Changes whether a bucket keeps old versions',
    request: { params: bucketParam, body: writtenBody(bucketChangeSchema) },
    responses: { 200: json(bucketInfoSchema), ...errorResponses },
  }),
  getBucket: createRoute({
    method: 'get',
    path: PATHS.bucket,
    summary: 'A bucket, and what it holds',
    request: { params: bucketParam },
    responses: { 200: json(bucketInfoSchema), ...errorResponses },
  }),
  deleteBucket: createRoute({
    method: 'delete',
    path: PATHS.bucket,
    summary: 'Deletes an empty bucket',
    request: { params: bucketParam },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  }),
  sync: createRoute({
    method: 'post',
    path: PATHS.sync,
    summary:
      'Takes in what others put into the bucket in the remote tier, and the checkpoints among it; no bytes of objects are read',
    request: { params: bucketParam, body: writtenBody(syncRequestSchema, { required: false }) },
    responses: { 200: json(syncResponseSchema), ...errorResponses },
  }),
  copy: createRoute({
    method: 'post',
    path: PATHS.copy,
    summary: 'Another name for the same bytes; none are copied',
    request: { body: writtenBody(copyRequestSchema) },
    responses: { 200: json(objectInfoSchema), ...errorResponses },
  }),
  rename: createRoute({
    method: 'post',
    path: PATHS.rename,
    summary: 'Renames an object, or with `prefix` all whose key starts so, in one step',
    request: { body: writtenBody(renameRequestSchema) },
    responses: { 200: json(affectedSchema), ...errorResponses },
  }),
  pin: createRoute({
    method: 'post',
    path: PATHS.pin,
    summary: 'Keeps an object in the memory tier, or lets it go',
    request: { body: writtenBody(pinRequestSchema) },
    responses: { 200: json(objectInfoSchema), ...errorResponses },
  }),
  relocate: createRoute({
    method: 'post',
    path: PATHS.relocate,
    summary: 'Moves objects to a tier now',
    request: { body: writtenBody(relocateRequestSchema) },
    responses: { 200: json(affectedSchema), ...errorResponses },
  }),
  why: createRoute({
    method: 'get',
    path: PATHS.why,
    summary: 'The life of an object: where it is, and what happened to it',
    request: { query: z.object({ bucket: z.string(), key: z.string() }) },
    responses: { 200: json(whySchema), ...errorResponses },
  }),
  listJobs: createRoute({
    method: 'get',
    path: PATHS.jobs,
    summary: 'Jobs alive',
    responses: { 200: json(z.object({ jobs: z.array(jobInfoSchema) })), ...errorResponses },
  }),
  putJob: createRoute({
    method: 'put',
    path: PATHS.job,
    summary:
      'Begins a job; with the token it was begun with, comes back to it, and may change it. A job that is open under another token is refused',
    request: { params: jobParam, body: writtenBody(jobPutSchema, { required: false }) },
    responses: { 200: json(jobOpenedSchema), ...errorResponses },
  }),
  getJob: createRoute({
    method: 'get',
    path: PATHS.job,
    summary: 'A job, and what it holds',
    request: { params: jobParam },
    responses: { 200: json(jobInfoSchema), ...errorResponses },
  }),
  deleteJob: createRoute({
    method: 'delete',
    path: PATHS.job,
    summary:
      'Ends a job and deletes all it owns; ending one that is gone, or one of another token than is given, gives zeros',
    request: { params: jobParam, query: jobToken },
    responses: { 200: json(jobReceiptSchema), ...errorResponses },
  }),
  heartbeat: createRoute({
    method: 'post',
    path: PATHS.jobHeartbeat,
    summary: 'Says that the job is alive',
    request: { params: jobParam, query: jobToken },
    responses: { 204: { description: 'heard' }, ...errorResponses },
  }),
  listShuffles: createRoute({
    method: 'get',
    path: PATHS.shuffles,
    summary: 'Shuffles registered',
    responses: { 200: json(z.object({ shuffles: z.array(shuffleInfoSchema) })), ...errorResponses },
  }),
  verify: createRoute({
    method: 'post',
    path: PATHS.verify,
    summary: 'Reads blobs and compares them with their checksums',
    request: { query: z.object({ bucket: z.string().optional(), prefix: z.string().optional() }) },
    responses: { 200: json(verifyResponseSchema), ...errorResponses },
  }),
  gc: createRoute({
    method: 'post',
    path: PATHS.gc,
    summary:
      'Removes what nobody owns: expired writes, orphan files, objects without bytes, idle recycled files',
    responses: { 200: json(gcResponseSchema), ...errorResponses },
  }),
} as const;

/** @param fileOwner Of the files opened over HTTP; file-bytes.ts is given the same. */
export function createControlApp(services: Services, fileOwner: Owner): OpenAPIHono {
  const { store, shuffles, checkpoints, node, remotes } = services;
  const app = new OpenAPIHono({
    defaultHook: (result) => {
      if (!result.success) throw invalidRequest(result.error.issues);
    },
  });
  app.onError((thrown, context) => answerError(thrown, context, services));
  app.notFound((context) =>
    answerError(
      new StoreError(
        'request_invalid',
        `no route ${context.req.method} ${context.req.path}: this is the control address of a node, see ${PATHS.openapi}; S3 has an address of its own (--s3-listen)`,
      ),
      context,
      services,
      404,
    ),
  );

  app.openapi(routes.status, async (c) => {
    const totals = await store.totals();
    const spool = await store.spool();
    const body = {
      nodeId: store.nodeId,
      version: node.version,
      startedAtMs: node.startedAtMs,
      state: node.state(),
      socket: node.socketPath,
      tiers: store.tiers().map(tierInfo),
      buckets: totals.buckets,
      objects: totals.objects,
      jobs: (await store.listJobs()).length,
      shuffles: (await shuffles.list()).length,
      connections: node.connections(),
      mirrorBacklogBytes: spool.bytes,
      mirrorBacklogObjects: spool.entries,
      mirrorOldestMs: spool.oldestMs,
      diskSecondsUntilFull: spool.secondsUntilFull,
      conditions: [...node.conditions.list()],
    };
    return c.json(body, 200);
  });

  app.openapi(routes.listBuckets, async (c) => {
    const buckets = [];
    for (const bucket of await store.listBuckets())
      buckets.push(bucketInfo(bucket, await store.bucketTotals(bucket.name)));
    return c.json({ buckets }, 200);
  });
  app.openapi(routes.putBucket, async (c) => {
    const { bucket: name } = c.req.valid('param');
    const policy = resolvePolicy(c.req.valid('json'));
    if (policy.remote !== null) remotes.assertFree(name, policy.remote, await store.listBuckets());
    const { created, bucket } = await store.createBucket(name, policy);
    return c.json(bucketInfo(bucket), created ? 201 : 200);
  });
  app.openapi(routes.changeBucket, async (c) => {
    const { versioning } = c.req.valid('json');
    const bucket = await store.setVersioning(c.req.valid('param').bucket, versioning);
    return c.json(bucketInfo(bucket, await store.bucketTotals(bucket.name)), 200);
  });
  app.openapi(routes.getBucket, async (c) => {
    const bucket = await store.getBucket(c.req.valid('param').bucket);
    return c.json(bucketInfo(bucket, await store.bucketTotals(bucket.name)), 200);
  });
  app.openapi(routes.deleteBucket, async (c) => {
    await store.deleteBucket(c.req.valid('param').bucket);
    return c.body(null, 204);
  });

  app.openapi(routes.sync, async (c) => {
    const { bucket } = c.req.valid('param');
    const { prefix, ...options } = syncRequestSchema.parse(c.req.valid('json') ?? {});
    const { signal } = c.req.raw;
    const report = await store.sync(bucket, prefix, { ...options, signal });
    const imported = options.dryRun
      ? { runs: [], refused: [] }
      : await checkpoints.importSynced({ bucket, prefix }, signal);
    return c.json({ ...report, refused: [...report.refused], checkpoints: imported }, 200);
  });

  app.openapi(routes.copy, async (c) => {
    const { from, to, overwrite } = c.req.valid('json');
    return c.json(objectInfo(await store.copy(from, to, { ifNoneMatch: !overwrite })), 200);
  });
  app.openapi(routes.rename, async (c) => {
    const { from, to, prefix, overwrite } = c.req.valid('json');
    if (!prefix) {
      const { object } = await store.rename(from, to, { ifNoneMatch: !overwrite });
      return c.json({ objects: 1, sizeBytes: object.sizeBytes }, 200);
    }
    const affected = await store.renamePrefix(
      { bucket: from.bucket, prefix: from.key },
      { bucket: to.bucket, prefix: to.key },
      { overwrite },
    );
    return c.json(affected, 200);
  });
  app.openapi(routes.pin, async (c) => {
    const { bucket, key, pinned } = c.req.valid('json');
    return c.json(objectInfo(await store.setPinned({ bucket, key }, pinned)), 200);
  });
  app.openapi(routes.relocate, async (c) => {
    const { bucket, key, tier, prefix } = c.req.valid('json');
    const target = TIER_NAMES.indexOf(tier) as 0 | 1 | 2;
    if (!prefix) {
      const { object } = await store.relocate({ bucket, key }, target);
      return c.json({ objects: 1, sizeBytes: object.sizeBytes }, 200);
    }
    const affected = { objects: 0, sizeBytes: 0 };
    for (let startAfter = ''; ; ) {
      const page = await store.list(bucket, { prefix: key, delimiter: '', startAfter, limit: 256 });
      for (const { object } of page.objects) {
        if (!(await relocateListed(store, object, target))) continue;
        affected.objects++;
        affected.sizeBytes += object.sizeBytes;
      }
      if (page.next === null) break;
      startAfter = page.next;
    }
    // A name with a slip in it is not found, rather than moved.
    if (affected.objects === 0 && key !== '')
      throw new StoreError('not_found', `no object below ${bucket}/${key}`, { bucket, key });
    return c.json(affected, 200);
  });
  app.openapi(routes.why, async (c) => c.json(await explain(services, c.req.valid('query')), 200));

  app.openapi(routes.listJobs, async (c) =>
    c.json({ jobs: (await store.listJobs()).map(jobInfo) }, 200),
  );
  app.openapi(routes.putJob, async (c) => {
    const body = c.req.valid('json');
    const job = await store.openJob({
      jobId: c.req.valid('param').job,
      token: body.token,
      label: body.label ?? '',
      heartbeatTtlMs: body.heartbeatTtlMs ?? node.jobHeartbeatTtlMs,
      budgetBytes: body.budgetBytes ?? null,
    });
    return c.json({ ...jobInfo(job), token: job.job.token }, 200);
  });
  app.openapi(routes.getJob, async (c) =>
    c.json(jobInfo(await store.getJob(c.req.valid('param').job)), 200),
  );
  app.openapi(routes.deleteJob, async (c) =>
    c.json(await store.endJob(c.req.valid('param').job, c.req.valid('query').token), 200),
  );
  app.openapi(routes.heartbeat, (c) => {
    store.heartbeat(c.req.valid('param').job, c.req.valid('query').token);
    return c.body(null, 204);
  });
  app.openapi(routes.listShuffles, async (c) =>
    c.json({ shuffles: [...(await shuffles.list())] }, 200),
  );

  app.openapi(routes.verify, async (c) => {
    const { bucket, prefix } = c.req.valid('query');
    if (bucket === undefined && prefix !== undefined)
      throw new StoreError('request_invalid', 'a prefix needs its bucket');
    const report = await store.verify({
      signal: c.req.raw.signal,
      ...(bucket === undefined ? {} : { bucket }),
      ...(prefix === undefined ? {} : { prefix }),
    });
    const broken = report.broken.map(({ blobId, tier, objects, problem }) => ({
      ...{ blobId, problem },
      tier: tierName(tier),
      objects: [...objects],
    }));
    return c.json({ blobs: report.blobs, bytes: report.bytes, broken }, 200);
  });
  app.openapi(routes.gc, async (c) => c.json(await store.gc(), 200));

  addFileRoutes(app, services, fileOwner);
  addRunRoutes(app, services);
  addPrefixSnapshotRoutes(app, services);
  describeDataRoutes(app.openAPIRegistry);
  describeEventsRoute(app.openAPIRegistry);
  let document: unknown;
  app.get(PATHS.openapi, (c) => {
    document ??= app.getOpenAPI31Document({
      openapi: '3.1.0',
      info: {
        title: 'Ebb',
        version: node.version,
        description:
          'One node: buckets, objects, jobs and shuffles. Errors carry a code and a retry class; branch on those.',
      },
    });
    return c.json(document as object);
  });
  return app;
}

/** False where it went since it was listed, which is no error for who moves all below a prefix. */
async function relocateListed(
  store: Services['store'],
  object: ObjectRef,
  target: 0 | 1 | 2,
): Promise<boolean> {
  try {
    await store.relocate(object, target);
    return true;
  } catch (error) {
    if (isStoreError(error, 'not_found')) return false;
    throw error;
  }
}

function answerError(
  thrown: unknown,
  context: Context,
  { log, metrics }: Services,
  status?: 404,
): Response {
  const error = thrown instanceof HTTPException ? fromHono(thrown) : toStoreError(thrown);
  if (error.code === 'internal')
    log.error({ err: thrown, path: context.req.path }, 'request failed');
  metrics.httpErrors.inc({ code: error.code });
  const answer = errorAnswer(error);
  return new Response(answer.body, { status: status ?? answer.status, headers: answer.headers });
}

/** Hono's own refusals: a body that is no JSON, or of another media type. */
function fromHono(error: HTTPException): StoreError {
  const message =
    error.status === 415
      ? 'the body must be JSON, sent with Content-Type: application/json'
      : error.message;
  return new StoreError('request_invalid', message, {}, error);
}

function invalidRequest(
  issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[],
): StoreError {
  const complaints = issues.map(
    ({ path, message }) => `${path.map(String).join('.') || 'body'}: ${message}`,
  );
  return new StoreError('request_invalid', complaints.join('; '), { complaints });
}
