/** Checkpoints over HTTP (docs/checkpoints.md): runs, their snapshots, and the making of one. No bytes of images pass here. */
import type { RunRef, SnapshotChoice, SnapshotRef } from '@ebb/checkpoint';
import {
  CHECKPOINT_BUCKET,
  importRunsSchema,
  isStoreError,
  PATHS,
  preparedRunSchema,
  prepareRunSchema,
  restorePlanSchema,
  runInfoSchema,
  runPolicyChangeSchema,
  runsImportedSchema,
  StoreError,
  snapshotAbortSchema,
  snapshotBadSchema,
  snapshotBeginSchema,
  snapshotBegunSchema,
  snapshotCommitSchema,
  snapshotInfoSchema,
  snapshotPinSchema,
  snapshotVerifiedSchema,
} from '@ebb/protocol';
import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { WAIT_MS_DEFAULT, WAIT_MS_MAX } from '../../limits.ts';
import type { Services } from '../../services.ts';
import { errorResponses, json, jsonBody, writtenBody } from '../openapi.ts';

const runParam = z.object({ run: z.string() });
const snapshotParam = z.object({
  run: z.string(),
  step: z.string().describe('a step, or where it is only read: `latest`'),
});
const ofBucket = z.object({ bucket: z.string().default(CHECKPOINT_BUCKET) });
const ofAnyBucket = z.object({ bucket: z.string().optional() });
const planQuery = ofBucket.extend({
  digests: z.enum(['true', 'false']).default('true').describe('they are most of the answer'),
  direct: z
    .enum(['true', 'false'])
    .default('false')
    .describe(
      'with URLs that read what an object store alone has from there, for an hour; to be kept secret',
    ),
});
const waitQuery = ofBucket.extend({
  for: z.enum(['memory', 'disk', 'remote']),
  timeoutMs: z.coerce
    .number()
    .int()
    .nonnegative()
    .max(WAIT_MS_MAX)
    .default(WAIT_MS_DEFAULT)
    .describe('then `timed_out`'),
  session: z
    .string()
    .optional()
    .describe('wait for the snapshot of this session, also while its parts are on their way'),
});

