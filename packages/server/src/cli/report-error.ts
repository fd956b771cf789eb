/** Says on standard error what went wrong, and gives the exit code. */
import { isStoreError, type StoreError } from '@ebb/protocol';
import { EXIT, EXIT_OF_CODE } from './exit-codes.ts';

export function reportError(error: unknown, options: { readonly json: boolean }): number {
  if (isStoreError(error)) {
    const { code, message, retry, details } = error;
    if (options.json) say(JSON.stringify({ error: { code, message, retry, details } }));
    else say(`ebb: ${message} (${code})${hint(error)}`);
    return EXIT_OF_CODE[code];
  }
  const { code, message, path, stack } = error as NodeJS.ErrnoException;
  if (typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)) {
    // A local file of the caller's.
    const known = LOCAL[code];
    const text =
      known === undefined || path === undefined ? message : `${path}: ${known} (${code})`;
    say(options.json ? JSON.stringify({ error: { code, message: text } }) : `ebb: ${text}`);
    return code === 'ENOENT' ? EXIT.notFound : code === 'ENOSPC' ? EXIT.noRoom : EXIT.failed;
  }
  say(
    options.json
      ? JSON.stringify({ error: { code: 'internal', message } })
      : `ebb: a fault of ebb itself: ${stack}`,
  );
  return EXIT.failed;
}

const LOCAL: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or directory here; check the path',
  EACCES: 'this user may not; check the owner and the mode of the file and of its directory',
  EISDIR: 'it is a directory; name a file',
  ENOTDIR: 'a part of the path is a file',
  ENOSPC: 'the file system has no room left; make room, or name a place on another one',
  EROFS: 'the file system is read-only; name a place on another one',
};

function hint({ code, message, details }: StoreError): string {
  // It runs; the message says what is missing.
  if (code === 'node_unreachable' && message.includes('not allowed to use the socket')) return '';
  if (code === 'node_unreachable' && 'silentMs' in details) return '';
  if (code === 'node_unreachable')
    return '\n     Is it running? Start one with `ebb node`, or name it with --node or EBB_NODE.';
  if (code === 'bucket_not_found')
    return '\n     `ebb buckets` lists those there are; `ebb buckets create NAME` makes one.';
  return '';
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
