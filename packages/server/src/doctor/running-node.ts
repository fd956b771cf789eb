/** The node that runs with these settings, if one does: what it says of itself. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openClient } from '@ebb/client';
import { formatBytes, type Status } from '@ebb/protocol';
import { VERSION } from '../compose.ts';
import type { NodeConfig } from '../config.ts';
import { type Finding, Findings } from './finding.ts';

const ASK_MS = 5_000;
/** What waits for tier 2 for longer is not just on its way. */
const MIRROR_LATE_MS = 10 * 60_000;

export interface RunningNode {
  readonly pid: number;
  readonly findings: readonly Finding[];
}

export async function examineRunningNode(config: NodeConfig): Promise<RunningNode> {
  const findings = new Findings('node');
  const status = await findStatus(config);
  if (status === undefined) {
    findings.ok('running', 'no node runs with these settings');
    return { pid: 0, findings: findings.list };
  }
  const who = `node ${status.nodeId}, ebb ${status.version}`;
  if (status.state === 'ready') findings.ok('running', `${who}, is ready`);
  else findings.warn('running', `${who}, is ${status.state}`);
  for (const { name, subject, reason, whatToDo } of status.conditions)
    findings.warn(`${name} ${subject}`, `${reason} ${whatToDo}`);
  if (status.version !== VERSION)
    findings.warn(
      'version',
      `the node is ebb ${status.version}, this command ${VERSION}; restart the node`,
    );
  for (const { tier, usedBytes, capacityBytes } of status.tiers)
    if (capacityBytes !== null && usedBytes > capacityBytes * 0.98)
      findings.warn(
        `tier ${tier}`,
        `${formatBytes(usedBytes)} of ${formatBytes(capacityBytes)} are used: writes wait or are refused; raise its limit, or see what cannot leave (ebb why)`,
      );
  const waitsMs = status.mirrorOldestMs === null ? 0 : Date.now() - status.mirrorOldestMs;
  if (waitsMs > MIRROR_LATE_MS)
    findings.warn(
      'mirror',
      `${status.mirrorBacklogObjects} objects wait for the remote tier, the oldest for ${Math.round(waitsMs / 60_000)} minutes; see what the findings about the remote say`,
    );
  else findings.ok('mirror', `${status.mirrorBacklogObjects} objects wait for the remote tier`);
  return { pid: findPid(config.dataDir), findings: findings.list };
}

/** On the socket, or on the address where that speaks plain HTTP. */
async function findStatus(config: NodeConfig): Promise<Status | undefined> {
  const { socketPath, listen, tls } = config;
  const tcp =
    listen === null || listen.port === 0 || tls !== null
      ? undefined
      : `http://${listen.host}:${listen.port}`;
  const node = socketPath === null ? tcp : `unix://${socketPath}`;
  if (node === undefined) return undefined;
  try {
    const signal = AbortSignal.timeout(ASK_MS);
    await using client = await openClient({
      node,
      signal,
      path: 'http',
      retry: { unreachableMs: 0 },
    });
    return await client.status({ signal });
  } catch {
    return undefined;
  }
}

/** As the node noted it when it started; 0: it did not. */
function findPid(dataDir: string): number {
  try {
    return Number(readFileSync(join(dataDir, 'ebb.pid'), 'utf8'));
  } catch {
    return 0;
  }
}
