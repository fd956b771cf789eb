/**
 * Keeps the listeners' certificate that of the files: read anew when a file changes (cert-manager, certbot, a mounted secret),
 * and when asked to (SIGHUP).
 *
 * I1  Files that do not fit together change nothing: the listeners go on with what they have, and the log says so.
 * I2  Changed files are read when they have stopped changing, so that a new certificate is not met with the old key.
 *
 * The files are looked at, not watched: notifications do not come through the links and bind mounts that secrets arrive by.
 */
import { readFileSync, statSync } from 'node:fs';
import { StoreError } from '@ebb/protocol';
import type { Logger } from 'pino';
import { readTlsIdentity, type TlsFiles, type TlsIdentity } from './identity.ts';

const LOOK_MS = 1000;

export interface TlsReload {
  /** Reads the files now. False when the old certificate stays. */
  reload(reason: string): boolean;
  close(): void;
}

/** @throws {StoreError} `config_invalid` */
export function loadTlsIdentity(files: TlsFiles): TlsIdentity {
  const complaints: string[] = [];
  const identity = readTlsIdentity(
    files,
    { readFile: (path) => readFileSync(path, 'utf8'), nowMs: Date.now() },
    (_setting, file, rule, fix) => complaints.push(`${file} ${rule}; ${fix}`),
  );
  if (identity !== undefined) return identity;
  throw new StoreError('config_invalid', complaints.join('\n'), { complaints });
}

export function startTlsReload(options: {
  readonly files: TlsFiles;
  readonly log: Logger;
  readonly apply: (identity: TlsIdentity) => void;
}): TlsReload {
  const { files, log, apply } = options;
  let taken = stateOf(files);
  let seen = taken;

  const reload = (reason: string): boolean => {
    taken = stateOf(files);
    seen = taken;
    try {
      const identity = loadTlsIdentity(files);
      apply(identity);
      const expiresAt = new Date(identity.expiresAtMs).toISOString();
      log.info({ reason, subject: identity.subject, expiresAt }, 'certificate taken');
      for (const warning of identity.warnings) log.warn(warning);
      return true;
    } catch (error) {
      log.error({ reason, err: error }, 'the new certificate is not usable; the old one stays');
      return false;
    }
  };
  const look = setInterval(() => {
    const found = stateOf(files);
    const isStill = found === seen;
    seen = found;
    if (isStill && found !== taken) reload('the files changed');
  }, LOOK_MS);
  look.unref();
  return { reload, close: () => clearInterval(look) };
}

/** Equal while no file was replaced or written to. */
function stateOf({ certFile, keyFile, clientCaFile }: TlsFiles): string {
  return [certFile, keyFile, clientCaFile]
    .map((file) => {
      const found = file === null ? undefined : statSync(file, { throwIfNoEntry: false });
      return found === undefined ? '' : [found.dev, found.ino, found.size, found.mtimeMs].join();
    })
    .join(';');
}
