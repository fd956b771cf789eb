/** Translates errno into the codes of the protocol, at this border only. */
import { StoreError } from '@ebb/protocol';

const OUT_OF_DESCRIPTORS = new Set<unknown>(['EMFILE', 'ENFILE']);
const NO_ROOM = new Set<unknown>(['ENOSPC', 'EDQUOT', 'EFBIG']);

export function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : '';
}

export function isMissing(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT';
}

export function isNoRoom(error: unknown): boolean {
  return codeOfErrno(errnoOf(error)) === 'tier_full';
}

/** Whether the process, or the host, has no descriptor left. */
export function isOutOfDescriptors(error: unknown): boolean {
  return codeOfErrno(errnoOf(error)) === 'busy';
}

export function codeOfErrno(errno: unknown): 'tier_full' | 'busy' | 'io_failed' {
  if (NO_ROOM.has(errno)) return 'tier_full';
  return OUT_OF_DESCRIPTORS.has(errno) ? 'busy' : 'io_failed';
}

/** `busy` when there is no descriptor for it now, `tier_full` when the file system has no room, `io_failed` for the rest; an error that has its code already stays. */
export function toStoreError(error: unknown, doing: string): StoreError {
  if (error instanceof StoreError) return error;
  const errno = errnoOf(error);
  const reason = error instanceof Error ? error.message : String(error);
  if (isOutOfDescriptors(error))
    return new StoreError('busy', `${doing}: no file descriptor is left`, { errno }, error);
  return isNoRoom(error)
    ? new StoreError('tier_full', `${doing}: the file system has no room`, { errno }, error)
    : new StoreError('io_failed', `${doing}: ${reason}`, { errno }, error);
}
