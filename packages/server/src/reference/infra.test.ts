/**
 * The files under infra/ against the code: metrics, settings, flags, ports, limits. Docker and Helm are not run here; what only they
 * could find is listed in infra/README.md.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CONDITION_EFFECTS, ERRORS, MiB, OPS, parseBytes, parseDuration, TiB } from '@ebb/protocol';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { createProgram } from '../cli/program.ts';
import { type ConfigHost, loadConfig, type NodeConfig } from '../config.ts';
import { type RawConfig, SETTINGS } from '../config-schema.ts';
import { TIER_NAMES } from '../http/data/object-headers.ts';
import { CONNECTIONS_MAX } from '../limits.ts';
import { listMetrics } from './metric-list.ts';
import { ROOT } from './pages.ts';

const INFRA = join(ROOT, 'infra');
const files = readdirSync(INFRA, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name).slice(INFRA.length + 1));
const read = (file: string): string => readFileSync(join(INFRA, file), 'utf8');
const readYaml = <T>(file: string): T => parse(read(file)) as T;

interface Compose {
  services: {
    ebb: {
      environment: Record<string, string>;
      user: string;
      mem_limit: string;
      stop_grace_period: string;
      volumes: { source: string; target: string }[];
    };
    prometheus: { command: string[] };
  };
}
interface ChartValues {
  image: object;
  group: number;
  paths: Record<'socket' | 'memory' | 'data', string>;
  host: string;
  port: number;
  settings: RawConfig;
  resources: { limits: { memory: string } };
  terminationGracePeriodSeconds: number;
}
const compose = readYaml<Compose>('compose/compose.yaml');
const values = readYaml<ChartValues>('helm/ebb/values.yaml');
const unit = read('systemd/ebb.service');
const dockerfile = read('docker/Dockerfile');

describe('board and alerts', () => {
  const series = seriesByName();
  const board = JSON.parse(read('grafana/ebb.json')) as {
    panels: { title: string; targets?: { expr: string; legendFormat: string }[] }[];
    templating: { list: { query: string | { query: string } }[] };
  };
  const alerts = readYaml<{
    groups: { rules: { alert: string; expr: string; annotations: Record<string, string> }[] }[];
  }>('prometheus/alerts.yml').groups.flatMap(({ rules }) => rules);

  test.each(
    board.panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr, legendFormat }) => [title, expr, legendFormat] as const),
    ),
  )('panel "%s": %s', (_, expr, legend) => {
    const { complaints, labels } = checkExpression(expr, series);
    expect(complaints).toEqual([]);
    expect(labels).toEqual(expect.arrayContaining(namesIn(legend, /\{\{(\w+)\}\}/g)));
  });

  test.each(alerts.map(({ alert, expr, annotations }) => [alert, expr, annotations] as const))(
    'alert %s',
    (_, expr, annotations) => {
      const { complaints, labels } = checkExpression(expr, series);
      expect(complaints).toEqual([]);
      const used = namesIn(Object.values(annotations).join(' '), /\$labels\.(\w+)/g);
      expect(labels).toEqual(expect.arrayContaining(used));
    },
  );

  test('the choice of nodes goes by a series and a label that exist', () => {
    const queries = board.templating.list.map(({ query }) =>
      typeof query === 'string' ? query : query.query,
    );
    const [, name] = /^label_values\((\w+), instance\)$/.exec(queries[1] ?? '') ?? [];
    expect([...series.keys()]).toContain(name);
  });

  test.each([
    ['rate(ebb_commit_total[5m])', 'no series ebb_commit_total'],
    ['sum by (kind) (ebb_tier_used_bytes)', 'no label kind'],
    ['ebb_objects{tier="memory"}', 'no label tier'],
    ['ebb_tier_used_bytes{tier=~"memory|ssd"}', 'tier is never "ssd"'],
    ['rate(ebb_frame_duration_seconds[5m])', 'no series ebb_frame_duration_seconds'],
  ])('the check sees what is wrong in %s', (expr, complaint) => {
    expect(checkExpression(expr, series).complaints).toEqual([complaint]);
  });
});

describe('settings', () => {
  const known = new Set([...SETTINGS.map(({ env }) => env), 'EBB_CONFIG', 'EBB_NODE']);

  test('every EBB_ variable is one', () => {
    for (const file of files) {
      const used = namesIn(read(file), /\b(EBB_[A-Z_]+)\b/g);
      expect(
        used.filter((name) => !known.has(name)),
        file,
      ).toEqual([]);
    }
  });

  test('every setting that the chart writes is one, and its files are where it mounts them', () => {
    const helpers = read('helm/ebb/templates/_helpers.tpl');
    const written = namesIn(helpers, /set \$fixed "(\w+)"|dict "(\w+)"/g);
    expect(written).toEqual(expect.arrayContaining(['listen', 'tlsCert', 'tlsKey']));
    const names = SETTINGS.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(written));
    const template = read('helm/ebb/templates/daemonset.yaml');
    for (const path of namesIn(helpers, /"(\/etc\/[^"]+)\/tls\.\w+"/g))
      expect(template).toContain(`mountPath: ${path}\n`);
  });

  test('every command and flag of ebb is one', async () => {
    const program = await createProgram('*');
    for (const file of files) {
      const args = read(file).matchAll(/\bargs: \["(node)", (.*)\]/g);
      const shell = read(file).matchAll(/(?:^|[\s/`"])ebb ([a-z][a-z-]*)( --[^\n`]*)?/gm);
      for (const [, name, rest = ''] of [...args, ...shell]) {
        const flags = namesIn(rest, /(--[a-z-]+)/g);
        const command = program.commands.find((candidate) => candidate.name() === name);
        // Prose says "ebb and".
        if (command === undefined && flags.length === 0) continue;
        const options = (command?.options ?? []).map(({ long }) => long);
        expect(options, `ebb ${name} in ${file}`).toEqual(expect.arrayContaining(flags));
      }
    }
  });

  test.each(Object.entries(nodes()))('the node of %s starts with what it is given', (_, start) => {
    const { config } = start();
    expect(config.warnings).toEqual([]);
  });

  test.each(Object.entries(nodes()))('the node of %s has time to drain', (_, start) => {
    const { config, stopMs } = start();
    expect(stopMs).toBeGreaterThanOrEqual(config.drainDeadlineMs + 10_000);
  });

  test.each(Object.entries(nodes()))(
    'the memory limit of %s covers tier and daemon',
    (_, start) => {
      const { config, memoryMaxBytes } = start();
      expect(memoryMaxBytes).toBeGreaterThanOrEqual(config.memoryLimitBytes + 512 * MiB);
    },
  );
});

describe('what must be equal in several files', () => {
  const listen = SETTINGS.find(({ name }) => name === 'listen')?.default ?? '';
  const port = listen.split(':')[1];

  /** Of the S3 surface, and of the proxy in front of it. */
  const PROXY_PORTS = ['9701', '9801'];

  test('the port is the default one everywhere', () => {
    for (const start of Object.values(nodes()))
      expect(String(start().config.listen?.port)).toBe(port);
    const { scrape_configs: jobs } = readYaml<{
      scrape_configs: { job_name: string; static_configs: { targets: string[] }[] }[];
    }>('prometheus/prometheus.yml');
    expect(jobs).toEqual([{ job_name: 'ebb', static_configs: [{ targets: [listen] }] }]);
    expect(namesIn(dockerfile, /EXPOSE (\d+)|127\.0\.0\.1:(\d+)/g)).toEqual([port, port]);
    for (const file of files)
      for (const found of namesIn(read(file), /\b127\.0\.0\.1:(\d+)/g))
        expect([port, '9090', '3000', ...PROXY_PORTS], file).toContain(found);
  });

  test('Grafana asks the Prometheus that runs beside it, at the pace it scrapes', () => {
    const { datasources } = readYaml<{
      datasources: { url: string; jsonData: { timeInterval: string } }[];
    }>('grafana/provisioning/datasources/prometheus.yml');
    const address = datasources[0]?.url.replace('http://', '');
    expect(compose.services.prometheus.command).toContain(`--web.listen-address=${address}`);
    const { global } = readYaml<{ global: { scrape_interval: string } }>(
      'prometheus/prometheus.yml',
    );
    expect(datasources[0]?.jsonData.timeInterval).toBe(global.scrape_interval);
  });

  test('user and group', () => {
    const id = /^USER (\d+):\1$/m.exec(dockerfile)?.[1];
    expect(namesIn(dockerfile, /--[ug]id (\d+)/g)).toEqual([id, id, id]);
    expect(compose.services.ebb.user).toBe(`${id}:${id}`);
    expect(String(values.group)).toBe(id);
    const lines = read('compose/tmpfiles.conf').matchAll(/^d (\S+)\s+\S+ (\d+) (\d+) -$/gm);
    const directories = [...lines].map(([, path, user, group]) => [path, user, group]);
    const mounted = compose.services.ebb.volumes.map(({ source }) => [source, id, id]);
    expect(new Set(directories)).toEqual(new Set(mounted));
  });

  test('clients see the same paths inside and outside', () => {
    for (const { source, target } of compose.services.ebb.volumes) expect(target).toBe(source);
    const { paths } = values;
    const template = read('helm/ebb/templates/daemonset.yaml');
    for (const name of Object.keys(paths)) {
      expect(template).toContain(`mountPath: {{ .Values.paths.${name} }}`);
      expect(template).toContain(`hostPath: { path: {{ .Values.paths.${name} | quote }}`);
    }
  });

  test('versions', () => {
    const versionOf = (file: string): { version: string; dependencies: Record<string, string> } =>
      JSON.parse(readFileSync(join(ROOT, file), 'utf8'));
    const chart = readYaml<{ appVersion: string }>('helm/ebb/Chart.yaml');
    expect(chart.appVersion).toBe(versionOf('packages/server/package.json').version);
    const node = /^ARG NODE_VERSION=(\S+)$/m.exec(dockerfile)?.[1];
    expect(node).toBe(versionOf('package.json').dependencies['node']);
  });
});

