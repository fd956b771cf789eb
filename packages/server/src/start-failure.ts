/**
 * What a start that failed says, and whether another try could end otherwise. A supervisor reads the exit code: `EXIT.usage`
 * means that it will not, until somebody changes a setting, a directory or a program (infra/systemd, docs/operations).
 */
import { errnoOf } from '@ebb/core';
import { isStoreError, type StoreErrorCode } from '@ebb/protocol';
import { EXIT } from './cli/exit-codes.ts';
import { reportError } from './cli/report-error.ts';

const PERMANENT: ReadonlySet<StoreErrorCode> = new Set([
  'config_invalid',
  'data_directory_in_use',
  'version_unsupported',
  'key_unavailable',
  'data_corrupt',
] as const);
const PERMANENT_ERRNO = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG']);

/** Says it on standard error, and gives the exit code. */
export function reportStartFailure(error: unknown): number {
  const code = reportError(error, { json: false });
  return isPermanent(error) ? EXIT.usage : code === EXIT.usage ? EXIT.failed : code;
}

function isPermanent(error: unknown): boolean {
  if (isStoreError(error))
    return PERMANENT.has(error.code) || (error.cause !== undefined && isPermanent(error.cause));
  return PERMANENT_ERRNO.has(errnoOf(error));
}
