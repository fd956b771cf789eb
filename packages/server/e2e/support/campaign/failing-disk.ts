/** Makes a node's disk fail while it runs: compiles failing-disk.c, and writes the page that it reads. */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { constants as os, tmpdir } from 'node:os';
import { join } from 'node:path';

export interface DiskFault {
  readonly calls: readonly ('reads' | 'writes' | 'syncs' | 'looks')[];
  /** `hang`: a call waits until `heal`. */
  readonly error: 'EIO' | 'ENOSPC' | 'hang';
  /** A part of the path of the files, such as `/catalog/`. */
  readonly path: string;
  /** 1: each call fails. */
  readonly oneIn: number;
}

export interface FailingDisk extends Disposable {
  /** For the environment of the node. */
  readonly env: Readonly<Record<string, string>>;
  /** From now on, in place of what failed so far. */
  fail(fault: DiskFault): void;
  heal(): void;
  /** How many calls have failed or hung since `fail`. */
  failed(): number;
}

const CALLS = { reads: 1, writes: 2, syncs: 4, looks: 8 } as const;
const PATH_AT = 20;
const PAGE_BYTES = 256;
const FAILED_AT = 16;

/** undefined where there is no compiler, or this is not Linux. */
export function openFailingDisk(): FailingDisk | undefined {
  const directory = mkdtempSync(join(tmpdir(), 'ebb-failing-disk-'));
  const library = join(directory, 'failing-disk.so');
  const source = join(import.meta.dirname, 'failing-disk.c');
  const made = spawnSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source, '-ldl']);
  if (made.status !== 0 || process.platform !== 'linux') {
    rmSync(directory, { recursive: true });
    return undefined;
  }
  const page = join(directory, 'page');
  writeFileSync(page, Buffer.alloc(PAGE_BYTES));
  const fd = openSync(page, 'r+');
  const set = (bytes: Buffer): void => void writeSync(fd, bytes, 0, bytes.length, 0);
  return {
    env: { LD_PRELOAD: library, FAILING_DISK_PAGE: page },
    fail({ calls, error, path, oneIn }) {
      const bytes = Buffer.alloc(PAGE_BYTES);
      bytes.writeUInt32LE(
        calls.reduce((sum, call) => sum | CALLS[call], 0),
        0,
      );
      bytes.writeUInt32LE(oneIn, 4);
      bytes.writeUInt32LE(error === 'hang' ? 0 : os.errno[error], 8);
      bytes.write(path, PATH_AT, 'utf8');
      set(Buffer.alloc(4)); // nothing fails while the rest changes
      set(bytes);
    },
    heal: () => set(Buffer.alloc(4)),
    failed() {
      const bytes = Buffer.alloc(4);
      readSync(fd, bytes, 0, 4, FAILED_AT);
      return bytes.readUInt32LE(0);
    },
    [Symbol.dispose]() {
      closeSync(fd);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
