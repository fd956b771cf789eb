/** Frames about names: what is there, what goes, what is called otherwise. One step of the catalog each, as over HTTP. */
import type { ObjectView } from '@ebb/core';
import { LIST_FRAME_LIMIT_MAX, messages, OPS, StoreError } from '@ebb/protocol';
import type { Handler } from './call.ts';

const head: Handler = async ({ store }, payload) => {
  const found = await store.head(messages.head.request.decode(payload));
  return messages.head.response.encode(objectRow(found));
};

const list: Handler = async ({ store }, payload) => {
  const { bucket, ...options } = messages.listObjects.request.decode(payload);
  if (options.limit < 1 || options.limit > LIST_FRAME_LIMIT_MAX)
    throw new StoreError(
      'request_invalid',
      `a page has 1 to ${LIST_FRAME_LIMIT_MAX} names, not ${options.limit}`,
    );
  const page = await store.list(bucket, options);
  return messages.listObjects.response.encode({
    objects: page.objects.map(objectRow),
    prefixes: page.prefixes,
    next: page.next ?? undefined,
  });
};

const deleteObject: Handler = async ({ store }, payload) => {
  const { bucket, key, ifMatch } = messages.deleteObject.request.decode(payload);
  const { deleted } = await store.delete({ bucket, key }, ifMatch === '' ? {} : { ifMatch });
  return messages.deleteObject.response.encode({ deleted });
};

const deletePrefix: Handler = async ({ store }, payload) => {
  const { bucket, prefix } = messages.deletePrefix.request.decode(payload);
  await store.getBucket(bucket);
  return messages.deletePrefix.response.encode(await store.deletePrefix(bucket, prefix));
};

const rename: Handler = async ({ store }, payload) => {
  const m = messages.rename.request.decode(payload);
  const renamed = await store.rename(
    { bucket: m.bucket, key: m.from },
    { bucket: m.toBucket, key: m.to },
    m.overwrite ? {} : { ifNoneMatch: true },
  );
  return messages.rename.response.encode(objectRow(renamed));
};

const renamePrefix: Handler = async ({ store }, payload) => {
  const m = messages.renamePrefix.request.decode(payload);
  const affected = await store.renamePrefix(
    { bucket: m.bucket, prefix: m.from },
    { bucket: m.toBucket, prefix: m.to },
    { overwrite: m.overwrite },
  );
  return messages.renamePrefix.response.encode(affected);
};

function objectRow({ object, durability }: ObjectView): messages.ObjectRow {
  const { key, version, sizeBytes, etag, crc32c, createdAtMs } = object;
  return { key, version, sizeBytes, etag, crc32c: crc32c ?? undefined, createdAtMs, durability };
}

export const NAME_CALLS: readonly (readonly [op: number, handler: Handler])[] = [
  [OPS.head, head],
  [OPS.listObjects, list],
  [OPS.deleteObject, deleteObject],
  [OPS.deletePrefix, deletePrefix],
  [OPS.rename, rename],
  [OPS.renamePrefix, renamePrefix],
];
