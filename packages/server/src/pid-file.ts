/**
 * `ebb.pid` in the data directory, for those who stop a node: a signal to `npx` does not reach what it started. And the socket:
 * both are names that must not outlive the process, however it ends (but for SIGKILL).
 */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeOwnFile } from '@ebb/core';
import type { NodeConfig } from './config.ts';

/** @throws the errno of node:fs; the node can do without it */
export function writePidFile(config: Pick<NodeConfig, 'dataDir'>): void {
  writeOwnFile(pidFile(config), `${process.pid}\n`, { mode: 0o644 });
}

/** Removes what a killed node left: its number may be a stranger's by now. The caller has the lock of the data directory. */
export function removeStalePidFile(config: Pick<NodeConfig, 'dataDir'>): void {
  try {
    rmSync(pidFile(config), { force: true });
  } catch {
    // The node can do without: who writes its own pid there says what is wrong with the place.
  }
}

export function removePidFile(config: Pick<NodeConfig, 'dataDir'>): void {
  const file = pidFile(config);
  // By now another node may have the directory.
  if (readIfThere(file) === `${process.pid}\n`) rmSync(file, { force: true });
}

/** While this process still has the lock of the data directory. */
export function removeNames(config: Pick<NodeConfig, 'dataDir' | 'socketPath'>): void {
  removePidFile(config);
  if (config.socketPath !== null) rmSync(config.socketPath, { force: true });
}

function pidFile({ dataDir }: Pick<NodeConfig, 'dataDir'>): string {
  return join(dataDir, 'ebb.pid');
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
