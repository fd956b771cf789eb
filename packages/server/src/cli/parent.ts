/**
 * The `ebb` script runs this process as its child and cannot be replaced by it (Node 20 has no exec). What is done to the
 * script must be done to the node: signals are passed on, and when the script is killed outright, the node dies as
 * suddenly, so that nobody is left with a daemon that they killed and that still holds its data directory.
 */
import { Socket } from 'node:net';

/** Set by bin/ebb.mjs: a descriptor that closes when the script is gone. */
const PARENT_FD = '_EBBCMD_PARENT_FD';

export function followParent(): void {
  const fd = Number(process.env[PARENT_FD]);
  delete process.env[PARENT_FD];
  if (!Number.isInteger(fd) || fd < 3) return;
  const link = new Socket({ fd, readable: true, writable: false });
  link.on('error', () => undefined);
  link.on('close', () => process.kill(process.pid, 'SIGKILL'));
  link.resume();
  link.unref();
}
