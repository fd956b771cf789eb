/** What follows from a bucket's policy, for catalog, placement and store alike. */
import type { BucketPolicy } from './catalog.ts';

/** Whether its objects are stored in tier 2 under their own names, sooner or later. */
export function isMirrored(policy: Pick<BucketPolicy, 'mirror' | 'ack'>): boolean {
  return policy.mirror || policy.ack === 'remote';
}
