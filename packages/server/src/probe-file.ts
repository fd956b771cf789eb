/**
 * How a client finds out whether it sees this node's files: a file of the same name in both tiers, with a random nonce. One
 * that reads the nonce HELLO told shares our file system; a path that merely exists on another host does not.
 */
import { randomBytes } from 'node:crypto';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface ProbeFile {
  readonly name: string;
  readonly nonce: string;
  /** Removes it. */
  close(): void;
}

/** The name is the same at every start, so that a crash leaves nothing that the next start does not overwrite. */
const NAME = '.ebb-probe';

export function openProbeFile(directories: readonly string[]): ProbeFile {
  const nonce = randomBytes(16).toString('hex');
  for (const directory of directories) {
    const path = join(directory, NAME);
    writeFileSync(`${path}.new`, nonce, { mode: 0o640 });
    renameSync(`${path}.new`, path);
  }
  return {
    name: NAME,
    nonce,
    close: () => {
      for (const directory of directories) rmSync(join(directory, NAME), { force: true });
    },
  };
}
