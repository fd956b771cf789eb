/**
 * The pages under docs/reference, made from the tables that the code itself goes by. The same checkout gives the same bytes
 * on every machine: no dates, no paths, and defaults as the schema tells them. reference.test.ts fails when a page is stale.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CONDITION_EFFECTS,
  CONDITIONS,
  ERRORS,
  FRAMES_UPGRADE,
  HEADERS,
  PATHS,
  type StoreErrorCode,
} from '@ebb/protocol';
import type { AnyCommand } from '../cli/command.ts';
import { EXIT_OF_CODE } from '../cli/exit-codes.ts';
import { createProgram } from '../cli/program.ts';
import { SETTINGS } from '../config-schema.ts';
import { createControlApp } from '../http/control.ts';
import { HTTP_ERRORS } from '../http/error-response.ts';
import type { Services } from '../services.ts';
import { code, page, plain, table } from './markdown.ts';
import { listMetrics, type MetricDescription } from './metric-list.ts';
import { parseSparkSettings } from './spark-settings.ts';

export const ROOT = join(import.meta.dirname, '..', '..', '..', '..');
export const REFERENCE_DIR = join(ROOT, 'docs', 'reference');

const JVM = 'clients/jvm';
const SPARK_SETTINGS = `${JVM}/spark/src/main/java/org/apache/spark/shuffle/ebb/EbbSettings.java`;

/** By file name. */
export async function makePages(): Promise<ReadonlyMap<string, string>> {
  return new Map([
    ['README.md', contentsPage()],
    ['cli.md', await cliPage()],
    ['conditions.md', conditionsPage()],
    ['configuration.md', configurationPage()],
    ['errors.md', errorsPage()],
    ['http-api.md', await httpPage()],
    ['metrics.md', metricsPage()],
    ['spark-settings.md', sparkPage()],
  ]);
}

function contentsPage(): string {
  return page(
    'Reference',
    'packages/server/src/reference',
    `- [cli.md](cli.md): the commands of \`ebb\` and their options
- [conditions.md](conditions.md): what a node may lack while it goes on, and what to do about each
- [configuration.md](configuration.md): the settings of a node
- [errors.md](errors.md): error codes, and what to do about each
- [http-api.md](http-api.md): the routes of the HTTP surface
- [metrics.md](metrics.md): what a node measures
- [spark-settings.md](spark-settings.md): the settings of the Spark plugin`,
  );
}

function errorsPage(): string {
  return page(
    'Errors',
    'packages/protocol/src/errors.ts, packages/server/src/http/error-response.ts and cli/exit-codes.ts',
    `The same codes come over HTTP, in frames and from the clients. Branch on the code or on the retry class, never on the message.
Over HTTP the body is \`{"error": {"code", "message", "retry", "details"}}\`, and the header \`${HEADERS.errorCode}\` repeats the code, so that answers to HEAD
have it too. \`exit\` is the exit code of \`ebb\`.`,
    `- \`never\`: the same request fails again.
- \`safe\`: certainly not applied. Try again later; \`Retry-After\` or \`details.retryAfterMs\` says when, where it is known.
- \`ambiguous\`: may have been applied. Look first, or retry under a condition.`,
    table(
      ['code', 'HTTP', 'retry', 'exit', 'meaning', 'what to do'],
      Object.entries(ERRORS).map(([name, { retry, means, remedy }]) => [
        code(name),
        String(HTTP_ERRORS[name as StoreErrorCode].status),
        retry,
        String(EXIT_OF_CODE[name as StoreErrorCode]),
        plain(means),
        plain(remedy),
      ]),
    ),
  );
}

function conditionsPage(): string {
  return page(
    'Conditions',
    'packages/protocol/src/conditions.ts',
    `A node that lacks something goes on with what it can do, and says so: in \`ebb status\` and \`GET ${PATHS.status}\`, in \`ebb why\` for the objects that it touches,
in the body of \`GET ${PATHS.readyz}\`, in the metric \`ebb_condition\`, and with one line in the log when it begins and one when it ends. Each names its subject,
since when it holds, the reason with the numbers of the case, and what to do. Why a node answers as it does: [ADR 7](../adr/0007-degraded-is-a-state.md).`,
    table(
      ['effect', 'ready', 'meaning'],
      Object.entries(CONDITION_EFFECTS).map(([name, { ready, means }]) => [
        code(name),
        ready ? 'yes' : 'no',
        plain(means),
      ]),
    ),
    table(
      ['condition', 'about', 'effect', 'meaning', 'what to do'],
      Object.entries(CONDITIONS).map(([name, { subject, effect, means, whatToDo }]) => [
        code(name),
        subject,
        code(effect),
        plain(means),
        plain(whatToDo),
      ]),
    ),
  );
}

/** By the placeholder of the flag. */
const UNITS: Readonly<Record<string, string>> = {
  DIR: 'path',
  PATH: 'path',
  FILE: 'path',
  HOST: 'host name',
  URL: 'URL',
  'HOST:PORT': 'address',
  SIZE: 'bytes',
  TIME: 'time',
  FRACTION: 'fraction',
  LEVEL: 'word',
};

