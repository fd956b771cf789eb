/**
 * The one table of conditions: what a node may be in while it goes on with less than all it offers. `/v1/status`, `/readyz`,
 * `why`, the metric `ebb_condition` and the log name them; the page docs/reference/conditions.md is made from this table.
 *
 * A condition is a state of the node and no event: it begins once, and ends once, by itself where nothing says otherwise.
 */
import { z } from 'zod';

/** From the gravest on. `ready`: what `/readyz` says while such a condition holds. */
export const CONDITION_EFFECTS = {
  refuses_changes: {
    ready: false,
    means: 'The node refuses every change, also deletions. It serves reads.',
  },
  refuses_new_data: {
    ready: true,
    means:
      'The node refuses new bytes where there is no other place for them. It serves reads and deletions.',
  },
  unprotected: {
    ready: true,
    means: 'The node takes new data, and some of it is less safe than it should be by now.',
  },
  slower: {
    ready: true,
    means: 'The node does all it offers, and some of it takes longer.',
  },
} as const satisfies Record<string, { ready: boolean; means: string }>;

export type ConditionEffect = keyof typeof CONDITION_EFFECTS;

/** `subject`: what kind of thing it is about. The condition itself names the one: `disk`, a remote, `catalog`. */
export const CONDITIONS = {
  catalog_failed: {
    subject: 'catalog',
    effect: 'refuses_changes',
    means:
      'The disk refused to sync the catalog. What it holds is not known, so nothing more is written.',
    whatToDo:
      'Look for the cause in the kernel log and at the disk below `--data`, then start the node again: it recovers what was acknowledged.',
  },
  catalog_full: {
    subject: 'catalog',
    effect: 'refuses_new_data',
    means: 'The file system of the catalog has no room left beside what is kept for deletions.',
    whatToDo:
      'Free room on the file system below `--data`: delete objects, or what others put there. It ends by itself.',
  },
  tier_without_room: {
    subject: 'tier',
    effect: 'refuses_new_data',
    means: 'The file system of a tier has no room, though the tier is below its own limit.',
    whatToDo:
      'Free room on the file system that the message names, or lower the limit of the tier. It ends by itself.',
  },
  tier_at_limit: {
    subject: 'tier',
    effect: 'refuses_new_data',
    means:
      'The disk tier is at its own limit with what cannot leave it: tier 2 is away, or the objects are kept here alone.',
    whatToDo:
      'Let tier 2 answer again, delete objects, or start the node with a larger `--disk-limit`. It ends by itself.',
  },
  tier_failed: {
    subject: 'tier',
    effect: 'refuses_new_data',
    means: 'The disk of a tier fails writes or syncs, so nothing can be acknowledged as on disk.',
    whatToDo:
      'Look for the cause in the kernel log and at the disk that the message names. It is tried again every few seconds, and ends by itself.',
  },
  tier_away: {
    subject: 'tier',
    effect: 'refuses_new_data',
    means:
      'The directory of a tier is not there: it was removed or moved, or its file system is not mounted any more. Nothing is given up for that.',
    whatToDo:
      'Mount it, or move it back: it ends by itself. A memory directory that was removed is made anew at once, and what only it had is lost: find out who removes it (systemd does when the user of the node logs out, without `RemoveIPC=no`).',
  },
  remote_unreachable: {
    subject: 'remote',
    effect: 'unprotected',
    means: 'A place of tier 2 does not answer, or refuses what it is asked.',
    whatToDo:
      'See what the last error says: the address, the credentials, the network, the store itself. It ends by itself.',
  },
  remote_without_conditions: {
    subject: 'remote',
    effect: 'unprotected',
    means:
      'A place of tier 2 ignores or refuses conditions. Ebb compares the ETag of each answer itself, and asks what is there right before it deletes: what others put there in between is deleted.',
    whatToDo:
      'Let nobody else write below the same prefix, or use a store that keeps If-Match (`ebb doctor` tells). It holds until the next start.',
  },
  remote_without_checksums: {
    subject: 'remote',
    effect: 'slower',
    means:
      'A place of tier 2 takes no checksum with what is put. Ebb compares the MD5 that is the ETag, or reads back.',
    whatToDo: 'Nothing: what is stored is verified, at more cost. It holds until the next start.',
  },
} as const satisfies Record<
  string,
  {
    subject: 'catalog' | 'tier' | 'remote';
    effect: ConditionEffect;
    means: string;
    whatToDo: string;
  }
>;

export type ConditionName = keyof typeof CONDITIONS;

/** The subject of conditions of the node's own place of tier 2 (`--remote`); others are named as in a bucket's policy. */
export const OWN_REMOTE = 'remote';

export const nodeConditionSchema = z.object({
  name: z.enum(Object.keys(CONDITIONS) as [ConditionName, ...ConditionName[]]),
  /** `catalog`; a tier by its name; a place of tier 2 as buckets name it, or `remote` for the node's own. */
  subject: z.string(),
  effect: z.enum(Object.keys(CONDITION_EFFECTS) as [ConditionEffect, ...ConditionEffect[]]),
  sinceMs: z.number(),
  /** A sentence with the numbers of this case. */
  reason: z.string(),
  whatToDo: z.string(),
  /** The code of the last error that showed it. */
  lastError: z.string().nullable(),
});
export type NodeCondition = z.infer<typeof nodeConditionSchema>;
