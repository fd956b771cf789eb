/** Runs a command's work with an open client; an interrupt aborts it, and leaves nothing staged. */
import { type EbbClient, openClient, type TlsOptions } from '@ebb/client';
import { StoreError } from '@ebb/protocol';
import { listenForStop } from '../stop-signals.ts';

export interface Session {
  readonly client: EbbClient;
  readonly signal: AbortSignal;
}

export async function withClient<T>(
  options: { readonly node: string; readonly unreachableMs?: number } & TlsOptions,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  const interrupt = new AbortController();
  const stopListening = listenForStop({
    onFirst: (name) => interrupt.abort(new StoreError('aborted', `interrupted (${name})`)),
    onAgain: () => process.exit(130),
  });
  const { signal } = interrupt;
  try {
    await using client = await openClient({
      node: options.node,
      caFile: options.caFile,
      certFile: options.certFile,
      keyFile: options.keyFile,
      signal,
      name: `ebb-cli/0.1.0 pid-${process.pid}`,
      retry: { unreachableMs: options.unreachableMs ?? 10_000 },
    });
    return await work({ client, signal });
  } finally {
    stopListening();
  }
}
