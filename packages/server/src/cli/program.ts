/**
 * Parses the command line and runs one command. Exit codes: exit-codes.ts.
 *
 * Commands other than the one that is called are only names with a summary, so that `ebb --help` loads none of them.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from '@commander-js/extra-typings';
import type { AnyCommand } from './command.ts';
import { COMMANDS } from './commands.ts';
import { tlsOptions } from './options.ts';

export async function runCli(args: readonly string[]): Promise<number> {
  process.stdout.on('error', endQuietly);
  try {
    const program = await createProgram(calledName(args));
    await program.parseAsync([...args], { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    const { reportError } = await import('./report-error.ts');
    return reportError(error, { json: args.includes('--json') });
  }
}

/** `called`: the command to load; `'*'`: all of them. */
export async function createProgram(called: string | undefined): Promise<AnyCommand> {
  const program = new Command('ebb')
    .description('A per-node store for the data between the steps of a job.')
    .version(packageVersion(), '-V, --version')
    .addHelpText(
      'after',
      `
Objects are named ebb://bucket/key, or bucket/key. The node is found by --node, else EBB_NODE, else http://127.0.0.1:9700.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not found, 4 a condition did not hold,
  5 no room, 6 no node answers, 7 bytes lost or damaged, 130 interrupted.

Examples:
  $ ebb node --data /var/lib/ebb --memory-limit 4GiB
  $ ebb buckets create results && ebb put report.csv results/2026/
  $ ebb ls results/2026/ && ebb cat results/2026/report.csv | head`,
    );
  const wholeProgram = (): Promise<AnyCommand> => createProgram('*');
  for (const entry of COMMANDS) {
    const wanted = called === '*' || called === entry.name;
    program.addCommand(
      wanted ? await entry.load(wholeProgram) : new Command(entry.name).description(entry.summary),
    );
  }
  settle(program);
  return program;
}

function settle(command: AnyCommand): void {
  if (command.options.some(({ long }) => long === '--node'))
    for (const option of tlsOptions) command.addOption(option);
  command
    .exitOverride()
    .showSuggestionAfterError()
    .helpCommand(command.commands.length > 0);
  command.configureHelp({ showGlobalOptions: false });
  for (const child of command.commands) settle(child as AnyCommand);
}

function calledName(args: readonly string[]): string | undefined {
  const words = args.filter((word) => !word.startsWith('-'));
  return words[0] === 'help' ? words[1] : words[0];
}

/** `ebb cat … | head`: the reader has what it wants. */
function endQuietly(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
}

function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
