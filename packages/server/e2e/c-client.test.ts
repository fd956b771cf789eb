/**
 * The C library: compiled with the `cc` of this machine, held against the protocol's vectors, and run against a real
 * daemon; all of it once more under AddressSanitizer and UBSan where the compiler has them.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { type EbbClient, openClient } from '@ebb/client';
import { crc32c, formatCrc32c, resolvePolicy } from '@ebb/core';
import { ACKS, ERRORS, MiB } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { openTestNode } from '../src/testing/test-node.ts';

const SOURCE = join(import.meta.dirname, '../../../clients/c');
const VECTORS = join(import.meta.dirname, '../../protocol/vectors/frames.json');
/** The messages that the C library writes or reads; of a rename it reads whether it went well, and no more. */
const SPOKEN =
  /^(hello|proveHost|file\w+|head|listObjects|deleteObject|rename|renamePrefix|directory\w+)\./;
const BUILD = mkdtempSync(join(tmpdir(), 'ebb-c-'));
afterAll(() => rmSync(BUILD, { recursive: true, force: true }));

const missing = ['cc', 'make'].filter((tool) => spawnSync(tool, ['--version']).error !== undefined);
if (missing.length > 0)
  process.stderr.write(`skipped: the C library, which takes ${missing.join(' and ')}\n`);
const hasSanitizers = missing.length === 0 && trySanitizers();
if (missing.length === 0 && !hasSanitizers)
  process.stderr.write('skipped: the C library under sanitizers, which this cc has not\n');

function trySanitizers(): boolean {
  const file = join(BUILD, 'probe');
  writeFileSync(`${file}.c`, 'int main(void) { return 0; }\n');
  const flags = ['-fsanitize=address,undefined', `${file}.c`, '-o', file];
  return spawnSync('cc', flags).status === 0 && spawnSync(file).status === 0;
}

function make(directory: string, ...more: string[]): string {
  const build = join(BUILD, directory);
  execFileSync('make', ['-C', SOURCE, `BUILD=${build}`, ...more], { stdio: 'pipe' });
  return build;
}

interface Run {
  readonly child: ChildProcess;
  readonly lines: Interface;
  readonly errors: () => string;
  readonly exited: Promise<{ code: number | null; output: string; errors: string }>;
}

function start(program: string, args: readonly string[], input?: string): Run {
  const seed = String(randomInt(1, 2 ** 40));
  const child = spawn(program, args, { env: { ...process.env, EBB_TEST_SEED: seed } });
  let output = '';
  let errors = `EBB_TEST_SEED=${seed}\n`;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  if (input !== undefined) child.stdin.end(input);
  const exited = once(child, 'close').then(([code]) => ({
    ...{ code: code as number | null, output, errors },
  }));
  return { child, lines: createInterface({ input: child.stdout }), errors: () => errors, exited };
}

/** Its output, when it went well. */
async function run(program: string, args: readonly string[], input?: string): Promise<string> {
  const { code, output, errors } = await start(program, args, input).exited;
  expect(code, errors).toBe(0);
  return output;
}

interface Vector {
  readonly name: string;
  readonly message: Readonly<Record<string, never>>;
  readonly payloadHex: string;
}

const builds = [
  ['compiled as it ships', 'plain', [] as string[]],
  ['under sanitizers', 'sanitized', ['SANITIZE=1', 'CFLAGS=-O1 -g']],
] as const;

