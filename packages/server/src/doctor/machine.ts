/** The machine and the process: open files, the mask of new files, versions, and the clock. */
import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { release } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { VERSION } from '../compose.ts';
import { CONNECTIONS_MAX } from '../limits.ts';
import { type Finding, Findings } from './finding.ts';

/** Connections on both addresses, and the files of the tiers. */
const OPEN_FILES_MIN = 2 * CONNECTIONS_MAX + 8192;
const NODE_MAJOR_MIN = 24;
const CLOCK_WATCH_MS = 300;
const CLOCK_JUMP_MS = 50;
const ASK_MS = 2_000;

export async function examineMachine(signal: AbortSignal): Promise<readonly Finding[]> {
  const findings = new Findings('machine');
  const major = Number(process.versions.node.split('.')[0]);
  const versions = `ebb ${VERSION}, Node ${process.versions.node}, kernel ${release()}`;
  if (major < NODE_MAJOR_MIN)
    findings.fail(
      'versions',
      `${versions}: Ebb needs Node ${NODE_MAJOR_MIN} or newer; install one`,
    );
  else findings.ok('versions', versions);
  tellOpenFiles(findings);
  const mask = process.umask();
  if ((mask & 0o002) === 0)
    findings.warn(
      'umask',
      `new files may be written by every user of the host (umask ${octal(mask)}); set umask 0027`,
    );
  else findings.ok('umask', octal(mask));
  await tellClock(findings, signal);
  await tellTimeSync(findings, signal);
  return findings.list;
}

/** Files that hold secrets, by the setting that names them. */
export function examineSecretFiles(
  files: readonly { readonly setting: string; readonly path: string }[],
): readonly Finding[] {
  const findings = new Findings('secrets');
  for (const { setting, path } of files) {
    const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0;
    if ((mode & 0o007) !== 0)
      findings.warn(
        setting,
        `every user of the host may read ${path}; take that away: chmod o-rwx ${path}`,
      );
    else findings.ok(setting, `${path} is closed to other users`);
  }
  return findings.list;
}

/** Node raises the soft limit to the hard one when it starts. */
function tellOpenFiles(findings: Findings): void {
  const [, found] = /^Max open files\s+(\d+|unlimited)/m.exec(readText('/proc/self/limits')) ?? [];
  if (found === undefined) return;
  const limit = found === 'unlimited' ? Number.POSITIVE_INFINITY : Number(found);
  if (limit < OPEN_FILES_MIN)
    findings.warn(
      'open files',
      `this user may open ${found} files, and a busy node needs ${OPEN_FILES_MIN}; raise it (systemd: LimitNOFILE=65536, shell: ulimit -n)`,
    );
  else findings.ok('open files', `up to ${found}`);
}

/** Whether the wall clock goes as fast as the one that cannot be set. */
async function tellClock(findings: Findings, signal: AbortSignal): Promise<void> {
  const apartMs = (): number => Date.now() - performance.now();
  const before = apartMs();
  await sleep(CLOCK_WATCH_MS, undefined, { signal });
  const jumpedMs = Math.round(apartMs() - before);
  if (Math.abs(jumpedMs) > CLOCK_JUMP_MS)
    findings.warn(
      'clock',
      `the clock jumped by ${jumpedMs} ms within ${CLOCK_WATCH_MS} ms: times to live are kept by it; look at what sets it`,
    );
  else findings.ok('clock', 'it goes evenly');
}

async function tellTimeSync(findings: Findings, signal: AbortSignal): Promise<void> {
  const asked = ['show', '--property=NTPSynchronized', '--value'];
  const answer = await promisify(execFile)('timedatectl', asked, { signal, timeout: ASK_MS }).then(
    ({ stdout }) => stdout.trim(),
    () => '',
  );
  if (answer === 'yes') findings.ok('time', 'the system keeps its clock by NTP');
  else if (answer === 'no')
    findings.warn(
      'time',
      'the system does not keep its clock by NTP: S3 refuses requests that are 15 minutes off; turn it on (timedatectl set-ntp true)',
    );
  else findings.ok('time', 'the system does not tell whether its clock is kept by NTP');
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function octal(mask: number): string {
  return mask.toString(8).padStart(4, '0');
}