const routes = {
  listRuns: createRoute({
    method: 'get',
    path: PATHS.runs,
    summary: 'Runs, in one bucket or in all',
    request: { query: ofAnyBucket },
    responses: { 200: json(z.object({ runs: z.array(runInfoSchema) })), ...errorResponses },
  }),
  importRuns: createRoute({
    method: 'post',
    path: PATHS.runsImport,
    summary:
      'Takes in snapshots that the remote tier has and this node has no record of; no data is read',
    request: { query: ofBucket, body: writtenBody(importRunsSchema, { required: false }) },
    responses: { 200: json(runsImportedSchema), ...errorResponses },
  }),
  getRun: createRoute({
    method: 'get',
    path: PATHS.run,
    summary: 'A run: what it keeps, and its latest snapshot',
    request: { params: runParam, query: ofBucket },
    responses: { 200: json(runInfoSchema), ...errorResponses },
  }),
  putRun: createRoute({
    method: 'put',
    path: PATHS.run,
    summary: 'Makes a run, or changes what it keeps; what is left out stays as it is',
    request: {
      params: runParam,
      query: ofBucket,
      body: writtenBody(runPolicyChangeSchema, { required: false }),
    },
    responses: { 200: json(runInfoSchema), ...errorResponses },
  }),
  removeRun: createRoute({
    method: 'delete',
    path: PATHS.run,
    summary: 'Removes a run with all its snapshots',
    request: { params: runParam, query: ofBucket },
    responses: { 200: json(z.object({ snapshots: z.number() })), ...errorResponses },
  }),
  prepare: createRoute({
    method: 'post',
    path: PATHS.runPrepare,
    summary: 'Makes memory ready for images, so that the first snapshots touch no fresh page',
    request: { params: runParam, query: ofBucket, body: jsonBody(prepareRunSchema) },
    responses: {
      200: json(preparedRunSchema, 'ready, as far as there is room'),
      ...errorResponses,
    },
  }),
  list: createRoute({
    method: 'get',
    path: PATHS.snapshots,
    summary: 'Snapshots of a run, the one that was committed last first',
    request: { params: runParam, query: ofBucket },
    responses: {
      200: json(z.object({ snapshots: z.array(snapshotInfoSchema) })),
      ...errorResponses,
    },
  }),
  get: createRoute({
    method: 'get',
    path: PATHS.snapshot,
    summary: 'A snapshot: what holds of it, and what it takes',
    request: { params: snapshotParam, query: ofBucket },
    responses: { 200: json(snapshotInfoSchema), ...errorResponses },
  }),
  remove: createRoute({
    method: 'delete',
    path: PATHS.snapshot,
    summary: 'Removes a snapshot; what others share with it stays',
    request: { params: snapshotParam, query: ofBucket },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  }),
  begin: createRoute({
    method: 'post',
    path: PATHS.snapshotBegin,
    summary:
      'Asks for a slot for the image of one part, and under which name it is to be put there',
    request: { params: snapshotParam, query: ofBucket, body: jsonBody(snapshotBeginSchema) },
    responses: { 200: json(snapshotBegunSchema), ...errorResponses },
  }),
  commit: createRoute({
    method: 'post',
    path: PATHS.snapshotCommit,
    summary: 'Makes the snapshot of its parts, when all of them are there',
    request: { params: snapshotParam, query: ofBucket, body: jsonBody(snapshotCommitSchema) },
    responses: { 200: json(snapshotInfoSchema), ...errorResponses },
  }),
  abort: createRoute({
    method: 'post',
    path: PATHS.snapshotAbort,
    summary: 'Throws away what a session handed over for a step and did not commit',
    request: { params: snapshotParam, query: ofBucket, body: jsonBody(snapshotAbortSchema) },
    responses: { 204: { description: 'gone' }, ...errorResponses },
  }),
  plan: createRoute({
    method: 'get',
    path: PATHS.snapshotPlan,
    summary: 'Where the bytes of a snapshot are, and the shards in them',
    request: { params: snapshotParam, query: planQuery },
    responses: { 200: json(restorePlanSchema), ...errorResponses },
  }),
  wait: createRoute({
    method: 'get',
    path: PATHS.snapshotWait,
    summary: 'Answers when a snapshot is so durable',
    request: { params: snapshotParam, query: waitQuery },
    responses: { 200: json(snapshotInfoSchema), ...errorResponses },
  }),
  pin: createRoute({
    method: 'post',
    path: PATHS.snapshotPin,
    summary: 'Keeps a snapshot whatever the run keeps, or no longer',
    request: { params: snapshotParam, query: ofBucket, body: jsonBody(snapshotPinSchema) },
    responses: { 200: json(snapshotInfoSchema), ...errorResponses },
  }),
  bad: createRoute({
    method: 'post',
    path: PATHS.snapshotBad,
    summary: 'Says that a snapshot is not to be resumed from, and why; `latest` passes it over',
    request: { params: snapshotParam, query: ofBucket, body: jsonBody(snapshotBadSchema) },
    responses: { 200: json(snapshotInfoSchema), ...errorResponses },
  }),
  verify: createRoute({
    method: 'post',
    path: PATHS.snapshotVerify,
    summary: 'Reads all bytes of a snapshot and compares them with their digests',
    request: { params: snapshotParam, query: ofBucket },
    responses: { 200: json(snapshotVerifiedSchema), ...errorResponses },
  }),
} as const;