describe.skipIf(missing.length > 0)('the C library', () => {
  let node: NodeProcess;
  let client: EbbClient;
  beforeAll(async () => {
    node = await startNodeProcess({ memoryLimit: '64MiB', diskLimit: '512MiB' });
    client = await openClient({ node: node.url });
    await client.buckets.create('data', { preset: 'ephemeral' });
  });
  afterAll(async () => {
    await client?.close();
    await node?.[Symbol.asyncDispose]();
  });
  const stagedBytes = async (): Promise<number> =>
    (await client.status()).tiers.reduce((sum, tier) => sum + tier.stagedBytes, 0);

  describe.each(builds)('%s', (_, directory, options) => {
    const isHere = directory === 'plain' || hasSanitizers;
    let program = '';
    beforeAll(() => {
      if (isHere) program = join(make(directory, ...options, 'test-program'), 'ebb_test');
    });
    const c = async (name: string, ...more: string[]): Promise<string> =>
      await run(program, [name, node.socketPath, 'data', ...more]);

    test.runIf(isHere)(
      'computes CRC32C, in hardware and without',
      async () => await run(program, ['checksum']),
    );

    test.runIf(isHere)('knows no error code that the protocol does not have', async () => {
      const codes = (await run(program, ['codes'])).trim().split('\n');
      expect(codes.filter((code) => !Object.hasOwn(ERRORS, code))).toEqual([]);
      expect(codes.length).toBeGreaterThan(20);
    });

    test.runIf(isHere)(
      'writes and reads its messages byte for byte as the vectors have them',
      async () => {
        const spoken = (
          JSON.parse(readFileSync(VECTORS, 'utf8')) as { messages: Vector[] }
        ).messages
          .filter(({ name }) => SPOKEN.test(name))
          .filter(({ payloadHex }) => payloadHex !== '');
        expect(spoken.length).toBeGreaterThan(20);
        const answered = spoken.filter(({ name }) => !/^rename\w*\.response$/.test(name));
        const input = answered.map((vector) => `${lineOf(vector)}\n`).join('');
        const lines = (await run(program, ['vectors'], input)).trimEnd().split('\n');
        expect(lines).toEqual(answered.map(expectedOf));
      },
    );

    test
      .runIf(isHere)
      .each([
        'sizes',
        'ends',
        'modes',
        'exclusive',
        'condition',
        'append',
        'abort',
        'random',
        'sync',
        'old-version',
        'names',
        'large',
        'threads',
        'processes',
      ])('%s', async (name) => {
      await c(name);
      await vi.waitFor(async () => expect(await stagedBytes()).toBe(0), { timeout: 60_000 });
      expect((await client.verify({ bucket: 'data', prefix: 'c/' })).broken).toEqual([]);
      await client.deletePrefix('data', 'c/');
    });

    test.runIf(isHere)(
      'a writer that is killed leaves nothing, and its room is freed',
      async () => {
        const writer = start(program, ['write-and-hold', node.socketPath, 'data', 'c/killed']);
        expect(await nextLine(writer)).toBe('written');
        expect(await stagedBytes()).toBeGreaterThanOrEqual(5_000_000);
        writer.child.kill('SIGKILL');
        await writer.exited;
        await vi.waitFor(async () => expect(await stagedBytes()).toBe(0), { timeout: 60_000 });
        await expect(client.head('data', 'c/killed')).rejects.toMatchObject({ code: 'not_found' });
      },
    );

    test.runIf(isHere)(
      'writers that are killed at any moment leave one version, whole, and no staged bytes',
      async () => {
        await c('put-version', 'c/whole');
        for (let round = 0; round < 12; round++) {
          const writers = [1, 2].map(() =>
            start(program, ['rewrite', node.socketPath, 'data', 'c/whole']),
          );
          await Promise.all(writers.map(nextLine));
          const look = randomInt(0, 12);
          for (let n = 0; n < look; n++) await expectOneVersion(client, 'c/whole');
          for (const writer of writers) writer.child.kill('SIGKILL');
          await Promise.all(writers.map(({ exited }) => exited));
          await expectOneVersion(client, 'c/whole');
        }
        await vi.waitFor(async () => expect(await stagedBytes()).toBe(0), { timeout: 60_000 });
      },
    );

    test.runIf(isHere)(
      'a daemon that is killed under its writers comes back with one version, whole',
      async () => {
        await using own = await startNodeProcess({ memoryLimit: '64MiB' });
        const direct = await openClient({ node: own.url });
        await direct.buckets.create('data', { preset: 'ephemeral' });
        for (let round = 0; round < 3; round++) {
          await run(program, ['put-version', own.socketPath, 'data', 'c/whole']);
          const writers = [1, 2, 3].map(() =>
            start(program, ['rewrite', own.socketPath, 'data', 'c/whole']),
          );
          await Promise.all(writers.map(nextLine));
          for (let n = randomInt(1, 8); n > 0; n--) await expectOneVersion(direct, 'c/whole');
          await own.kill();
          for (const { exited } of writers) {
            const { code, errors } = await exited;
            expect(code, errors).toBe(0);
          }
          await own.start();
          await expectOneVersion(direct, 'c/whole');
          expect((await direct.verify()).broken).toEqual([]);
          expect((await direct.status()).tiers.map((tier) => tier.stagedBytes)).toEqual([0, 0, 0]);
        }
        await direct.close();
      },
    );

    test.runIf(isHere)(
      'a reader keeps the version it opened while others rewrite the object and fill the node',
      async () => {
        const bytes = Buffer.from(Array.from({ length: 700_000 }, (__, at) => (at * 7) & 0xff));
        await client.put('data', 'c/kept', bytes);
        const reader = start(program, ['read-and-hold', node.socketPath, 'data', 'c/kept']);
        const shown = `700000 ${formatCrc32c(crc32c(bytes))} mapped`;
        expect(await nextLine(reader)).toBe(shown);
        for (let round = 0; round < 5; round++) {
          await client.put('data', 'c/kept', Buffer.alloc(700_000, round));
          await client.put('data', `c/fill-${round}`, Buffer.alloc(20 * MiB, round));
        }
        reader.child.stdin?.write('again\n');
        expect(await nextLine(reader)).toBe(shown);
        reader.child.stdin?.end();
        expect((await reader.exited).code).toBe(0);
        await client.deletePrefix('data', 'c/');
      },
    );

    test.runIf(isHere)('reads and changes what lies in tier 2 alone', async () => {
      const bytes = Buffer.alloc(3 * MiB, 'tier two ');
      await client.put('data', 'c/cold', bytes);
      await client.relocate('data', 'c/cold', 'remote');
      expect(await c('change-byte', 'c/cold', '1000000')).toBe('ok\nok\n');
      bytes[1_000_000] = 0x21;
      expect(Buffer.compare(await (await client.get('data', 'c/cold')).bytes(), bytes)).toBe(0);
    });

    test.runIf(isHere)(
      'what was published survives the daemon, and readers read on; a writer is told',
      async () => {
        const own = await startNodeProcess({ memoryLimit: '32MiB' });
        try {
          const direct = await openClient({ node: own.url });
          await direct.buckets.create('data', { preset: 'ephemeral' });
          await direct.close();
          const outlive = start(program, ['outlive', own.socketPath, 'data']);
          expect(await nextLine(outlive)).toBe('ready');
          await own.kill();
          outlive.child.stdin?.end('go\n');
          const { code, errors } = await outlive.exited;
          expect(code, errors).toBe(0);
        } finally {
          await own[Symbol.asyncDispose]();
        }
      },
    );

    test.runIf(isHere)(
      'an object of several extents is read, mapped as a copy, and changed; a range within one is mapped',
      async () => {
        await using at = await openTestNode();
        const { store } = at.node.services;
        await store.createBucket('data', resolvePolicy({ preset: 'ephemeral' }));
        const owner = store.createOwner('test');
        const parts = [1, 2, 3].map((part) => Buffer.alloc(300_001 * part, `part ${part} `));
        for (const [index, part] of parts.entries()) {
          const ref = { bucket: 'data', key: `part-${index}` };
          const { writeId } = await store.stage(owner, ref, { reserveBytes: part.length });
          await store.write(owner, writeId, part, 0);
          await store.commit(owner, writeId, { sizeBytes: part.length });
        }
        const sources = parts.map((__, index) => ({ bucket: 'data', key: `part-${index}` }));
        await store.compose({ bucket: 'data', key: 'joined' }, sources, {});
        const whole = Buffer.concat(parts);
        const reader = start(program, ['read-and-hold', at.socketPath, 'data', 'joined'], '');
        expect(await nextLine(reader)).toBe(
          `${whole.length} ${formatCrc32c(crc32c(whole))} copied`,
        );
        expect((await reader.exited).code).toBe(0);
        expect(await run(program, ['change-byte', at.socketPath, 'data', 'joined', '300000'])).toBe(
          'ok\nok\n',
        );
        whole[300_000] = 0x21;
        const { body } = await at.http('GET', '/v1/buckets/data/objects/joined');
        expect(Buffer.compare(body, whole)).toBe(0);
      },
    );

    test.runIf(isHere)('says what the daemon says when there is no room', async () => {
      await using at = await openTestNode({ memoryLimit: 2 * MiB, diskLimit: 2 * MiB });
      await at.json('PUT', '/v1/buckets/data', { preset: 'ephemeral' });
      await at.http('PUT', '/v1/buckets/data/objects/small', { body: 'abc' });
      expect(await run(program, ['change-byte', at.socketPath, 'data', 'small', '9000000'])).toBe(
        'tier_full\nok\n',
      );
    });
  });

  test('the example of the README compiles against both libraries, and does what it says', async () => {
    const build = make('example');
    const [, example] = /```c\n([\s\S]*?)```/.exec(
      readFileSync(join(SOURCE, 'README.md'), 'utf8'),
    ) as RegExpExecArray;
    const source = join(build, 'example.c');
    writeFileSync(source, example as string);
    const flags = ['-std=c11', '-Wall', '-Wextra', '-Werror', `-I${SOURCE}`, source];
    execFileSync('cc', [
      ...flags,
      join(build, 'libebb.a'),
      '-pthread',
      '-o',
      join(build, 'static'),
    ]);
    execFileSync('ln', ['-sf', 'libebb.so', join(build, 'libebb.so.0')]);
    execFileSync('cc', [
      ...flags,
      `-L${build}`,
      '-lebb',
      `-Wl,-rpath,${build}`,
      '-pthread',
      '-o',
      join(build, 'shared'),
    ]);
    for (const program of ['static', 'shared'])
      expect(await run(join(build, program), [node.socketPath, 'data'])).toBe(
        'hello, ebb\nresults/part-0 11\n',
      );
    expect((await client.head('data', 'results/part-0')).durability).toBe('memory');
    const { code, errors } = await start(join(build, 'static'), ['/nowhere.sock', 'data']).exited;
    expect([code, errors]).toEqual([
      1,
      expect.stringContaining('node_unreachable: no node at /nowhere.sock'),
    ]);
  });
});

