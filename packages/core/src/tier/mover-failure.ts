/** Why a job of the mover failed: crosses from its worker to the main thread, where mover.ts makes it a StoreError. */

/**
 * `aborted`: the caller stopped it. `short`: a source ends before its run. `missing`: a source is not there, or no file.
 * `mismatch`: bytes that were read do not have the CRC32C they should have. `damaged`: encrypted bytes do not open.
 * `replaced`: others put something else under a name. `link`: a directory lies behind a symbolic link.
 * `unsynced`: the name is there, and may not be durable. `errno`: a call failed.
 */
export type MoverFailureKind =
  | 'aborted'
  | 'short'
  | 'missing'
  | 'damaged'
  | 'mismatch'
  | 'replaced'
  | 'link'
  | 'unsynced'
  | 'errno';

export type MoverFailureDetails = Readonly<Record<string, string | number | null>>;

export class MoverFailure extends Error {
  readonly failed: MoverFailureKind;
  readonly details: MoverFailureDetails;

  constructor(failed: MoverFailureKind, message: string, details: MoverFailureDetails = {}) {
    super(message);
    this.failed = failed;
    this.details = details;
  }
}
