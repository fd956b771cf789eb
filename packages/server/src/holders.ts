/** Which process has what a node wants: a port, or the lock of a file. As far as this user may see. */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';

export interface Holder {
  readonly pid: number;
  readonly name: string;
}

export function describeHolder(found: Holder | undefined): string {
  return found === undefined
    ? 'a process that this user cannot see'
    : `process ${found.pid} (${found.name})`;
}

/** By the kernel's table of locks: `1: POSIX ADVISORY WRITE 4711 fd:01:1048602 0 EOF`. */
export function findLockHolder(file: string): Holder | undefined {
  let inode: number;
  try {
    inode = statSync(file).ino;
  } catch {
    return undefined;
  }
  for (const line of textOf('/proc/locks').split('\n')) {
    const [, kind, , , pid = '', where = ''] = line.trim().split(/\s+/);
    if (kind === 'POSIX' && where.endsWith(`:${inode}`) && Number(pid) > 0)
      return holder(Number(pid));
  }
  return undefined;
}

function holder(pid: number): Holder {
  return { pid, name: textOf(join('/proc', String(pid), 'comm')).trim() };
}

/** By the kernel's tables; undefined where this user may not look into the process. */
export function findPortHolder(port: number): Holder | undefined {
  const inodes = new Set(
    ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((table) => listening(table, port)),
  );
  for (const entry of names('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const directory = join('/proc', entry, 'fd');
    for (const fd of names(directory)) {
      const [, inode] = /^socket:\[(\d+)\]$/.exec(linkOf(join(directory, fd))) ?? [];
      if (inode === undefined || !inodes.has(inode)) continue;
      return holder(Number(entry));
    }
  }
  return undefined;
}

/** Inodes of the sockets that listen on the port: state 0A, the port in hexadecimal, the inode in the tenth column. */
function listening(table: string, port: number): string[] {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  return textOf(table)
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local = '', , state]) => state === '0A' && local.endsWith(`:${wanted}`))
    .map((columns) => columns[9] ?? '');
}

function names(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