function configurationPage(): string {
  return page(
    'Configuration',
    'packages/server/src/config-schema.ts',
    `A setting comes from four places, each stronger than the one before: the default, the JSON file of \`--config FILE\` (or \`EBB_CONFIG\`), the environment,
the flags of \`ebb node\`. A file with a name that is no setting is refused; an unknown \`EBB_*\` variable is ignored with a warning. All complaints are told at once.`,
    `- bytes: a number with or without a unit. \`KiB\`, \`MiB\`, \`GiB\`, \`TiB\` and the letters alone are powers of 1024, \`KB\`, \`MB\`, \`GB\`, \`TB\` powers of 1000.
- time: a number with \`ms\`, \`s\`, \`m\`, \`h\` or \`d\`; without a unit, milliseconds.
- fraction: \`0.9\` or \`90%\`.
- true or false: also \`yes\`, \`no\`, \`on\`, \`off\`, \`1\`, \`0\`; the flag alone means true.`,
    table(
      ['in the file', 'flag', 'environment', 'unit', 'default', 'meaning'],
      SETTINGS.map(({ name, flag, env, means, default: otherwise }) => [
        code(name),
        code(flag.split(' ')[0] as string),
        code(env),
        unitOf(flag),
        plain(otherwise),
        plain(means),
      ]),
    ),
    `\`EBB_ACCESS_KEY_ID\` and \`EBB_SECRET_ACCESS_KEY\` together are one access key of the S3 surface ([docs/s3.md](../s3.md)); they are read from the environment alone.

\`EBB_NODE\` is no setting of the node: the commands of \`ebb\` that call a node take its address from it.`,
  );
}

function unitOf(flag: string): string {
  const placeholder = /<(.*)>/.exec(flag)?.[1];
  if (placeholder === undefined) return 'true or false';
  const unit = UNITS[placeholder];
  if (unit === undefined) throw new Error(`no unit is known for <${placeholder}>: add it to UNITS`);
  return unit;
}

function metricsPage(): string {
  const metrics = listMetrics();
  const rows = (list: readonly MetricDescription[]): string =>
    table(
      ['name', 'type', 'labels', 'what'],
      list.map(({ name, type, labels, help }) => [
        code(name),
        type,
        labels.map(code).join(', '),
        plain(help),
      ]),
    );
  return page(
    'Metrics',
    'packages/server/src/metrics.ts',
    `\`GET ${PATHS.metrics}\` answers in the text format of Prometheus. Counters begin at zero when the node starts. A board and alerts for them are in
[infra](../../infra/README.md).`,
    '## Of Ebb',
    rows(metrics.filter(({ name }) => name.startsWith('ebb_'))),
    '## Of the process',
    'These come from prom-client and are the same for every Node program.',
    rows(metrics.filter(({ name }) => !name.startsWith('ebb_'))),
  );
}

async function httpPage(): Promise<string> {
  const document = await openApiDocument();
  const rows = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { summary = '' }]) => [
      code(method.toUpperCase()),
      code(path),
      plain(summary),
    ]),
  );
  return page(
    'HTTP API',
    'the OpenAPI document of packages/server/src/http',
    `The whole description, with bodies and headers, is at \`GET ${PATHS.openapi}\` of a node. Errors: [errors.md](errors.md).`,
    table(['method', 'path', 'what'], rows),
    'Outside that document:',
    table(
      ['method', 'path', 'what'],
      [
        [
          code('GET'),
          code(PATHS.healthz),
          'The process answers: 200, also while it starts or drains',
        ],
        [
          code('GET'),
          code(PATHS.readyz),
          '200 when the node takes work, else 503; the body has its [conditions](conditions.md)',
        ],
        [code('GET'), code(PATHS.metrics), '[Metrics](metrics.md)'],
        [code('GET'), code(PATHS.openapi), 'The OpenAPI document'],
        [
          code('GET'),
          code(PATHS.frames),
          `Upgrade to ${code(FRAMES_UPGRADE)}, the protocol of the clients`,
        ],
      ],
    ),
  );
}

interface OpenApiDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, { summary?: string }>>>>;
}

/** The description needs no running node: no handler but that of the document is called. */
async function openApiDocument(): Promise<OpenApiDocument> {
  const services = { node: { version: '' } } as unknown as Services;
  const answer = await createControlApp(services, { ownerId: 0, name: 'reference' }).request(
    PATHS.openapi,
  );
  return (await answer.json()) as OpenApiDocument;
}

/** Columns of the help texts, where a terminal would say how wide it is. */
const HELP_WIDTH = 120;

async function cliPage(): Promise<string> {
  const program = await createProgram('*');
  return page(
    'The command',
    'the help texts in packages/server/src/cli',
    'What `ebb --help` and `ebb COMMAND --help` print.',
    ...helpSections(program, []),
  );
}

function helpSections(command: AnyCommand, parents: readonly string[]): string[] {
  const words = [...parents, command.name()];
  let text = '';
  command.configureOutput({
    writeOut: (part) => {
      text += part;
    },
    getOutHelpWidth: () => HELP_WIDTH,
    getOutHasColors: () => false,
  });
  command.outputHelp();
  const tidy = text.trim().replaceAll(/[ \t]+$/gm, '');
  return [
    `## ${words.join(' ')}`,
    `\`\`\`text\n${tidy}\n\`\`\``,
    ...command.commands
      .filter((child) => child.name() !== 'help')
      .flatMap((child) => helpSections(child as AnyCommand, words)),
  ];
}

function sparkPage(): string {
  const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
  const settings = parseSparkSettings(read(SPARK_SETTINGS), read(`${JVM}/README.md`));
  return page(
    'Settings of the Spark plugin',
    'EbbSettings.java and the table in clients/jvm/README.md',
    `Sizes and times are written as in Spark: \`64k\`, \`4m\`, \`10s\`. How to use the plugin: [clients/jvm](../../${JVM}/README.md).`,
    table(
      ['setting', 'kind', 'default', 'from, to', 'meaning'],
      settings.map(({ name, kind, default: otherwise, bounds, means }) => [
        code(name),
        kind,
        otherwise === '' ? 'none' : code(otherwise),
        bounds,
        means,
      ]),
    ),
  );
}
