import { describe, expect, test } from 'vitest';
import { type BenchOptions, createProgram, type GridOptions } from './options.ts';

interface Parsed {
  bench?: BenchOptions;
  grid?: GridOptions;
}

async function parse(...args: string[]): Promise<Parsed> {
  const parsed: Parsed = {};
  const program = createProgram({
    bench: async (options) => void Object.assign(parsed, { bench: options }),
    grid: async (options) => void Object.assign(parsed, { grid: options }),
  });
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
  await program.parseAsync(args, { from: 'user' });
  return parsed;
}

describe('the command line', () => {
  test('compares vanilla and ebb on four queries in both modes when nothing is said', async () => {
    const { bench } = await parse();
    expect(bench).toMatchObject({
      queries: ['5', '49', '67', '75'],
      backends: ['vanilla', 'ebb'],
      partitions: 32,
    });
    expect(bench?.modes.toSorted()).toEqual(['forced', 'stock']);
    expect(bench?.runs).toBeUndefined();
  });

  test('takes lists, sizes and fractions', async () => {
    const args = [
      '--scale',
      '0.01',
      '--queries',
      'q67, 5,67',
      '--backends',
      'ebb,vanilla-tuned',
      '--memory-limit',
      '32MiB',
    ];
    expect((await parse(...args)).bench).toMatchObject({
      scale: 0.01,
      queries: ['67', '5'],
      backends: ['ebb', 'vanilla-tuned'],
      memoryLimit: '32MiB',
    });
  });

  test('knows the grid and its cells, with options of its own', async () => {
    const { grid, bench } = await parse('grid', '--cells', '10x20', '--runs', '5');
    expect(bench).toBeUndefined();
    expect(grid).toMatchObject({
      cells: [{ maps: 10, partitions: 20 }],
      runs: 5,
      backends: ['vanilla', 'vanilla-tuned', 'ebb'],
    });
  });

  test.each([
    ['--scale', '0'],
    ['--scale', 'big'],
    ['--queries', '67;drop'],
    ['--queries', ','],
    ['--runs', '0'],
    ['--runs', '1.5'],
    ['--modes', 'fast'],
    ['--backends', 'vanilla,celeborn'],
    ['--memory-limit', '32 parsecs'],
    ['--fault', 'meteor'],
    ['--no-such-option'],
    ['no-such-command'],
    ['grid', '--cells', '10by20'],
  ])('refuses %s %s', async (...args) => {
    await expect(parse(...args)).rejects.toThrow();
  });
});
