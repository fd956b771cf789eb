/** Where the node would listen: free, held by the node itself, or by somebody else, whom this user may not always see. */
import { lstatSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { NodeConfig } from '../config.ts';
import { findPortHolder } from '../holders.ts';
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
    const holder = findPortHolder(port);
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
