/** Where the node would listen: free, held by the node itself, or by somebody else, whom this user may not always see. */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import type { NodeConfig } from '../config.ts';
import { type TlsFiles } from '../tls/identity.ts';
import { loadTlsIdentity } from '../tls/reload.ts';
import { type Finding, Findings } from './finding.ts';

/** `nodePid`: of the node that runs with these settings; undefined: none does. */
export async function examineAddresses(
  config: NodeConfig,
  { nodePid }: { readonly nodePid: number | undefined },
): Promise<readonly Finding[]> {
  const findings = new Findings('addresses');
  for (const [flag, address] of [
    ['--listen', config.listen],
    ['--s3-listen', config.s3?.listen ?? null],
  ] as const)
    if (address !== null) await tellAddress(findings, { flag, ...address, nodePid });
  if (config.socketPath !== null)
    await tellSocket(findings, config.socketPath, nodePid !== undefined);
  if (config.tls !== null) tellCertificate(findings, config.tls);
  return findings.list;
}

interface Address {
  readonly flag: string;
  readonly host: string;
  readonly port: number;
  readonly nodePid: number | undefined;
}

async function tellAddress(
  findings: Findings,
  { flag, host, port, nodePid }: Address,
): Promise<void> {
  const shown = `${host}:${port}`;
  const problem = await listenOnce(host, port);
  if (problem === undefined) {
    findings.ok(flag, port === 0 ? 'a free port is taken at every start' : `${shown} is free`);
    return;
  }
  if (problem === 'EADDRINUSE') {
    const holder = findHolder(port);
    if (holder !== undefined && holder.pid === nodePid)
      findings.ok(flag, `${shown} is held by the node itself`);
    else if (holder === undefined && nodePid !== undefined)
      findings.ok(flag, `${shown} is in use, by the node as it seems`);
    else {
      const who =
        holder === undefined
          ? 'a process of another user'
          : `process ${holder.pid} (${holder.name})`;
      findings.fail(flag, `${shown} is held by ${who}; end it, or give another ${flag}`);
    }
  } else if (problem === 'EADDRNOTAVAIL')
    findings.fail(flag, `${host} is no address of this host; give another ${flag}`);
  else findings.fail(flag, `${shown} cannot be listened on (${problem}); give another ${flag}`);
}

async function listenOnce(host: string, port: number): Promise<string | undefined> {
  return await new Promise((resolve) => {
    const server = createServer();
    server.once('error', ({ code = '' }: NodeJS.ErrnoException) => resolve(code));
    server.listen({ host, port }, () => server.close(() => resolve(undefined)));
  });
}

async function tellSocket(findings: Findings, path: string, isRunning: boolean): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) findings.ok('--socket', `${path} is free`);
  else if (!found.isSocket())
    findings.fail(
      '--socket',
      `${path} is there, and is no socket; remove it, or give another --socket`,
    );
  else if (isRunning) findings.ok('--socket', `the node answers on ${path}`);
  else if (await answers(path))
    findings.fail(
      '--socket',
      `something else answers on ${path}; end it, or give another --socket`,
    );
  else findings.ok('--socket', `${path} was left by a node that is gone; the next one replaces it`);
}

async function answers(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(path, () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

function tellCertificate(findings: Findings, files: TlsFiles): void {
  const { warnings, subject, expiresAtMs } = loadTlsIdentity(files);
  for (const warning of warnings) findings.warn('--tls-cert', warning);
  if (warnings.length === 0)
    findings.ok('--tls-cert', `${subject}, valid until ${new Date(expiresAtMs).toISOString()}`);
}

/** By the kernel's tables; undefined where this user may not look into the process. */
function findHolder(port: number): { readonly pid: number; readonly name: string } | undefined {
  const inodes = new Set(
    ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((table) => listening(table, port)),
  );
  for (const entry of names('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const directory = join('/proc', entry, 'fd');
    for (const fd of names(directory)) {
      const [, inode] = /^socket:\[(\d+)\]$/.exec(linkOf(join(directory, fd))) ?? [];
      if (inode === undefined || !inodes.has(inode)) continue;
      return { pid: Number(entry), name: textOf(join('/proc', entry, 'comm')).trim() };
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
