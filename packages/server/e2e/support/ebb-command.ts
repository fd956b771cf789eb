/** The `ebb` command as a user has it: bin/ebb.mjs, started by any Node. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cleanEnv } from '../../../client/e2e/support/node-process.ts';

export const EBB_BIN = join(import.meta.dirname, '../../bin/ebb.mjs');

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** To its end, whatever that is. `env` says which node. */
export async function runEbb(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Ran> {
  const options = { env: { ...cleanEnv(), ...env } };
  return await promisify(execFile)(process.execPath, [EBB_BIN, ...args], options).then(
    (out) => ({ code: 0, ...out }),
    (error: Ran) => error,
  );
}
