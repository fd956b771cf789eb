/** The descriptor is a fake that takes so many bytes and then says EAGAIN, or fails. The last test has a real pipe and process. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { LimitedLog } from './limited-log.ts';
import { LogSink } from './log-sink.ts';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
afterEach(() => void vi.useRealTimers());

function create(queuedBytesMax = 1_000) {
  const reader = { takes: 0, text: '', error: 'EAGAIN' };
  const sink = new LogSink({
    ...{ queuedBytesMax, retryMs: 50, flushMs: 20 },
    write: (bytes) => {
      const taken = Math.min(bytes.length, reader.takes);
      if (taken === 0) throw Object.assign(new Error('no'), { code: reader.error });
      reader.takes -= taken;
      reader.text += bytes.toString('utf8', 0, taken);
      return taken;
    },
  });
  return { sink, reader };
}

test('a reader who stops gets every line in order when he goes on, none of them torn', () => {
  const { sink, reader } = create();
  reader.takes = 5;
  for (const line of ['first\n', 'second\n', 'third\n']) sink.write(line);
  expect(reader.text).toBe('first');
  reader.takes = 10_000;
  vi.advanceTimersByTime(50);
  expect(reader.text).toBe('first\nsecond\nthird\n');
  expect(sink.dropped).toBe(0);
});

test('what does not fit is dropped, and how much is said when there is room', () => {
  const { sink, reader } = create(20);
  for (let n = 0; n < 10; n++) sink.write(`line ${n}\n`);
  expect(sink.dropped).toBe(8);
  reader.takes = 10_000;
  vi.advanceTimersByTime(50);
  const [first, second, told] = reader.text.split('\n');
  expect([first, second]).toEqual(['line 0', 'line 1']);
  expect(JSON.parse(told as string)).toMatchObject({ dropped: 8, level: 40 });
});

test('the end of the process does not wait for a reader who stopped', () => {
  const { sink } = create();
  sink.write('line\n');
  const startedMs = performance.now();
  sink.flushSync();
  expect(performance.now() - startedMs).toBeLessThan(10_000);
});

test('a reader who is gone costs lines and nothing else', () => {
  const { sink, reader } = create();
  reader.error = 'EPIPE';
  sink.write('line\n');
  expect(sink.dropped).toBe(1);
});

test('lines that strangers cause come at a bounded rate, with the number of those that did not', () => {
  const clock = { ms: 0 };
  const warn = vi.fn();
  const log = new LimitedLog({ warn }, { linesMax: 2, windowMs: 1_000, now: () => clock.ms });
  for (let n = 0; n < 10; n++) log.warn({ n }, 'refused');
  clock.ms = 1_000;
  log.warn({ n: 10 }, 'refused');
  expect(warn.mock.calls.map(([fields]) => fields as unknown)).toEqual([
    { n: 0 },
    { n: 1 },
    { n: 10, suppressed: 8 },
  ]);
});

test('a process whose standard error nobody reads goes on, and ends', async () => {
  vi.useRealTimers();
  const program = `
    const { createLog } = await import(${JSON.stringify(new URL('./node.ts', import.meta.url).href)});
    const log = createLog({ logLevel: 'info' });
    for (let n = 0; n < 20_000; n++) log.info({ n }, 'a line that is long enough to fill the pipe soon'.repeat(4));
    process.stdout.write('went on');
    process.exit(7);`;
  const child = spawn(
    process.execPath,
    ['--conditions=source', '--input-type=module', '-e', program],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  child.stderr.pause();
  let told = '';
  child.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
  const [code] = (await once(child, 'exit')) as [number];
  expect([code, told]).toEqual([7, 'went on']);
}, 30_000);
