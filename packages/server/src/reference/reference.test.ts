import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { makePages, REFERENCE_DIR } from './pages.ts';
import { parseSparkSettings } from './spark-settings.ts';

describe('docs/reference', () => {
  test('every page is what the code says now', async () => {
    const pages = await makePages();
    const names = readdirSync(REFERENCE_DIR).filter((name) => name.endsWith('.md'));
    expect(names.sort(), 'pages in docs/reference; run npm run docs').toEqual(
      [...pages.keys()].sort(),
    );
    for (const [name, text] of pages)
      expect(
        readFileSync(join(REFERENCE_DIR, name), 'utf8'),
        `docs/reference/${name} is stale; run npm run docs`,
      ).toBe(text);
  });

  test('pages do not depend on the machine', async () => {
    const { HOME, EBB_NODE, COLUMNS } = process.env;
    const before = await makePages();
    try {
      Object.assign(process.env, { HOME: '/elsewhere', EBB_NODE: 'http://h:1', COLUMNS: '40' });
      expect(await makePages()).toEqual(before);
    } finally {
      for (const [name, value] of Object.entries({ HOME, EBB_NODE, COLUMNS }))
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
    }
  });
});

describe('settings of the Spark plugin', () => {
  const java = `
    static final String PREFIX = "spark.shuffle.ebb.";
    static final String NODE = PREFIX + "node";
    node = conf.get(NODE, "").trim();
    waitMs = (int) conf.getTimeAsMs(PREFIX + "wait", "10s");
    chunkBytes = (int) bounded(conf, "chunk", "64k", 4 << 10, 4 << 20);
    codec = conf.get("spark.io.compression.codec", "lz4");
    private static long bounded(SparkConf conf, String name, String otherwise, long least, long most) {
      long value = conf.getSizeAsBytes(PREFIX + name, otherwise);`;
  const row = (name: string, otherwise: string): string =>
    `| \`spark.shuffle.ebb.${name}\` | ${otherwise} | what it means |\n`;
  const readme = row('node', 'none') + row('wait', '`10s`') + row('chunk', '`64k`');

  test('are found with kind, default and bounds', () => {
    expect(
      parseSparkSettings(java, readme).map((setting) => Object.values(setting).join(' / ')),
    ).toEqual([
      'spark.shuffle.ebb.node / text /  /  / what it means',
      'spark.shuffle.ebb.wait / time / 10s /  / what it means',
      'spark.shuffle.ebb.chunk / size / 64k / 4k to 4m / what it means',
    ]);
  });

  test.each([
    [
      'a setting that is read in another way',
      `${java} x = PREFIX + "odd";`,
      readme,
      /ebb\.odd is named/,
    ],
    [
      'a setting without a meaning',
      java,
      row('node', 'none') + row('wait', '`10s`'),
      /ebb\.chunk is not in/,
    ],
    ['a setting that is gone', java, readme + row('old', '`1`'), /ebb\.old is in the table/],
    ['another default', java, readme.replace('10s', '9s'), /default "10s", the README says "9s"/],
  ])('%s is complained about', (_, source, table, complaint) => {
    expect(() => parseSparkSettings(source, table)).toThrow(complaint);
  });
});
