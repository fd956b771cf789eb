/**
 * Clients of a node that is not to be trusted (testkit/src/stranger-node.ts): in every language, a file that is not the
 * node's is neither read nor written, whatever the node says.
 *
 * The attacks: a node elsewhere that names directories of this host; and one on this host, of another user, that names
 * paths, links and files which lead out of its directory.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openClient } from '@ebb/client';
import { openStrangerNode } from '@ebb/testkit';
import { afterAll, describe, expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '../../..');
const PYTHON = join(ROOT, '.ebb/python-client/bin/python');
const PATH = 'b/07/7';
const SECRET = 'the secret of another program';
const SENT = 'bytes of this program';
const SCRATCH = mkdtempSync(join(tmpdir(), 'ebb-strangers-'));
afterAll(() => rmSync(SCRATCH, { recursive: true, force: true }));
const isRoot = process.getuid?.() === 0;
if (!isRoot) process.stderr.write('skipped: files of other users, which take root to make\n');

interface Attack {
  readonly what: string;
  /** Lays out the stranger's directory, and gives the path that it names. */
  readonly lay: (places: { readonly directory: string; readonly victim: string }) => string;
  readonly isElsewhere?: boolean;
  readonly needsRoot?: boolean;
}

const ATTACKS: readonly Attack[] = [
  {
    what: 'of another host names a file of this one',
    lay: ({ directory, victim }) => plain(directory, victim),
    isElsewhere: true,
  },
  { what: 'names a path above its directory', lay: () => '../victim' },
  { what: 'names an absolute path', lay: ({ victim }) => victim },
  { what: 'names a path that only looks like a blob', lay: () => 'b/07/../../../victim' },
  { what: 'names a link to a file', lay: ({ directory, victim }) => linked(directory, victim) },
  {
    what: 'names a file in a linked directory',
    lay: ({ directory }) => linkedDirectory(directory),
  },
  { what: 'names a directory', lay: ({ directory }) => directoryThere(directory) },
  { what: 'names a pipe', lay: ({ directory }) => pipe(directory) },
  {
    what: 'names a file of another user',
    lay: ({ directory, victim }) => hard(directory, victim),
    needsRoot: true,
  },
];

function plain(directory: string, victim: string): string {
  mkdirSync(join(directory, 'b/07'), { recursive: true });
  linkSync(victim, join(directory, PATH));
  return PATH;
}
function linked(directory: string, victim: string): string {
  mkdirSync(join(directory, 'b/07'), { recursive: true });
  symlinkSync(victim, join(directory, PATH));
  return PATH;
}
function linkedDirectory(directory: string): string {
  mkdirSync(join(directory, 'b'));
  symlinkSync(join(directory, '..'), join(directory, 'b/07'));
  linkSync(join(directory, '../victim'), join(directory, '../7'));
  return PATH;
}
function directoryThere(directory: string): string {
  mkdirSync(join(directory, PATH), { recursive: true });
  return PATH;
}
function pipe(directory: string): string {
  mkdirSync(join(directory, 'b/07'), { recursive: true });
  spawnSync('mkfifo', [join(directory, PATH)]);
  return PATH;
}
/** A hard link, which no look at links finds: the file's owner tells. */
function hard(directory: string, victim: string): string {
  chownSync(victim, 12345, 12345);
  return plain(directory, victim);
}

interface Client {
  readonly name: string;
  readonly missing: string | undefined;
  /** Puts SENT, then gets an object of SECRET's length; gives what it read, or the error. */
  readonly use: (url: string) => Promise<string>;
}

const CLIENTS: readonly Client[] = [
  {
    name: 'TypeScript',
    missing: undefined,
    async use(url) {
      await using ebb = await openClient({ node: url, retry: { attemptsMax: 1 } });
      const said: string[] = [];
      await ebb.put('b', 'k', Buffer.from(SENT)).catch((error: Error) => said.push(error.message));
      await ebb
        .put('b', 'k', Buffer.alloc(300_000, SENT))
        .catch((error: Error) => said.push(error.message));
      try {
        const object = await ebb.get('b', 'k');
        said.push(Buffer.from(await object.bytes()).toString());
      } catch (error) {
        said.push((error as Error).message);
      }
      return said.join('\n');
    },
  },
  {
    name: 'Python',
    missing: spawnSync(PYTHON, ['--version']).status === 0 ? undefined : 'its environment',
    use: async (url) => await program(PYTHON, ['-c', PYTHON_PROGRAM, url, SENT]),
  },
  {
    name: 'C',
    missing: ['cc', 'make'].find((tool) => spawnSync(tool, ['--version']).error !== undefined),
    use: async (url) => await program(cProgram(), ['stranger', url.slice('unix://'.length), SENT]),
  },
];

const PYTHON_PROGRAM = `
import sys
import ebb

with ebb.Client(sys.argv[1]) as client:
    for act in (
        lambda: client.put("b", "k", sys.argv[2].encode()),
        lambda: client.put("b", "k", sys.argv[2].encode() * 20_000),
        lambda: print(client.get("b", "k").decode()),
    ):
        try:
            act()
        except ebb.EbbError as error:
            print(error)
`;

let built: string | undefined;
function cProgram(): string {
  if (built === undefined) {
    const build = join(SCRATCH, 'c');
    const made = spawnSync('make', [
      '-C',
      join(ROOT, 'clients/c'),
      `BUILD=${build}`,
      'test-program',
    ]);
    expect(made.status, made.stderr.toString()).toBe(0);
    built = join(build, 'ebb_test');
  }
  return built;
}

async function program(command: string, args: readonly string[]): Promise<string> {
  const env = { ...process.env, PYTHONPATH: join(ROOT, 'clients/python/src') };
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  await once(child, 'close');
  return output;
}

for (const { name, missing } of CLIENTS)
  if (missing !== undefined) process.stderr.write(`skipped: ${name}, for want of ${missing}\n`);

describe.each(CLIENTS)('a client in $name of a node that', ({ missing, use }) => {
  const attacks = ATTACKS.filter(({ needsRoot = false }) => isRoot || !needsRoot);
  test.skipIf(missing !== undefined).each(attacks)(
    '$what reads and writes no file of others',
    async ({ lay, isElsewhere = false }) => {
      const scratch = mkdtempSync(join(SCRATCH, 'attack-'));
      const directory = join(scratch, 'tier');
      const victim = join(scratch, 'victim');
      mkdirSync(directory);
      writeFileSync(victim, SECRET);
      const path = lay({ directory, victim });
      const options = { directory, provesHost: !isElsewhere, path, sizeBytes: SECRET.length };
      await using node = await openStrangerNode(options, scratch);
      const said = await use(node.url);
      expect(readFileSync(victim, 'utf8')).toBe(SECRET);
      expect(said).not.toContain(SECRET);
      expect(node.calls).toContain('proveHost');
      // It got as far as asking for bytes, and did not just fail at something else.
      expect(node.calls.some((call) => /^(open|fileOpen|GET .*)$/.test(call))).toBe(true);
    },
  );
});
