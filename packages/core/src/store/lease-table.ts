/**
 * Who may still be reading a tier-0 file, and so whether the file may be handed to a next writer.
 *
 * Tier 0 recycles files: the same pages hold another object a moment later. A reader outside this process holds a path, a
 * descriptor or a mapping, none of which notices. Leases make that safe. There are two kinds: a *lease* on one opened
 * object, counted per blob, and a *guard*, a hold on a whole group of blobs (all map outputs of a shuffle), which costs the
 * same however many blobs the group has.
 *
 * I1  A file is recycled only if every lease on it was returned and every holder of its group has settled it.
 * I2  If any of them merely went away (deadline, closed connection, restart of the daemon), the file is unlinked instead:
 *     a late reader keeps the old bytes and never sees new ones.
 * I3  A file that was given up is removed in either way at the latest `limboMs` after, so memory comes back.
 * I4  Holders are asked to let go (`revoke`) once per blob, many blobs to a call.
 *
 * The store has one table for tier 0 and one for tier 1. Files of tier 1 are never recycled, so there a lease only delays the
 * unlink, for readers that come through the daemon or have not opened the path yet.
 */
import type { LeaseGuards, Owner } from './object-store.ts';

interface Hold {
  leases: number;
  /** A lease ended without being returned (I2). */
  tainted: boolean;
  /** Set when the blob was given up: the owners whose answer is awaited. */
  awaiting: Set<number> | undefined;
  limboUntilMs: number;
}

/** A lease on one file: not on one that the blob has later in the same tier. */
export interface FileLease {
  readonly blobId: number;
  readonly hold: Hold;
}

interface Group {
  readonly holders: Map<number, (blobIds: readonly number[]) => void>;
  blobs: number;
  tainted: boolean;
}

export interface LeaseTableOptions {
  readonly limboMs: number;
  /** Removes the file for good. */
  readonly remove: (blobId: number, options: { recycle: boolean }) => void;
  readonly now: () => number;
}

export class LeaseTable implements LeaseGuards {
  readonly #options: LeaseTableOptions;
  readonly #holds = new Map<number, Hold>();
  readonly #groups = new Map<string, Group>();
  readonly #groupOf = new Map<number, string>();
  /** What is given up and waits (I3). */
  readonly #limbo = new Map<number, Hold>();
  /** Where an owner holds a group, and whose answer which blobs await: connections end often, and most held nothing. */
  readonly #groupsOf = new Map<number, Set<string>>();
  readonly #awaitingOf = new Map<number, Set<number>>();
  readonly #revocations = new Map<(blobIds: readonly number[]) => void, number[]>();

  constructor(options: LeaseTableOptions) {
    this.#options = options;
  }

