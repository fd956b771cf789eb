/**
 * Direct access to the node's files. A client has it when it finds the node's nonce under both directories
 * (messages.HelloResponse); then bytes go by `pread` and `pwrite`, and the daemon is out of the way.
 */
import { constants } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { assert, type messages } from '@ebb/protocol';

export interface LocalFiles {
  /** Absolute path of a file that the node named relative to its tier's directory. */
  path(tier: 0 | 1 | 2, relative: string): string;
}

/** undefined when this process does not see the files. */
export async function probeLocalFiles(
  hello: messages.HelloResponse,
): Promise<LocalFiles | undefined> {
  const { memoryDir, diskDir, probeName, probeNonce } = hello;
  const seen = await Promise.all(
    [memoryDir, diskDir].map((dir) => seesProbe(dir, probeName, probeNonce)),
  );
  if (!seen.every(Boolean)) return undefined;
  return {
    path(tier, relative) {
      assert(tier !== 2, 'tier 2 has no local files');
      assert(relative !== '', 'the node named a file');
      return join(tier === 0 ? memoryDir : diskDir, relative);
    },
  };
}

async function seesProbe(dir: string, name: string, nonce: string): Promise<boolean> {
  if (dir === '' || name === '' || nonce === '') return false;
  try {
    const found = await readFile(join(dir, name), 'utf8');
    await access(dir, constants.R_OK | constants.X_OK);
    return found.trim() === nonce;
  } catch {
    return false; // not there, or not ours to read: the other path works
  }
}
