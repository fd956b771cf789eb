/** Says on standard error what went wrong, and gives the exit code. */
import { isStoreError } from '@ebb/protocol';
import { EXIT, EXIT_OF_CODE } from './exit-codes.ts';

export function reportError(error: unknown, options: { readonly json: boolean }): number {
  if (isStoreError(error)) {
    const { code, message, retry, details } = error;
    if (options.json) say(JSON.stringify({ error: { code, message, retry, details } }));
    else say(`ebb: ${message} (${code})${hint(code)}`);
    return EXIT_OF_CODE[code];
  }
  const { code, message, stack } = error as NodeJS.ErrnoException;
  if (typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)) {
    // A local file of the caller's; Node's message has the path and the reason.
    say(options.json ? JSON.stringify({ error: { code, message } }) : `ebb: ${message}`);
    return code === 'ENOENT' ? EXIT.notFound : code === 'ENOSPC' ? EXIT.noRoom : EXIT.failed;
  }
  say(
    options.json
      ? JSON.stringify({ error: { code: 'internal', message } })
      : `ebb: a fault of ebb itself: ${stack}`,
  );
  return EXIT.failed;
}

function hint(code: string): string {
  if (code === 'node_unreachable')
    return '\n     Is it running? Start one with `ebb node`, or name it with --node or EBB_NODE.';
  if (code === 'bucket_not_found') return '\n     Create it with `ebb buckets create NAME`.';
  return '';
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
