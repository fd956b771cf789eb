/** The command line of the bench: every option with its check, so that a wrong one is refused before anything starts. */
import { Command, InvalidArgumentError, Option } from '@commander-js/extra-typings';
import { parseBytes } from '@ebb/protocol';
import { BACK_ENDS, type BackEnd } from './back-ends.ts';
import { MODES, type Mode } from './modes.ts';
import { PLACES, shown } from './places.ts';

/** Small on purpose: at this size the queries cost nearly what they cost at scale 1, and the data is there in two seconds. */
const DEFAULT_SCALE = 0.2;
const DEFAULT_MODES: Mode[] = [...MODES];
const DEFAULT_BACK_ENDS: BackEnd[] = ['vanilla', 'ebb'];
const GRID_BACK_ENDS: BackEnd[] = ['vanilla', 'vanilla-tuned', 'ebb'];
const DEFAULT_QUERIES = ['5', '49', '67', '75'];
const FAULTS = ['executor-kill'] as const;
type Fault = (typeof FAULTS)[number];

export interface BenchOptions {
  scale: number;
  queries: string[];
  runs?: number | undefined;
  timeLimit: number;
  warmups?: number | undefined;
  modes: Mode[];
  partitions: number;
  backends: BackEnd[];
  memoryLimit: string;
  limitedMemory?: string | undefined;
  executorMemory: number;
  report: string;
  fault?: Fault | undefined;
}

export interface GridOptions {
  cells: { maps: number; partitions: number }[];
  rows: number;
  runs: number;
  warmups: number;
  backends: BackEnd[];
  memoryLimit: string;
  executorMemory: number;
  report: string;
}

const EXAMPLES = `
Examples:
  $ npm start                                      vanilla against Ebb, four queries, a few minutes
  $ npm start -- --scale 1 --queries 67 --runs 3   one query, larger, three rounds
  $ npm start -- --modes forced --partitions 200 --backends vanilla,vanilla-tuned,ebb
  $ npm start -- --backends vanilla,ebb,ebb-limited --scale 1 --modes forced
  $ npm start -- --fault executor-kill --scale 1   kill an executor in the middle of a stage
  $ npm start -- grid --cells 200x200,1000x200     a synthetic shuffle, maps x partitions

Back ends:
  vanilla         Spark's own shuffle, as it comes
  vanilla-tuned   the same with spark.shuffle.sort.bypassMergeThreshold=1
  ebb             Spark shuffles through an Ebb node
  ebb-limited     the same, with room in memory for 3 % of the shuffle bytes

Modes:
  stock           Spark's settings as they come: nearly every join is a broadcast
  forced          no adaptive execution, no broadcast: every join and aggregation shuffles
`;

const DEFAULT_CELLS = '50x50,200x200,1000x200,500x500,1000x1000';

