/** What `get` and `cp` do with local files. */
import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type ObjectName, toPrefix } from '@ebb/client';
import { StoreError } from '@ebb/protocol';
import { createProgress } from './progress.ts';
import type { Session } from './session.ts';
import {
  downloadFile,
  forEachParallel,
  localPath,
  readIntoStream,
  type Transferred,
} from './transfer.ts';
import { reportTransfer } from './upload.ts';

export interface DownloadOptions {
  readonly recursive?: boolean | undefined;
  readonly parallel: number;
  readonly json?: boolean | undefined;
}

/** To a file, into a directory, or to `-`. */
export async function download(
  session: Session,
  from: ObjectName,
  target: string,
  options: DownloadOptions,
): Promise<void> {
  if (target === '-' && options.recursive !== true) {
    await readIntoStream(session.client, from, session);
    return;
  }
  const progress = createProgress(`${from.bucket}/${from.key}`);
  const done: Transferred[] = [];
  try {
    if (options.recursive === true) {
      const prefix = toPrefix(from.key);
      const objects = session.client.listAll(from.bucket, { prefix, signal: session.signal });
      await forEachParallel(objects, options.parallel, async ({ bucket, key }) => {
        const file = localPath(target, key.slice(prefix.length));
        done.push(await downloadFile(session, { bucket, key }, file, { progress }));
      });
      if (done.length === 0) {
        throw new StoreError('not_found', `no objects under ebb://${from.bucket}/${prefix}`);
      }
    } else {
      const file = await targetFile(target, from.key);
      done.push(await downloadFile(session, from, file, { progress }));
    }
  } finally {
    progress.end();
  }
  await reportTransfer(done, from.bucket, { json: options.json, verb: 'fetched' });
}

/** A directory takes the last part of the key as the file's name. */
async function targetFile(target: string, key: string): Promise<string> {
  const found = await stat(target).catch(() => undefined);
  const isFolder = target.endsWith('/') || found?.isDirectory() === true;
  return isFolder ? join(target, basename(key)) : target;
}
