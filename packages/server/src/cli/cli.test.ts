import { execFileSync } from 'node:child_process';
import { ERRORS } from '@ebb/protocol';
import { describe, expect, test } from 'vitest';
import { completionScript } from './completion-script.ts';
import { parsePlace } from './cp.ts';
import { EXIT_OF_CODE } from './exit-codes.ts';
import { pairArgument } from './options.ts';
import { formatAge } from './output.ts';
import { createProgram } from './program.ts';
import { createProgress, formatProgress } from './progress.ts';
import { pluginLine, sparkSettings } from './spark-conf.ts';
import { placeFacts } from './stat.ts';
import { formatTable, printable } from './table.ts';
import { forEachParallel, localPath, targetKey } from './transfer.ts';
import { formatEvent, parseWatched } from './watch.ts';

describe('tables', () => {
  const columns = [
    { title: 'name', cell: (row: { name: string; size: string }) => row.name },
    { title: 'size', right: true, cell: (row: { name: string; size: string }) => row.size },
  ];

  test('columns are as wide as their widest cell, and numbers flush right', () => {
    const rows = [
      { name: 'a', size: '1 B' },
      { name: 'längste', size: '12.5 GiB' },
    ];
    expect(formatTable(rows, columns, { styled: false })).toEqual([
      'NAME         SIZE',
      'a             1 B',
      'längste  12.5 GiB',
    ]);
  });

  test('without rows there is the head alone', () => {
    expect(formatTable([], columns, { styled: false })).toEqual(['NAME  SIZE']);
  });

  test('a key cannot steer the terminal', () => {
    // oxlint-disable-next-line no-control-regex -- these are what is looked for
    expect(printable('a\x1b[2Jb\nc\x9b')).not.toMatch(/[\0-\x1f\x7f-\x9f]/);
    expect(printable('plain ü')).toBe('plain ü');
  });
});

describe('progress', () => {
  test('tells part, rate and rest', () => {
    const text = formatProgress({
      label: 'f',
      doneBytes: 50 * 1024 ** 2,
      totalBytes: 100 * 1024 ** 2,
      elapsedMs: 1000,
    });
    expect(text).toContain('50%');
    expect(text).toContain('50.0 MiB of 100 MiB');
    expect(text).toContain('1 s left');
  });

  test('writes nothing where nobody watches, and cleans up where somebody does', () => {
    const written: string[] = [];
    let now = 0;
    const terminal = (isTTY: boolean) => ({
      isTTY,
      columns: 40,
      write: (text: string) => written.push(text),
    });
    const quiet = createProgress('f', terminal(false), () => now);
    now = 10_000;
    quiet.add(5);
    quiet.end();
    expect(written).toEqual([]);
    const shown = createProgress('f', terminal(true), () => now);
    shown.expect(100);
    now += 1000;
    shown.add(50);
    shown.end();
    expect(written.length).toBe(2);
    expect(written[0]?.length).toBeLessThan(50);
    expect(written[1]).toBe('\r\x1b[K');
  });
});

describe('names on the command line', () => {
  test('cp tells files from objects', () => {
    expect(parsePlace('ebb://bkt/k')).toEqual({ object: { bucket: 'bkt', key: 'k' } });
    expect(parsePlace('bkt/k')).toEqual({ object: { bucket: 'bkt', key: 'k' } });
    for (const file of ['./f', '../f', '/f', '-', '.']) expect(parsePlace(file)).toEqual({ file });
  });

  test('a folder takes the name of the file', () => {
    expect(targetKey({ bucket: 'bkt', key: '' }, '/tmp/f.csv')).toEqual({
      bucket: 'bkt',
      key: 'f.csv',
    });
    expect(targetKey({ bucket: 'bkt', key: 'a/' }, 'f.csv')).toEqual({
      bucket: 'bkt',
      key: 'a/f.csv',
    });
    expect(targetKey({ bucket: 'bkt', key: 'a' }, 'f.csv')).toEqual({ bucket: 'bkt', key: 'a' });
  });

  test('no key leaves the directory it is fetched into', () => {
    expect(localPath('/tmp/d', 'a/b')).toBe('/tmp/d/a/b');
    for (const key of ['../x', 'a/../../x', '/etc/passwd', '', 'a/', '..', 'a/../..'])
      expect(() => localPath('/tmp/d', key)).toThrow(
        expect.objectContaining({ code: 'name_invalid' }),
      );
  });

  test('name=value pairs', () => {
    expect(pairArgument('b=c=d', { a: '1' })).toEqual({ a: '1', b: 'c=d' });
    expect(() => pairArgument('nothing')).toThrow();
  });
});

test('work on many items is bounded, finishes what it began, and throws the first failure', async () => {
  let running = 0;
  let most = 0;
  const ended: number[] = [];
  const work = forEachParallel([1, 2, 3, 4, 5, 6, 7, 8], 3, async (item) => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    ended.push(item);
    if (item === 4) throw new Error('four');
  });
  await expect(work).rejects.toThrow('four');
  expect(most).toBe(3);
  expect(running).toBe(0);
  expect(ended).not.toContain(8);
});

test('every error code has an exit code that is not 0', () => {
  for (const code of Object.keys(ERRORS) as (keyof typeof ERRORS)[])
    expect(EXIT_OF_CODE[code]).toBeGreaterThan(0);
});

