/** `ebb why`: an object's life in a sentence, and event by event. */
import type { ObjectRef, ObjectStore, ObjectView } from '@ebb/core';
import { formatBytes, StoreError, type Why } from '@ebb/protocol';
import { tierName } from './data/object-headers.ts';
import { objectInfo } from './views.ts';

export async function explain(store: ObjectStore, ref: ObjectRef): Promise<Why> {
  const { view, events } = await store.why(ref);
  if (view === undefined && events.length === 0) {
    await store.getBucket(ref.bucket);
    throw new StoreError(
      'not_found',
      `no object ${ref.bucket}/${ref.key}, and nothing is remembered of one`,
      {
        bucket: ref.bucket,
        key: ref.key,
      },
    );
  }
  return {
    subject: `ebb://${ref.bucket}/${ref.key}`,
    object: view === undefined ? null : objectInfo(view),
    events: events.map(({ atMs, what, details }) => ({ atMs, what, details: { ...details } })),
    summary: view === undefined ? 'It is gone; what is left are its last events.' : summarize(view),
  };
}

function summarize({ object, durability, tiers }: ObjectView): string {
  const size = formatBytes(object.sizeBytes);
  const places = tiers.map(tierName);
  const where = places.length === 0 ? 'spread over tiers' : `in ${places.join(' and ')}`;
  const survives = {
    memory: 'survives the daemon, not a reboot of the host',
    disk: 'survives a reboot of the host, not its loss',
    remote: 'survives the loss of the host',
  }[durability];
  const job =
    object.jobId === null ? '' : ` It belongs to job ${object.jobId} and goes when the job ends.`;
  const pin = object.pinned ? ' It is pinned.' : '';
  return `${size}, ${where}: ${survives}.${job}${pin}`;
}