describe('systemd', () => {
  test('nothing is set that breaks sharing files with clients, or the drain', () => {
    const set = (name: string): string | undefined => settingsOfUnit(unit).get(name)?.at(-1);
    const sharing = [
      'RestrictSUIDSGID',
      'DynamicUser',
      'RemoveIPC',
      'PrivateDevices',
      'PrivateIPC',
    ];
    const running = ['MemoryDenyWriteExecute', 'MemoryMax', 'PrivateNetwork', 'PrivateUsers'];
    for (const name of [...sharing, ...running]) expect(set(name), name).toBeUndefined();
    expect(set('KillMode')).toBe('mixed');
    expect(Number(set('LimitNOFILE'))).toBeGreaterThan(2 * CONNECTIONS_MAX);
  });

  test.skipIf(!existsSync('/usr/bin/systemd-analyze'))('systemd accepts the unit', () => {
    const directory = mkdtempSync(join(tmpdir(), 'ebb-unit-'));
    try {
      // What it starts is not installed here.
      const text = unit.replace(/^ExecStart=.*$/m, 'ExecStart=/bin/true');
      writeFileSync(join(directory, 'ebb.service'), text);
      const said = execFileSync(
        'sh',
        [
          '-c',
          '/usr/bin/systemd-analyze verify --man=no --recursive-errors=no "$0" 2>&1',
          join(directory, 'ebb.service'),
        ],
        { encoding: 'utf8', timeout: 30_000 },
      );
      expect(said.split('\n').filter((line) => line.includes('ebb.service'))).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test('files are of the names that the guide installs', () => {
    const guide = read('README.md');
    for (const file of files.filter((name) => name.startsWith('systemd/')))
      expect(guide).toContain(`infra/${file}`);
  });
});

describe('YAML and templates', () => {
  const yaml = files.filter((file) => /\.ya?ml$/.test(file) && !file.includes('/templates/'));
  const templates = files.filter((file) => file.includes('/templates/'));

  test.each(yaml)('%s parses', (file) => {
    expect(readYaml(file)).toBeTypeOf('object');
  });

  test.each(templates)('%s uses values that exist, and its blocks end', (file) => {
    const text = read(file);
    for (const path of namesIn(text, /\.Values\.([\w.]+)/g)) expect(values).toHaveProperty(path);
    const actions = [...text.matchAll(/\{\{-?\s*(.*?)\s*-?\}\}/gs)].map(
      ([, action]) => action ?? '',
    );
    const opened = actions.filter((action) => /^(if|with|range|define|block)\b/.test(action));
    const ended = actions.filter((action) => action === 'end');
    expect(opened).toHaveLength(ended.length);
    expect(text.split('{{')).toHaveLength(actions.length + 1);
    const includes = namesIn(text, /include "([\w.]+)"/g);
    const defined = namesIn(read('helm/ebb/templates/_helpers.tpl'), /define "([\w.]+)"/g);
    expect(defined).toEqual(expect.arrayContaining(includes));
  });

  test('no value is without use', () => {
    const used = templates.flatMap((file) => namesIn(read(file), /\.Values\.([\w.]+)/g));
    const offered = Object.entries(values).flatMap(([name, value]) =>
      ['image', 'paths'].includes(name)
        ? Object.keys(value as object).map((key) => `${name}.${key}`)
        : [name],
    );
    expect(offered.filter((name) => !used.includes(name))).toEqual([]);
  });

  test('all that the compose file and the Dockerfile name is there', () => {
    const mounted = [...JSON.stringify(compose).matchAll(/"\.\.\/([\w./-]+):\//g)].map(
      ([, path]) => path,
    );
    expect(mounted.length).toBeGreaterThan(0);
    for (const path of mounted)
      expect(files.some((file) => `${file}/`.startsWith(`${path}/`))).toBe(true);
    const copied = namesIn(dockerfile, /^COPY ([\w. -]+) \S+$/gm).flatMap((names) =>
      names.split(' '),
    );
    expect(readdirSync(ROOT)).toEqual(expect.arrayContaining(copied));
    const allowed = namesIn(read('docker/Dockerfile.dockerignore'), /^!(\S+)$/gm);
    expect(allowed.sort()).toEqual(copied.sort());
  });
});

interface DeployedNode {
  readonly config: NodeConfig;
  /** From SIGTERM to SIGKILL. */
  readonly stopMs: number;
  readonly memoryMaxBytes: number;
}

/** The nodes as each way of running them configures them. */
function nodes(): Record<string, () => DeployedNode> {
  const imageEnv = /^ENV (.*)$/m.exec(dockerfile)?.[1] ?? '';
  return {
    systemd: () => {
      const settings = settingsOfUnit(unit);
      const env = parseEnv(
        [...(settings.get('Environment') ?? []), read('systemd/ebb.env')].join('\n'),
      );
      const stop = settings.get('TimeoutStopSec')?.at(-1) ?? '';
      return {
        config: load({ env }),
        stopMs: parseDuration(stop),
        memoryMaxBytes: Number.POSITIVE_INFINITY,
      };
    },
    'the compose file': () => {
      const { environment, mem_limit, stop_grace_period } = compose.services.ebb;
      return {
        config: load({ env: { ...parseEnv(imageEnv), ...environment } }),
        stopMs: parseDuration(stop_grace_period),
        memoryMaxBytes: parseBytes(mem_limit),
      };
    },
    'the chart': () => {
      const { paths, host, port, settings, resources, terminationGracePeriodSeconds } = values;
      const flags = {
        ...settings,
        data: paths.data,
        memoryDir: paths.memory,
        socket: `${paths.socket}/ebb.sock`,
        listen: `${host}:${port}`,
      };
      return {
        config: load({ env: parseEnv(imageEnv), file: JSON.stringify(flags) }),
        stopMs: terminationGracePeriodSeconds * 1000,
        memoryMaxBytes: parseBytes(`${resources.limits.memory}B`),
      };
    },
  };
}

/** On a host with room for everything. @throws {StoreError} `config_invalid` */
function load({ env, file }: { env: Record<string, string>; file?: string }): NodeConfig {
  const host: ConfigHost = {
    env,
    homeDir: '/nonexistent',
    workDir: '/',
    uid: 10_700,
    memoryBytes: TiB,
    readFile: () => file ?? '',
    space: (path) => ({
      totalBytes: TiB,
      freeBytes: TiB,
      tmpfs: path.startsWith('/dev/shm/'),
    }),
    usedBytes: () => 0,
  };
  return loadConfig(file === undefined ? {} : { file: '/config.json' }, host);
}

/** `NAME=value` in lines or side by side; comments are left out. */
function parseEnv(text: string): Record<string, string> {
  const lines = text.split('\n').filter((line) => !line.startsWith('#'));
  return Object.fromEntries(
    [...lines.join(' ').matchAll(/\b(EBB_[A-Z_]+)=(\S*)/g)].map(([, name, value]) => [name, value]),
  );
}

function settingsOfUnit(text: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const [, name, value] of text.matchAll(/^([A-Za-z]+)=(.*)$/gm))
    found.set(name as string, [...(found.get(name as string) ?? []), value as string]);
  return found;
}

function namesIn(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map(
    (match) => match.slice(1).find((group) => group !== undefined) ?? '',
  );
}

/** What Prometheus has of a node: every series with its labels, those that scraping adds included. */
function seriesByName(): Map<string, readonly string[]> {
  const found = new Map<string, readonly string[]>([['up', ['job', 'instance']]]);
  for (const { name, type, labels } of listMetrics()) {
    const all = [...labels, 'job', 'instance'];
    if (type === 'histogram') {
      found.set(`${name}_bucket`, [...all, 'le']);
      for (const end of ['sum', 'count']) found.set(`${name}_${end}`, all);
    } else found.set(name, all);
  }
  return found;
}

const LABEL_VALUES: Readonly<Record<string, readonly string[]>> = {
  tier: TIER_NAMES,
  from: TIER_NAMES,
  to: TIER_NAMES,
  code: Object.keys(ERRORS),
  op: Object.keys(OPS),
  effect: Object.keys(CONDITION_EFFECTS),
  job: ['ebb'],
  instance: ['$instance'],
};
const KEYWORDS = new Set(['and', 'or', 'unless', 'offset', 'bool']);

/**
 * Not a parser of PromQL: names that no parenthesis follows are series, unless they are keywords. Enough for the files here,
 * and wrong names do not pass.
 * @returns labels: those that the result has
 */
function checkExpression(
  expression: string,
  series: ReadonlyMap<string, readonly string[]>,
): { readonly complaints: string[]; readonly labels: string[] } {
  const grouped: string[] = [];
  const rest = expression
    .replaceAll(/\b(by|on)\s*\(([^)]*)\)/g, (_, word: string, list: string) => {
      const names = list.split(',').map((name) => name.trim());
      if (word === 'by') grouped.push(...names);
      return ' ';
    })
    .replaceAll(/\[[^\]]*\]/g, ' ');
  const complaints: string[] = [];
  const own = new Set<string>();
  for (const [, name = '', matchers = ''] of rest.matchAll(
    /\b([a-zA-Z_]\w*)\b(?!\s*\()(?:\s*\{([^}]*)\})?/g,
  )) {
    if (KEYWORDS.has(name)) continue;
    const labels = series.get(name);
    if (labels === undefined) complaints.push(`no series ${name}`);
    for (const label of labels ?? []) own.add(label);
    for (const [, label = '', operator = '', value = ''] of matchers.matchAll(
      /(\w+)\s*(=~?|!=|!~)\s*"([^"]*)"/g,
    )) {
      if (labels?.includes(label) === false) complaints.push(`no label ${label}`);
      else
        for (const one of operator.endsWith('~') ? value.split('|') : [value])
          if (LABEL_VALUES[label]?.includes(one) === false)
            complaints.push(`${label} is never "${one}"`);
    }
  }
  for (const label of grouped)
    if (own.size > 0 && !own.has(label)) complaints.push(`no label ${label}`);
  return { complaints, labels: grouped.length > 0 ? grouped : [...own] };
}