test('what is lost is not told as spread over tiers', () => {
  const spread = { tiers: [], durability: 'memory' as const };
  expect(placeFacts(spread).tiers).toBe('spread over several');
  expect(placeFacts({ ...spread, lost: true })).toEqual({
    tiers: 'none',
    durable: 'no: its bytes are lost (data_lost)',
  });
});

test('ages read as people say them', () => {
  expect([900, 100_000, 600_000, 86_400_000, 9e9].map(formatAge)).toEqual([
    '1 s',
    '100 s',
    '10 min',
    '24 h',
    '104 d',
  ]);
});

describe('watch', () => {
  const watched = (name?: string, recursive = false): object => parseWatched(name, { recursive });

  test('a name is all, a bucket, what lies below a prefix, or one object', () => {
    expect(watched()).toEqual({});
    expect(watched('ebb://bkt')).toEqual({ bucket: 'bkt' });
    expect(watched('bkt/a/')).toEqual({ bucket: 'bkt', prefix: 'a/' });
    expect(watched('bkt/a', true)).toEqual({ bucket: 'bkt', prefix: 'a/' });
    expect(watched('bkt/a')).toEqual({ bucket: 'bkt', key: 'a' });
  });

  test('an event is a line that cannot steer the terminal', () => {
    const event = { id: 7, atMs: 0, bucket: 'bkt', key: 'a\x1b[2J\n', version: 1, sizeBytes: 5 };
    const line = formatEvent({
      ...{ ...event, type: 'tier', durability: 'remote' },
      tiers: ['disk', 'remote'],
    });
    // oxlint-disable-next-line no-control-regex -- these are what is looked for
    expect(line).not.toMatch(/[\0-\x1f]/);
    expect(line).toContain('tier     remote: disk+remote  ebb://bkt/a');
    expect(formatEvent({ ...event, type: 'tier', durability: null, tiers: [] })).toContain('lost');
    expect(formatEvent({ ...event, type: 'created' })).toContain('created  5 B');
  });
});

describe('spark-conf', () => {
  test('versions choose the line of the plugin', () => {
    expect(pluginLine('3.5', '2.12')).toBe('3.5_2.12');
    expect(pluginLine('3.5.7', '2.13')).toBe('3.5_2.13');
    expect(pluginLine('4.1.0', '2.13')).toBe('4_2.13');
    for (const [spark, scala] of [
      ['4.0', '2.12'],
      ['3.4', '2.12'],
      ['x', '2.13'],
    ] as const)
      expect(() => pluginLine(spark, scala)).toThrow(
        expect.objectContaining({ code: 'request_invalid' }),
      );
  });

  test('the settings name the node and put the jar on both class paths', () => {
    expect(sparkSettings({ node: 'http://n:1', jar: '/j.jar' })).toEqual({
      'spark.shuffle.manager': 'org.apache.spark.shuffle.ebb.EbbShuffleManager',
      'spark.shuffle.sort.io.plugin.class': 'org.apache.spark.shuffle.ebb.EbbShuffleDataIO',
      'spark.dynamicAllocation.shuffleTracking.enabled': 'false',
      'spark.shuffle.ebb.node': 'http://n:1',
      'spark.driver.extraClassPath': '/j.jar',
      'spark.executor.extraClassPath': '/j.jar',
    });
  });
});

describe('help and completion', () => {
  test('every command has a summary, examples and --help', async () => {
    const program = await createProgram('*');
    const visit = (command: typeof program): void => {
      expect(command.description(), command.name()).not.toBe('');
      let text = '';
      command.configureOutput({ writeOut: (part) => (text += part) }).outputHelp();
      expect(text, command.name()).toContain('Examples:');
      for (const child of command.commands) visit(child);
    };
    for (const command of program.commands) visit(command);
  });

  const words = [
    {
      name: 'ls',
      summary: "list: it's",
      options: [{ flag: '--json', means: 'print [JSON]', choices: [] }],
      words: [],
    },
    {
      name: 'jobs',
      summary: 'jobs',
      options: [{ flag: '--ack', means: 'level', choices: ['memory', 'disk'] }],
      words: ['ls', 'end'],
    },
  ];

  test.each(['bash', 'zsh', 'fish'] as const)(
    '%s gets commands, words, options and their values',
    (shell) => {
      const script = completionScript(shell, words);
      for (const word of ['ls', 'jobs', 'end', 'json', 'ack', 'memory'])
        expect(script).toContain(word);
    },
  );

  test('bash completes as asked', () => {
    const complete = (...line: string[]): string[] => {
      const quoted = line.map((word) => `'${word}'`).join(' ');
      const ask = `COMP_WORDS=(${quoted}); COMP_CWORD=${line.length - 1}; _ebb; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const script = `${completionScript('bash', words)}\n${ask}`;
      return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).trim().split('\n');
    };
    expect(complete('ebb', 'j')).toEqual(['jobs']);
    expect(complete('ebb', 'jobs', 'e')).toEqual(['end']);
    expect(complete('ebb', 'ls', '--j')).toEqual(['--json']);
    expect(complete('ebb', 'jobs', '--ack', '')).toEqual(['memory', 'disk']);
  });
});
