/** `ebb why`: an object's life in a sentence, and event by event. */
import { type BucketRecord, isMirrored, type ObjectRef, type ObjectView } from '@ebb/core';
import {
  CONDITIONS,
  formatBytes,
  type NodeCondition,
  OWN_REMOTE,
  StoreError,
  type Why,
} from '@ebb/protocol';
import type { Services } from '../services.ts';
import { tierName } from './data/object-headers.ts';
import { objectInfo } from './views.ts';

export async function explain(
  { store, node }: Pick<Services, 'store' | 'node'>,
  ref: ObjectRef,
): Promise<Why> {
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
  const conditions =
    view === undefined
      ? []
      : touching(node.conditions.list(), view, await store.getBucket(ref.bucket));
  return {
    subject: `ebb://${ref.bucket}/${ref.key}`,
    object: view === undefined ? null : objectInfo(view),
    events: events.map(({ atMs, what, details }) => ({ atMs, what, details: { ...details } })),
    summary: view === undefined ? 'It is gone; what is left are its last events.' : summarize(view),
    conditions,
  };
}

function summarize({ object, durability, tiers, isLost }: ObjectView): string {
  const size = formatBytes(object.sizeBytes);
  if (isLost)
    return `${size}, lost: its bytes are in no tier any more. Write it again from its source; \`ebb gc\` removes what is left of it.`;
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

/** The catalog has all objects; a tier those that lie in it; a place of tier 2 those of the buckets that go there. */
function touching(
  conditions: readonly NodeCondition[],
  { tiers }: ObjectView,
  { policy }: BucketRecord,
): NodeCondition[] {
  return conditions.filter(({ name, subject }) => {
    switch (CONDITIONS[name].subject) {
      case 'catalog':
        return true;
      case 'tier':
        return tiers.some((tier) => tierName(tier) === subject);
      case 'remote':
        return (
          subject === (policy.remote ?? OWN_REMOTE) && (isMirrored(policy) || tiers.includes(2))
        );
    }
  });
}
