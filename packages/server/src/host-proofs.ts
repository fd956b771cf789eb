/**
 * How the node shows a client that both are on one host: for a challenge that the client made up, an empty file named after
 * it in both tiers (protocol/src/node-files.ts). A client that finds both may use the node's files.
 *
 * I1  Nothing depends on it: where a file cannot be made, the client sends and fetches its bytes through the node.
 * I2  Clients that anybody may be cannot fill a directory: a proof goes after `KEPT_MS`, and the eldest when there are too many.
 */
import { constants, readdirSync, rmSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isChallenge, isProofName, proofName, StoreError } from '@ebb/protocol';

/** A client looks as soon as it has its answer; this leaves time for one that was stopped meanwhile. */
const KEPT_MS = 30_000;
/** More connections than a node greets in that time. An empty file takes about 1 KiB of a tmpfs. */
const PROOFS_MAX = 4096;

export interface HostProofs {
  /** Makes the files, or not (I1). @throws {StoreError} `request_invalid` for a challenge of another form */
  prove(challenge: string): Promise<void>;
  /** Removes what is left of them. */
  close(): void;
}

/** Removes what a killed node left. */
export function openHostProofs(
  directories: readonly string[],
  { keptMs = KEPT_MS, proofsMax = PROOFS_MAX } = {},
): HostProofs {
  for (const directory of directories) removeAll(directory);
  /** In the order in which they were made. */
  const timers = new Map<string, NodeJS.Timeout>();
  const forget = (challenge: string): void => {
    clearTimeout(timers.get(challenge));
    timers.delete(challenge);
    for (const directory of directories)
      rm(join(directory, proofName(challenge)), { force: true }).catch(() => undefined);
  };
  return {
    async prove(challenge) {
      if (!isChallenge(challenge))
        throw new StoreError('request_invalid', 'a challenge has 32 hexadecimal digits');
      if (timers.has(challenge)) return;
      for (const eldest of timers.keys()) {
        if (timers.size < proofsMax) break;
        forget(eldest);
      }
      const timer = setTimeout(() => forget(challenge), keptMs);
      timer.unref();
      timers.set(challenge, timer);
      await Promise.allSettled(
        directories.map((directory) => make(join(directory, proofName(challenge)))),
      );
    },
    close() {
      for (const timer of timers.values()) clearTimeout(timer);
      timers.clear();
      for (const directory of directories) removeAll(directory);
    },
  };
}

/** Readable by whoever sees the directory: there is nothing in it. */
async function make(path: string): Promise<void> {
  const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
  const file = await open(path, flags, 0o640);
  await file.close();
}

function removeAll(directory: string): void {
  try {
    for (const name of readdirSync(directory))
      if (isProofName(name)) rmSync(join(directory, name), { force: true });
  } catch {
    // They take no room, and the next start tries again.
  }
}
