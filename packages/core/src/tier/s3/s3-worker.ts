/**
 * The worker that talks to object stores: it alone loads the AWS SDK. Calls run side by side; each is answered once, when it
 * has let go of everything it used.
 */
import { parentPort } from 'node:worker_threads';
import { assert, StoreError } from '@ebb/protocol';
import { S3Connection } from './s3-connection.ts';
import { copyObject } from './s3-copy.ts';
import { fetchRange, readRange } from './s3-download.ts';
import { examineStore } from './s3-examine.ts';
import { UploadJournal } from './s3-journal.ts';
import { formatS3Location } from './s3-location.ts';
import { abortLeftovers } from './s3-multipart.ts';
import { deleteObject, headObject, listObjects } from './s3-objects.ts';
import { presignGet } from './s3-presign.ts';
import type {
  S3CallKind,
  S3CallOf,
  S3Calls,
  S3Remark,
  S3ReplyError,
  S3Request,
} from './s3-protocol.ts';
import { putObject } from './s3-upload.ts';

interface Target {
  readonly connection: S3Connection;
  readonly journal: UploadJournal;
  readonly told: Set<S3Remark>;
}

const port = parentPort;
assert(port !== null, 'this file runs in a worker thread');
const targets = new Map<number, Target>();
const running = new Map<number, AbortController>();

port.on('message', (request: S3Request) => {
  if (request.kind === 'abort') running.get(request.callId)?.abort();
  else if (request.kind === 'call') void answer(request);
  else if (request.kind === 'forget') {
    targets.get(request.targetId)?.connection.destroy();
    targets.delete(request.targetId);
  } else {
    const { targetId, target, uploadJournal } = request.config;
    targets.set(targetId, {
      connection: new S3Connection(request.config),
      journal: new UploadJournal(uploadJournal, formatS3Location(target)),
      told: new Set(),
    });
  }
});

async function answer({
  callId,
  targetId,
  call,
}: Extract<S3Request, { kind: 'call' }>): Promise<void> {
  const controller = new AbortController();
  running.set(callId, controller);
  try {
    const target = targets.get(targetId);
    assert(target !== undefined, 'a target is told before its calls');
    const result = await run(target, call, controller.signal);
    port?.postMessage({ callId, result }, isRead(call, result) ? [result.bytes.buffer] : []);
  } catch (error) {
    port?.postMessage({ callId, failed: toReplyError(error) });
  } finally {
    running.delete(callId);
    tellRemarks(targetId);
  }
}

/** Each once. */
function tellRemarks(targetId: number): void {
  const target = targets.get(targetId);
  for (const remark of target?.connection.remarks ?? []) {
    if (target?.told.has(remark) === true) continue;
    target?.told.add(remark);
    port?.postMessage({ targetId, remark });
  }
}

async function run(
  { connection, journal }: Target,
  call: S3CallOf,
  signal: AbortSignal,
): Promise<S3Calls[S3CallKind]['result']> {
  switch (call.kind) {
    case 'put':
      return await putObject(connection, { journal, put: call }, signal);
    case 'read':
      return await readRange(connection, call, signal);
    case 'fetch':
      return await fetchRange(connection, call, signal);
    case 'copy':
      return await copyObject(connection, { journal, copy: call }, signal);
    case 'head':
      return await headObject(connection, call.key, signal);
    case 'presign':
      return await presignGet(connection, call, signal);
    case 'delete':
      return await deleteObject(connection, call, signal);
    case 'list':
      return await listObjects(connection, call, signal);
    case 'examine':
      return await examineStore(connection, call.keyPrefix, signal);
    case 'abortLeftoverUploads':
      return await abortLeftovers(connection, journal);
  }
}

function isRead(
  call: S3CallOf,
  result: S3Calls[S3CallKind]['result'],
): result is S3Calls['read']['result'] {
  return call.kind === 'read' && result !== undefined;
}

function toReplyError(error: unknown): S3ReplyError {
  if (error instanceof StoreError) {
    return { code: error.code, message: error.message, details: error.details };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { code: 'internal', message: `the worker of tier 2: ${message}`, details: {} };
}