  isLeased(blobId: number): boolean {
    return (this.#holds.get(blobId)?.leases ?? 0) > 0;
  }

  /** Given up, but still held by somebody. */
  isInLimbo(blobId: number): boolean {
    return this.#holds.get(blobId)?.awaiting !== undefined;
  }

  /** Returns what `endLease` is to be called with. */
  lease(blobId: number): FileLease {
    const hold = this.#hold(blobId);
    hold.leases++;
    return { blobId, hold };
  }

  endLease({ blobId, hold }: FileLease, options: { readonly returned: boolean }): void {
    // Its file was removed at the end of limbo (I3). The blob may have a new file here, with leases of its own.
    if (this.#holds.get(blobId) !== hold) return;
    hold.leases--;
    if (!options.returned) hold.tainted = true;
    if (hold.awaiting !== undefined) this.#settleIfFree(blobId, hold);
    else if (hold.leases === 0 && !hold.tainted) this.#holds.delete(blobId);
  }

  /** The file outlived a restart of the daemon: somebody may hold it whom we do not know. */
  taint(blobId: number): void {
    this.#hold(blobId).tainted = true;
  }

  /** The store gives the blob's file up: removed now if nobody holds it, else as soon as I1 to I3 allow. */
  giveUp(blobId: number): void {
    const group = this.#leaveGroup(blobId);
    let hold = this.#holds.get(blobId);
    if (hold?.awaiting !== undefined) return;
    if (hold === undefined && (group === undefined || (group.holders.size === 0 && !group.tainted)))
      return this.#options.remove(blobId, { recycle: true });
    hold ??= this.#hold(blobId);
    hold.awaiting = new Set();
    hold.limboUntilMs = this.#options.now() + this.#options.limboMs;
    this.#limbo.set(blobId, hold);
    if (group?.tainted === true) hold.tainted = true;
    for (const [ownerId, revoke] of group?.holders ?? []) {
      hold.awaiting.add(ownerId);
      addTo(this.#awaitingOf, ownerId, blobId);
      this.#revokeSoon(revoke, blobId);
    }
    this.#settleIfFree(blobId, hold);
  }

  /** The blob has no file here to give up: it only leaves its group. */
  forget(blobId: number): void {
    this.#leaveGroup(blobId);
  }

  assign(blobId: number, groupName: string): void {
    if (this.#groupOf.get(blobId) === groupName) return;
    this.#leaveGroup(blobId);
    this.#groupOf.set(blobId, groupName);
    this.#group(groupName).blobs++;
  }

  hold(groupName: string, owner: Owner, revoke: (blobIds: readonly number[]) => void): void {
    this.#group(groupName).holders.set(owner.ownerId, revoke);
    addTo(this.#groupsOf, owner.ownerId, groupName);
  }

  settled(owner: Owner, blobIds: readonly number[]): void {
    for (const blobId of blobIds) {
      removeFrom(this.#awaitingOf, owner.ownerId, blobId);
      const hold = this.#holds.get(blobId);
      if (hold?.awaiting?.delete(owner.ownerId) === true) this.#settleIfFree(blobId, hold);
    }
  }

  unhold(groupName: string, owner: Owner): void {
    removeFrom(this.#groupsOf, owner.ownerId, groupName);
    const group = this.#groups.get(groupName);
    if (group === undefined) return;
    group.holders.delete(owner.ownerId);
    this.#dropGroupIfEmpty(groupName, group);
  }

  dropOwner(owner: Owner): void {
    const groupNames = this.#groupsOf.get(owner.ownerId) ?? [];
    this.#groupsOf.delete(owner.ownerId);
    for (const name of groupNames) {
      const group = this.#groups.get(name);
      if (group?.holders.delete(owner.ownerId) !== true) continue;
      group.tainted = true;
      this.#dropGroupIfEmpty(name, group);
    }
    const blobIds = this.#awaitingOf.get(owner.ownerId) ?? [];
    this.#awaitingOf.delete(owner.ownerId);
    for (const blobId of blobIds) {
      const hold = this.#holds.get(blobId);
      if (hold?.awaiting?.delete(owner.ownerId) !== true) continue;
      hold.tainted = true;
      this.#settleIfFree(blobId, hold);
    }
  }

  /** Ends limbo for what was given up too long ago (I3). */
  sweep(): void {
    const now = this.#options.now();
    for (const [blobId, hold] of this.#limbo)
      if (now >= hold.limboUntilMs) this.#remove(blobId, hold, { recycle: false });
  }

  #leaveGroup(blobId: number): Group | undefined {
    const name = this.#groupOf.get(blobId);
    const group = name === undefined ? undefined : this.#groups.get(name);
    if (name === undefined || group === undefined) return undefined;
    this.#groupOf.delete(blobId);
    group.blobs--;
    this.#dropGroupIfEmpty(name, group);
    return group;
  }

  #hold(blobId: number): Hold {
    let hold = this.#holds.get(blobId);
    if (hold === undefined) {
      hold = { leases: 0, tainted: false, awaiting: undefined, limboUntilMs: 0 };
      this.#holds.set(blobId, hold);
    }
    return hold;
  }

  #group(name: string): Group {
    let group = this.#groups.get(name);
    if (group === undefined) {
      group = { holders: new Map(), blobs: 0, tainted: false };
      this.#groups.set(name, group);
    }
    return group;
  }

  #dropGroupIfEmpty(name: string, group: Group): void {
    if (group.blobs === 0 && group.holders.size === 0) this.#groups.delete(name);
  }

  #settleIfFree(blobId: number, hold: Hold): void {
    if (hold.leases > 0 || (hold.awaiting?.size ?? 0) > 0) return;
    this.#remove(blobId, hold, { recycle: !hold.tainted });
  }

  #remove(blobId: number, hold: Hold, options: { recycle: boolean }): void {
    this.#holds.delete(blobId);
    this.#limbo.delete(blobId);
    for (const ownerId of hold.awaiting ?? []) removeFrom(this.#awaitingOf, ownerId, blobId);
    this.#options.remove(blobId, options);
  }

  #revokeSoon(revoke: (blobIds: readonly number[]) => void, blobId: number): void {
    if (this.#revocations.size === 0) {
      setImmediate(() => {
        const due = [...this.#revocations];
        this.#revocations.clear();
        for (const [call, blobIds] of due) call(blobIds);
      });
    }
    const queued = this.#revocations.get(revoke);
    if (queued === undefined) this.#revocations.set(revoke, [blobId]);
    else queued.push(blobId);
  }
}

function addTo<K, V>(index: Map<K, Set<V>>, key: K, value: V): void {
  const found = index.get(key);
  if (found === undefined) index.set(key, new Set([value]));
  else found.add(value);
}

function removeFrom<K, V>(index: Map<K, Set<V>>, key: K, value: V): void {
  const found = index.get(key);
  found?.delete(value);
  if (found?.size === 0) index.delete(key);
}
