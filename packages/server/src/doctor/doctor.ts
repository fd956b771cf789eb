/**
 * Looks at everything that a node with these settings depends on, without starting one.
 *
 * I1  What is examined is left as it was, also when the examination is cut short by its signal.
 * I2  One thing that cannot be examined does not keep the others from it.
 */
import { openS3Tier } from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import type { NodeConfig } from '../config.ts';
import type { OwnRemote } from '../remotes.ts';
import { examineAddresses } from './addresses.ts';
import { examineData, examineMemory, examineRemoteDirectory } from './directories.ts';
import { type Finding, Findings } from './finding.ts';
import { examineMachine, examineSecretFiles } from './machine.ts';
import { examineRunningNode } from './running-node.ts';

/** @throws {StoreError} `aborted` */
export async function examineNode(
  config: NodeConfig,
  options: {
    readonly signal: AbortSignal;
    /** By the setting that names them. */
    readonly secretFiles: readonly { readonly setting: string; readonly path: string }[];
  },
): Promise<readonly Finding[]> {
  const { signal, secretFiles } = options;
  const configuration = new Findings('configuration');
  configuration.ok('settings', 'they fit together');
  for (const warning of config.warnings) configuration.warn('settings', warning);
  const running = await examineRunningNode(config);
  const parts: readonly (readonly [
    string,
    () => Finding[] | readonly Finding[] | Promise<readonly Finding[]>,
  ])[] = [
    ['memory', () => examineMemory(config)],
    ['data', () => examineData(config)],
    [
      'addresses',
      () => examineAddresses(config, { nodePid: running.pid === 0 ? undefined : running.pid }),
    ],
    ['machine', () => examineMachine(signal)],
    ['secrets', () => examineSecretFiles(secretFiles)],
    ...remotesOf(config).map(
      ([name, remote]) => [name, () => examineRemote(name, remote, signal)] as const,
    ),
  ];
  const found = [...configuration.list, ...running.findings];
  for (const [subject, examine] of parts) {
    signal.throwIfAborted();
    try {
      found.push(...(await examine()));
    } catch (error) {
      if (signal.aborted || isStoreError(error, 'aborted')) throw error;
      const failed = new Findings(subject);
      failed.fail('examination', `it could not be examined: ${(error as Error).message}`);
      found.push(...failed.list);
    }
  }
  return found;
}

/** Settings that no node would start with. */
export function findingsOfComplaints(complaints: readonly string[]): readonly Finding[] {
  const findings = new Findings('configuration');
  for (const complaint of complaints) findings.fail('settings', complaint);
  return findings.list;
}

/** Each once; the node's own may be one of the named. */
function remotesOf({ remotes }: NodeConfig): readonly (readonly [string, OwnRemote])[] {
  const named = [...remotes.named].map(([name, remote]) => [`remote ${name}`, remote] as const);
  if (named.some(([, remote]) => remote === remotes.own)) return named;
  return [['remote', remotes.own], ...named];
}

/** Somebody waits for the report: a store that hangs is told soon. */
const PATIENCE = { stallMs: 15_000, serverWorkMs: 60_000, attempts: 2 } as const;

async function examineRemote(
  subject: string,
  remote: OwnRemote,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if ('directory' in remote) return examineRemoteDirectory(remote.directory);
  const { target, credentials, ca } = remote;
  const tier = openS3Tier({ target, credentials, ca, names: 'bucket/key', settings: PATIENCE });
  try {
    const observations = await tier.examine(signal);
    return observations.map((observation) => ({ subject, ...observation }));
  } finally {
    await tier.close();
  }
}