export function addRunRoutes(app: OpenAPIHono, { checkpoints }: Services): void {
  app.openapi(routes.listRuns, async (c) =>
    c.json({ runs: [...(await checkpoints.listRuns(c.req.valid('query').bucket))] }, 200),
  );
  app.openapi(routes.importRuns, async (c) => {
    const { bucket } = c.req.valid('query');
    const from = { bucket, run: c.req.valid('json')?.run };
    return c.json(await checkpoints.importRuns(from, c.req.raw.signal), 200);
  });
  app.openapi(routes.getRun, async (c) =>
    c.json(await checkpoints.getRun(runOf(c.req.valid('param'), c.req.valid('query'))), 200),
  );
  app.openapi(routes.putRun, async (c) =>
    c.json(
      await checkpoints.putRun(
        runOf(c.req.valid('param'), c.req.valid('query')),
        c.req.valid('json') ?? {},
      ),
      200,
    ),
  );
  app.openapi(routes.removeRun, async (c) =>
    c.json(await checkpoints.removeRun(runOf(c.req.valid('param'), c.req.valid('query'))), 200),
  );
  app.openapi(routes.prepare, async (c) => {
    const run = runOf(c.req.valid('param'), c.req.valid('query'));
    return c.json(await checkpoints.prepare(run, c.req.valid('json')), 200);
  });
  app.openapi(routes.list, async (c) =>
    c.json(
      {
        snapshots: [...(await checkpoints.list(runOf(c.req.valid('param'), c.req.valid('query'))))],
      },
      200,
    ),
  );
  app.openapi(routes.get, async (c) =>
    c.json(await checkpoints.get(choiceOf(c.req.valid('param'), c.req.valid('query'))), 200),
  );
  app.openapi(routes.remove, async (c) => {
    await checkpoints.remove(snapshotOf(c.req.valid('param'), c.req.valid('query')));
    return c.body(null, 204);
  });
  app.openapi(routes.begin, async (c) => {
    const options = { ...c.req.valid('json'), signal: c.req.raw.signal };
    return c.json(
      await checkpoints.begin(snapshotOf(c.req.valid('param'), c.req.valid('query')), options),
      200,
    );
  });
  app.openapi(routes.commit, async (c) => {
    const options = { ...c.req.valid('json'), signal: c.req.raw.signal };
    return c.json(
      await checkpoints.commit(snapshotOf(c.req.valid('param'), c.req.valid('query')), options),
      200,
    );
  });
  app.openapi(routes.abort, async (c) => {
    await checkpoints.abort(
      snapshotOf(c.req.valid('param'), c.req.valid('query')),
      c.req.valid('json').session,
    );
    return c.body(null, 204);
  });
  app.openapi(routes.plan, async (c) => {
    const query = c.req.valid('query');
    const direct = query.direct === 'true';
    const plan = await checkpoints.plan(choiceOf(c.req.valid('param'), query), { direct });
    if (direct) c.header('cache-control', 'no-store');
    if (query.digests === 'true') return c.json(plan, 200);
    const parts = plan.parts.map((part) => ({ ...part, digests: null }));
    return c.json({ ...plan, parts }, 200);
  });
  app.openapi(routes.wait, async (c) => {
    const { for: ack, timeoutMs, session } = c.req.valid('query');
    const time = AbortSignal.timeout(timeoutMs);
    const signal = AbortSignal.any([c.req.raw.signal, time]);
    try {
      const choice = choiceOf(c.req.valid('param'), c.req.valid('query'));
      const options = { signal, ...(session === undefined ? {} : { session }) };
      return c.json(await checkpoints.wait(choice, ack, options), 200);
    } catch (error) {
      if (!time.aborted || !isStoreError(error, 'aborted')) throw error;
      const message = `the snapshot was not on ${ack} after ${timeoutMs} ms`;
      throw new StoreError('timed_out', message, { timeoutMs }, error);
    }
  });
  app.openapi(routes.pin, async (c) =>
    c.json(
      await checkpoints.setPinned(
        snapshotOf(c.req.valid('param'), c.req.valid('query')),
        c.req.valid('json').pinned,
      ),
      200,
    ),
  );
  app.openapi(routes.bad, async (c) =>
    c.json(
      await checkpoints.setBad(
        snapshotOf(c.req.valid('param'), c.req.valid('query')),
        c.req.valid('json').bad,
      ),
      200,
    ),
  );
  app.openapi(routes.verify, async (c) =>
    c.json(
      await checkpoints.verify(
        choiceOf(c.req.valid('param'), c.req.valid('query')),
        c.req.raw.signal,
      ),
      200,
    ),
  );
}

type RunParams = z.infer<typeof runParam>;
type SnapshotParams = z.infer<typeof snapshotParam>;
type OfBucket = z.infer<typeof ofBucket>;

function runOf({ run }: RunParams, { bucket }: OfBucket): RunRef {
  return { bucket, run };
}

function choiceOf({ run, step }: SnapshotParams, { bucket }: OfBucket): SnapshotChoice {
  return { bucket, run, step: step === 'latest' ? step : parseStep(step) };
}

function snapshotOf({ run, step }: SnapshotParams, { bucket }: OfBucket): SnapshotRef {
  return { bucket, run, step: parseStep(step) };
}

function parseStep(text: string): number {
  if (/^\d{1,12}$/.test(text)) return Number(text);
  throw new StoreError('request_invalid', `${JSON.stringify(text)} is no step: use a whole number`);
}
