/**
 * The one table of error codes. Core throws them, the server maps them to HTTP and to frames, and every
 * client branches on them: on `code` and `retry`, never on a message.
 *
 * `retry`: `never`: the same request fails again; `safe`: certainly not applied, try again later;
 * `ambiguous`: may have been applied, so look first or retry under a condition. `remedy`: what a person does then; the
 * page docs/reference/errors.md is made from this table.
 */
export type Retry = 'never' | 'safe' | 'ambiguous';

export const ERRORS = {
  request_invalid: {
    retry: 'never',
    means: 'The request is malformed; the details list every complaint.',
    remedy: 'Correct what the message names.',
  },
  config_invalid: {
    retry: 'never',
    means: 'The configuration does not hold together; the details list every complaint.',
    remedy: 'Correct the settings that the message names; each complaint says how.',
  },
  name_invalid: {
    retry: 'never',
    means: 'A bucket name, key or job id is not allowed; the message says which rule.',
    remedy: 'Choose another name, by the rule in the message.',
  },
  not_found: {
    retry: 'never',
    means: 'No object under this key.',
    remedy: 'Check bucket and key (`ebb ls`); it may have been deleted, alone or with its job.',
  },
  bucket_not_found: {
    retry: 'never',
    means: 'No bucket of this name.',
    remedy: 'Create it first: `ebb buckets create NAME`.',
  },
  bucket_exists: {
    retry: 'never',
    means: 'A bucket of this name exists with another policy.',
    remedy: 'Use the bucket as it is, or choose another name.',
  },
  bucket_not_empty: {
    retry: 'never',
    means: 'The bucket still has objects.',
    remedy: 'Delete its objects first, or remove it with them: `ebb buckets rm -r NAME`.',
  },
  job_not_found: {
    retry: 'never',
    means: 'No such job: it ended, expired, or never began.',
    remedy: 'Open the job again; a job that is to live on sends heartbeats or keeps a connection.',
  },
  job_exists: {
    retry: 'never',
    means: 'Somebody else opened a job of this id, and it is alive.',
    remedy:
      'Take another id; or end that job first (`ebb jobs end ID`), or wait until it ends for want of a heartbeat. Who comes back to a job of its own shows the token it was opened with.',
  },
  shuffle_not_found: {
    retry: 'never',
    means: 'No such shuffle: it was removed with its job, or never registered.',
    remedy: 'Run the step that wrote it again.',
  },
  write_not_found: {
    retry: 'never',
    means:
      'No such staged write: it was committed, aborted, expired, or belongs to another client.',
    remedy: 'Stage and write again.',
  },
  lease_not_found: {
    retry: 'never',
    means: 'No such lease: it was returned or has expired.',
    remedy: 'Open the object again.',
  },
  file_not_open: {
    retry: 'never',
    means:
      'No such open file: it was closed, given up when idle, or lost with its connection or a restart of the node.',
    remedy: 'Open the file again; what was written since its last sync is gone.',
  },
  directory_not_empty: {
    retry: 'never',
    means: 'There are objects under this directory.',
    remedy: 'Delete what is in it first, or all of it by its prefix.',
  },
  already_committed: {
    retry: 'never',
    means: 'This staged write was committed before.',
    remedy: 'Nothing: the first commit holds.',
  },
  already_exists: {
    retry: 'never',
    means: 'The object exists, and the write asked for a new one (If-None-Match: *).',
    remedy: 'Choose another key, or write without the condition.',
  },
  precondition_failed: {
    retry: 'never',
    means: 'The object is not at the version the caller named (If-Match, epoch).',
    remedy: 'Read the object as it is now, and decide again.',
  },
  superseded: {
    retry: 'never',
    means:
      'A newer attempt or version holds this place: the late commit was refused, or what was read is no longer kept.',
    remedy: 'For a commit nothing: the newer attempt holds. For a read: open the object again.',
  },
  range_invalid: {
    retry: 'never',
    means: 'The range starts beyond the end, or is malformed.',
    remedy: 'Ask for a range within the size that the answer names.',
  },
  length_mismatch: {
    retry: 'never',
    means: 'The number of bytes differs from what was announced.',
    remedy: 'Write again, and announce the length that is sent.',
  },
  checksum_mismatch: {
    retry: 'never',
    means: 'The bytes do not match the checksum the client sent.',
    remedy: 'Write again; if it comes back, look for faulty memory on the way.',
  },
  data_corrupt: {
    retry: 'never',
    means: 'Stored bytes no longer match their checksum.',
    remedy:
      'Write the object again from its source; run `ebb verify`, and check the disk and the memory of the host.',
  },
  key_unavailable: {
    retry: 'never',
    means:
      'The bytes are encrypted under a key that this node does not have; the details name its id.',
    remedy:
      'Add the key to the file of `--encryption-keys`, and start the node again. Without that key the bytes cannot be read.',
  },
  data_lost: {
    retry: 'never',
    means: 'The bytes were on a tier that is gone and existed nowhere else.',
    remedy:
      'Write the object again from its source; what must outlive a reboot needs ack `disk` or `remote`.',
  },
  too_large: {
    retry: 'never',
    means: 'Larger than a limit allows.',
    remedy: 'Split it; the message names the limit.',
  },
  quota_exceeded: {
    retry: 'never',
    means: 'The byte budget of the job or bucket is used up.',
    remedy:
      'Delete what is no longer needed. A quota (`ebb buckets create --quota`) and the budget of a job are given when it is made, and are not raised later: take a bucket or a job with a larger one.',
  },
  tier_full: {
    retry: 'safe',
    means: 'No room in any tier that may take this write, and nothing can be moved now.',
    remedy: 'Try again later; if it stays, delete, or raise `--memory-limit` or `--disk-limit`.',
  },
  busy: {
    retry: 'safe',
    means:
      'The node is close to full, or a queue is at its limit; try again after the time it names.',
    remedy: 'Wait the time it names, then try again.',
  },
  starting: {
    retry: 'safe',
    means: 'The node is starting: it reads its catalog and takes no work yet.',
    remedy: 'Try again when it is ready.',
  },
  draining: {
    retry: 'safe',
    means: 'The node is stopping and takes no new work.',
    remedy: 'Try again when the node is back.',
  },
  events_gone: {
    retry: 'never',
    means:
      'The log of events does not reach back to this id, or never gave it; the details name the first one it has.',
    remedy:
      'List what there is now, and watch from now on; a watcher that falls behind needs to read faster.',
  },
  not_mirrored: {
    retry: 'never',
    means: 'The bucket copies nothing to tier 2, so what is waited for will not happen.',
    remedy: 'Wait for `disk`, write with ack `remote`, or use a bucket that mirrors.',
  },
  not_yet_durable: {
    retry: 'ambiguous',
    means: 'The change is made and seen, but what it asked for does not hold yet.',
    remedy:
      'Wait for it (`ebb wait`), or look why it does not (`ebb status`, `ebb why`); a repeat under a condition meets the change itself.',
  },
  timed_out: {
    retry: 'safe',
    means: 'What was waited for did not happen in the time given.',
    remedy:
      'Wait again; `ebb status` shows the backlog of the mirror, and the log of the node why it does not shrink.',
  },
  data_directory_in_use: {
    retry: 'never',
    means: 'Another node runs on this data directory.',
    remedy: 'Stop the other node, or give this one another `--data`.',
  },
  version_unsupported: {
    retry: 'never',
    means: 'The other side speaks a protocol or format version this one does not know.',
    remedy: 'Use one version of Ebb on both sides.',
  },
  unsupported: {
    retry: 'never',
    means: 'This option is not offered here.',
    remedy: 'Leave the option out; LIMITATIONS.md tells what is not offered.',
  },
  io_failed: {
    retry: 'ambiguous',
    means: 'The file system or a tier failed.',
    remedy:
      'Look for the cause in the log of the node (room, permissions, the disk), and whether the call was applied.',
  },
  node_unreachable: {
    retry: 'ambiguous',
    means: 'No answer from the node.',
    remedy:
      'Check that the node runs (`/readyz`) and its address, and whether the call was applied.',
  },
  aborted: {
    retry: 'ambiguous',
    means: 'The caller gave up.',
    remedy: 'Look whether the call was applied, where that matters.',
  },
  internal: {
    retry: 'ambiguous',
    means: 'A fault of Ebb itself; the log of the node has the cause.',
    remedy: 'Look whether the call was applied, and report the fault with the log.',
  },
} as const satisfies Record<string, { retry: Retry; means: string; remedy: string }>;