/** 1 MiB of one byte. */
async function expectOneVersion(client: EbbClient, key: string): Promise<void> {
  const bytes = Buffer.from(await (await client.get('data', key)).bytes());
  expect(bytes.length).toBe(MiB);
  expect(bytes.equals(Buffer.alloc(MiB, bytes[0]))).toBe(true);
}

async function nextLine({ lines, exited, errors }: Run): Promise<string> {
  const line = await Promise.race([once(lines, 'line'), exited.then(() => undefined)]);
  if (line === undefined) throw new Error(`it ended: ${errors()}`);
  return (line as string[])[0] as string;
}

/** What the test program is given: fields to write, or bytes to read. */
function lineOf({ name, message, payloadHex }: Vector): string {
  if (name.endsWith('.response')) return `${name}\t${payloadHex}`;
  const fields: Readonly<Record<string, unknown>> = message;
  const text = Object.entries(fields)
    .filter(([field]) => field !== 'protocolVersion')
    .map(([field, value]) => {
      if (field === 'ack') return value === null ? '255' : String(ACKS.indexOf(value as 'memory'));
      if (typeof value === 'boolean') return value ? '1' : '0';
      return value === null ? '' : String(value as string);
    });
  return [name, ...text].join('\t');
}

/** What it must answer. */
function expectedOf({ name, message, payloadHex }: Vector): string {
  if (name.endsWith('.request')) return payloadHex;
  if (name === 'listObjects.response') return listingOf(message);
  const { published: _, crc32c: __, extents = [], ...rest } = message as Record<string, unknown>;
  const flat = [rest, ...(extents as Record<string, unknown>[])].flatMap((part) =>
    Object.entries(part),
  );
  return flat
    .map(([field, value]) => {
      if (field === 'durability') return String(ACKS.indexOf(value as 'memory'));
      return typeof value === 'boolean' ? (value ? '1' : '0') : String(value as string);
    })
    .join('\t');
}

/** In byte order, prefixes between keys; then where to go on. */
function listingOf(message: Readonly<Record<string, unknown>>): string {
  const entries = message['objects'] as readonly { key: string; sizeBytes: number }[];
  const prefixes = message['prefixes'] as readonly string[];
  const names = [
    ...entries.map(({ key, sizeBytes }) => ({ key, shown: `${key}=${sizeBytes}\t` })),
    ...prefixes.map((key) => ({ key, shown: `${key}*\t` })),
  ].sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)));
  return names.map(({ shown }) => shown).join('') + String(message['next'] ?? '');
}
