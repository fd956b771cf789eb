import { type BucketInfo, formatBytes } from '@ebb/protocol';
import { formatAge, formatTime, printJson, printTable } from './output.ts';
import type { Column } from './table.ts';

export async function printBuckets(
  buckets: readonly BucketInfo[],
  json: boolean | undefined,
): Promise<void> {
  if (json === true) {
    await printJson({ buckets });
    return;
  }
  const hasVersions = buckets.some(({ policy }) => policy.versioning !== 'off');
  const hasEncrypted = buckets.some(({ policy }) => policy.encrypted);
  await printTable(buckets, [
    { title: 'bucket', cell: (bucket) => bucket.name },
    { title: 'preset', cell: ({ policy }) => policy.preset },
    { title: 'ack', cell: ({ policy }) => policy.ack },
    { title: 'mirror', cell: ({ policy }) => (policy.mirror ? 'yes' : 'no') },
    {
      title: 'ttl',
      right: true,
      cell: ({ policy }) => (policy.ttlMs === null ? '' : formatAge(policy.ttlMs)),
    },
    {
      title: 'quota',
      right: true,
      cell: ({ policy }) => (policy.quotaBytes === null ? '' : formatBytes(policy.quotaBytes)),
    },
    { title: 'objects', right: true, cell: ({ objects }) => String(objects ?? '') },
    {
      title: 'size',
      right: true,
      cell: ({ sizeBytes }) => (sizeBytes === undefined ? '' : formatBytes(sizeBytes)),
    },
    ...(hasVersions ? VERSION_COLUMNS : []),
    ...(hasEncrypted ? [ENCRYPTED_COLUMN] : []),
    { title: 'created', cell: ({ createdAtMs }) => formatTime(createdAtMs) },
  ]);
}

const ENCRYPTED_COLUMN: Column<BucketInfo> = {
  title: 'encrypted',
  cell: ({ policy }) => (policy.encrypted ? 'yes' : 'no'),
};

/** Shown when a bucket has something to say there. */
const VERSION_COLUMNS: readonly Column<BucketInfo>[] = [
  { title: 'versioning', cell: ({ policy }) => policy.versioning },
  { title: 'old versions', right: true, cell: ({ oldVersions }) => String(oldVersions ?? '') },
  {
    title: 'old size',
    right: true,
    cell: ({ oldVersionsBytes }) =>
      oldVersionsBytes === undefined ? '' : formatBytes(oldVersionsBytes),
  },
];