export type StoreErrorCode = keyof typeof ERRORS;

export type ErrorDetails = Readonly<
  Record<string, string | number | boolean | null | readonly string[]>
>;

/** An operating error: expected, coded, with its subject and numbers in `details`; the original is `cause`. */
export class StoreError extends Error {
  readonly code: StoreErrorCode;
  /** That of the code; `never` where `details.neverFits` says that no wait will make room. */
  readonly retry: Retry;
  readonly details: ErrorDetails;

  constructor(code: StoreErrorCode, message?: string, details: ErrorDetails = {}, cause?: unknown) {
    super(message ?? ERRORS[code].means, cause === undefined ? undefined : { cause });
    this.name = 'StoreError';
    this.code = code;
    this.retry = details['neverFits'] === true ? 'never' : ERRORS[code].retry;
    this.details = details;
  }
}

export function isStoreErrorCode(code: string): code is StoreErrorCode {
  return Object.hasOwn(ERRORS, code);
}

export function isStoreError(error: unknown, code?: StoreErrorCode): error is StoreError {
  return error instanceof StoreError && (code === undefined || error.code === code);
}

/** Our own mistake: the request fails, and the fault is reported as a bug. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError';
}

/** @throws {InvariantError} when `condition` does not hold. One condition a call. */
export function assert(condition: unknown, why: string): asserts condition {
  if (!condition) throw new InvariantError(why);
}
