import { Command } from '@commander-js/extra-typings';
import { isStoreError, StoreError } from '@ebb/protocol';
import type { NodeConfig } from '../config.ts';
import { type Finding, LEVELS, worstOf } from '../doctor/finding.ts';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption } from './options.ts';
import { printJson, printLine, printTable } from './output.ts';
import { addSettings, loadSettings } from './settings-options.ts';

export function create(): AnyCommand {
  const command = new Command('doctor').addOption(jsonOption).addHelpText(
    'after',
    `
Takes the settings of \`ebb node\`, and looks at what a node with them depends on: directories, limits, clock, addresses, certificate,
a node that runs already, and what each remote can do. A few small objects are put below PREFIX/.ebb/ or .ebb-doctor-… of object stores, and removed.
Nothing is changed or left behind. Exit codes: 0 all is well, 1 there are warnings, 2 something will not work.
${examples(
  'ebb doctor --data /var/lib/ebb --memory-limit 4GiB',
  'ebb doctor --config /etc/ebb/config.json --json | jq \'.findings[] | select(.level != "ok")\'',
  'ebb doctor --remote "s3://bucket/ebb?endpoint=https://store.example:9000"',
)}`,
  ) as AnyCommand;
  addSettings(command);
  return command.action(async () => {
    const findings = await interruptible(async (signal) => await examine(command, signal));
    const worst = worstOf(findings);
    if (command.opts().json === true) await printJson({ worst, findings });
    else await print(findings);
    process.exitCode = LEVELS.indexOf(worst);
  });
}

async function examine(command: AnyCommand, signal: AbortSignal): Promise<readonly Finding[]> {
  const { examineNode, findingsOfComplaints } = await import('../doctor/doctor.ts');
  let config: NodeConfig;
  try {
    config = loadSettings(command);
  } catch (error) {
    if (!isStoreError(error, 'config_invalid')) throw error;
    return findingsOfComplaints(error.details['complaints'] as readonly string[]);
  }
  return await examineNode(config, { signal, secretFiles: config.secretFiles });
}

/** @throws {StoreError} `aborted` when a signal came, after everything was put back */
async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interrupt = new AbortController();
  const onSignal = (name: NodeJS.Signals): void =>
    interrupt.abort(new StoreError('aborted', `interrupted (${name})`));
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of names) process.on(name, onSignal);
  try {
    return await work(interrupt.signal);
  } catch (error) {
    interrupt.signal.throwIfAborted();
    throw error;
  } finally {
    for (const name of names) process.removeListener(name, onSignal);
  }
}

async function print(findings: readonly Finding[]): Promise<void> {
  await printTable(findings, [
    { title: '', cell: ({ level }) => level },
    { title: 'about', cell: ({ subject }) => subject },
    { title: 'what', cell: ({ check }) => check },
    { title: 'found', cell: ({ says }) => says },
  ]);
  const count = (level: string): number => findings.filter((one) => one.level === level).length;
  const counted = (level: string, word: string): string =>
    `${count(level)} ${word}${count(level) === 1 ? '' : 's'}`;
  await printLine(
    `\n${count('ok')} ok, ${counted('warn', 'warning')}, ${counted('fail', 'failure')}`,
  );
}
