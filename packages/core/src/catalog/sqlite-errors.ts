/** The border where SQLite's result codes become codes of the protocol. */
import { isStoreError, StoreError, type StoreErrorCode } from '@ebb/protocol';

const CODES: Readonly<Record<number, { code: StoreErrorCode; means: string }>> = {
  5: { code: 'data_directory_in_use', means: 'another process has the catalog open' },
  6: { code: 'data_directory_in_use', means: 'the catalog is open already in this process' },
  8: { code: 'io_failed', means: 'the file system of the catalog is read-only' },
  10: { code: 'io_failed', means: 'the disk of the catalog failed' },
  11: { code: 'data_corrupt', means: 'the catalog file is damaged' },
  13: { code: 'tier_full', means: 'no room on the file system of the catalog' },
  19: { code: 'internal', means: 'a row breaks a rule of its table' },
  26: { code: 'data_corrupt', means: 'the catalog file is not a database' },
};

/** Leaves StoreErrors, and errors that are not SQLite's, as they are. */
export function translateSqliteError(error: unknown, subject: string): unknown {
  if (isStoreError(error)) return error;
  const errcode = error instanceof Error && 'errcode' in error ? Number(error.errcode) : undefined;
  if (errcode === undefined) return error;
  // The low byte is the primary code, the rest says more.
  const known = CODES[errcode & 0xff] ?? { code: 'io_failed', means: 'the catalog failed' };
  return new StoreError(
    known.code,
    `${subject}: ${known.means}`,
    { subject, sqlite: errcode },
    error,
  );
}
