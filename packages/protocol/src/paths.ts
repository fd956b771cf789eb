/** Route templates of the control and data surfaces. Kept stable: clients in other languages build them by hand. */
export const PATHS = {
  healthz: '/healthz',
  readyz: '/readyz',
  metrics: '/metrics',
  openapi: '/v1/openapi.json',
  status: '/v1/status',
  frames: '/v1/frames',
  buckets: '/v1/buckets',
  bucket: '/v1/buckets/{bucket}',
  objects: '/v1/buckets/{bucket}/objects',
  object: '/v1/buckets/{bucket}/objects/{key}',
  sync: '/v1/buckets/{bucket}/sync',
  copy: '/v1/copy',
  rename: '/v1/rename',
  pin: '/v1/pin',
  relocate: '/v1/relocate',
  why: '/v1/why',
  events: '/v1/events',
  jobs: '/v1/jobs',
  job: '/v1/jobs/{job}',
  jobHeartbeat: '/v1/jobs/{job}/heartbeat',
  shuffles: '/v1/shuffles',
  files: '/v1/files',
  file: '/v1/files/{file}',
  fileBytes: '/v1/files/{file}/bytes',
  fileTruncate: '/v1/files/{file}/truncate',
  fileSync: '/v1/files/{file}/sync',
  fileClose: '/v1/files/{file}/close',
  directories: '/v1/directories',
  runs: '/v1/runs',
  run: '/v1/runs/{run}',
  runPrepare: '/v1/runs/{run}/prepare',
  snapshots: '/v1/runs/{run}/snapshots',
  snapshot: '/v1/runs/{run}/snapshots/{step}',
  snapshotBegin: '/v1/runs/{run}/snapshots/{step}/begin',
  snapshotCommit: '/v1/runs/{run}/snapshots/{step}/commit',
  snapshotAbort: '/v1/runs/{run}/snapshots/{step}/abort',
  snapshotPlan: '/v1/runs/{run}/snapshots/{step}/plan',
  snapshotWait: '/v1/runs/{run}/snapshots/{step}/wait',
  snapshotPin: '/v1/runs/{run}/snapshots/{step}/pin',
  snapshotBad: '/v1/runs/{run}/snapshots/{step}/bad',
  snapshotVerify: '/v1/runs/{run}/snapshots/{step}/verify',
  verify: '/v1/verify',
  gc: '/v1/gc',
} as const;

export const FRAMES_UPGRADE = 'ebb-frames/1';

/** The path of an object's bytes over HTTP; `/` in keys stays as it is, everything else is percent-encoded. */
export function objectPath(bucket: string, key: string): string {
  return `/v1/buckets/${encodeURIComponent(bucket)}/objects/${key.split('/').map(encodeURIComponent).join('/')}`;
}