export function createProgram(actions: {
  bench(options: BenchOptions): Promise<void>;
  grid(options: GridOptions): Promise<void>;
}): Command {
  const program = new Command('npm start --')
    .description(
      'TPC-DS on real Spark executors: vanilla shuffle against Ebb, with equal results demanded.',
    )
    .enablePositionalOptions()
    .showHelpAfterError('(--help tells what there is)')
    .addHelpText('after', EXAMPLES)
    .option(
      '--scale <factor>',
      'size of the data, in TPC-DS gigabytes; fractions will do',
      parsePositive,
      DEFAULT_SCALE,
    )

    .addOption(
      new Option('--queries <list>', 'TPC-DS queries by number')
        .argParser(parseQueries)
        .default(DEFAULT_QUERIES, DEFAULT_QUERIES.join()),
    )
    .option(
      '--runs <n>',
      'measured rounds (default: what fits into --time-limit, 1 to 3)',
      parseCount,
    )
    .option(
      '--time-limit <seconds>',
      'without --runs: start no further round that would end later',
      parsePositive,
      240,
    )
    .option(
      '--warmups <n>',
      'rounds before that, not measured (default: one, of the first mode)',
      parseCountOrNone,
    )

    .addOption(
      new Option('--modes <list>', 'how queries are planned')
        .argParser(parseListOf(MODES))
        .default(DEFAULT_MODES, DEFAULT_MODES.join()),
    )
    .option('--partitions <n>', 'shuffle partitions in forced mode', parseCount, 32)

    .addOption(
      new Option('--backends <list>', 'arms to compare')
        .argParser(parseListOf(BACK_ENDS))
        .default(DEFAULT_BACK_ENDS, DEFAULT_BACK_ENDS.join()),
    )
    .option('--memory-limit <size>', 'tier 0 of the ebb arm', parseSize, '2GiB')
    .option(
      '--limited-memory <size>',
      'tier 0 of the ebb-limited arm (default: 3 % of the mean shuffle)',
      parseSize,
    )
    .option('--executor-memory <MiB>', 'heap of each of the two executors', parseCount, 1024)
    .option('--report <dir>', 'where report.json and report.html go', shown(PLACES.report))
    .option(
      '--fault <kind>',
      `what goes wrong, instead of plain rounds: ${FAULTS.join()}`,
      parseOneOf(FAULTS),
    )
    .action((options) => actions.bench(options));
  program
    .command('grid')
    .description('A synthetic shuffle, maps x partitions, against vanilla as it comes and tuned.')

    .addOption(
      new Option('--cells <list>', 'maps x partitions')
        .argParser(parseCells)
        .default(parseCells(DEFAULT_CELLS), DEFAULT_CELLS),
    )
    .option('--rows <n>', 'rows of 128 bytes in each shuffle', parseCount, 2_000_000)
    .option('--runs <n>', 'measured rounds', parseCount, 2)
    .option(
      '--warmups <n>',
      'rounds before that; the first one also compares results',
      parseCount,
      1,
    )

    .addOption(
      new Option('--backends <list>', 'arms to compare')
        .argParser(parseListOf(BACK_ENDS))
        .default(GRID_BACK_ENDS, GRID_BACK_ENDS.join()),
    )
    .option('--memory-limit <size>', 'tier 0 of the ebb arm', parseSize, '2GiB')
    .option('--executor-memory <MiB>', 'heap of each of the two executors', parseCount, 2048)
    .option('--report <dir>', 'where grid.json goes', shown(PLACES.report))
    .action((options) => actions.grid(options));
  return program as unknown as Command;
}

function parsePositive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && Number.isFinite(value)))
    throw new InvalidArgumentError('A number above 0 is needed.');
  return value;
}

function parseCount(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError('A whole number above 0 is needed.');
  return value;
}

function parseCountOrNone(text: string): number {
  return text === '0' ? 0 : parseCount(text);
}

function parseSize(text: string): string {
  try {
    parseBytes(text);
    return text;
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

function parseQueries(text: string): string[] {
  const queries = [...new Set(splitList(text).map((name) => name.replace(/^q/i, '')))];
  const wrong = queries.filter((name) => !/^\d{1,2}[ab]?$/.test(name));
  if (wrong.length > 0)
    throw new InvalidArgumentError(`Not numbers of TPC-DS queries: ${wrong.join()}.`);
  return queries;
}

function parseCells(text: string): { maps: number; partitions: number }[] {
  return splitList(text).map((cell) => {
    const match = /^(\d+)x(\d+)$/i.exec(cell);
    if (match === null) throw new InvalidArgumentError(`"${cell}" is not like 200x200.`);
    return { maps: parseCount(match[1] ?? ''), partitions: parseCount(match[2] ?? '') };
  });
}

function parseOneOf<T extends string>(allowed: readonly T[]): (text: string) => T {
  return (text) => {
    const found = allowed.find((value) => value === text);
    if (found === undefined)
      throw new InvalidArgumentError(`"${text}" is not one of: ${allowed.join(', ')}.`);
    return found;
  };
}

function parseListOf<T extends string>(allowed: readonly T[]): (text: string) => T[] {
  const parse = parseOneOf(allowed);
  return (text) => splitList(text).map(parse);
}

/** Comma-separated, blanks around the parts allowed, each part once. */
function splitList(text: string): string[] {
  const parts = new Set(text.split(',').map((part) => part.trim()));
  parts.delete('');
  if (parts.size === 0) throw new InvalidArgumentError('The list is empty.');
  return [...parts];
}
