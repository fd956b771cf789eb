/** What `put` and `cp` do with local files. */
import { type ObjectName, type PutOptions, toPrefix } from '@ebb/client';
import { formatBytes, StoreError } from '@ebb/protocol';
import { count, printJson, printLine } from './output.ts';
import { createProgress } from './progress.ts';
import type { Session } from './session.ts';
import {
  forEachParallel,
  type Transferred,
  targetKey,
  uploadFile,
  uploadStdin,
  walkFiles,
} from './transfer.ts';

export interface UploadOptions {
  readonly recursive?: boolean | undefined;
  readonly parallel: number;
  readonly json?: boolean | undefined;
  readonly put: PutOptions;
}

/** A file, `-`, or with `recursive` a directory. */
export async function upload(
  session: Session,
  source: string,
  to: ObjectName,
  options: UploadOptions,
): Promise<void> {
  const progress = createProgress(source === '-' ? 'stdin' : source);
  const put = { ...options.put, progress };
  const done: Transferred[] = [];
  try {
    if (options.recursive === true) {
      const prefix = toPrefix(to.key);
      await forEachParallel(walkFiles(source), options.parallel, async ({ path, name }) => {
        const target = { bucket: to.bucket, key: prefix + name };
        done.push(await uploadFile(session, path, target, put));
      });
    } else if (source === '-') {
      if (to.key === '' || to.key.endsWith('/')) {
        throw new StoreError('name_invalid', 'standard input has no name; give the whole key');
      }
      done.push(await uploadStdin(session, to, put));
    } else {
      done.push(await uploadFile(session, source, targetKey(to, source), put));
    }
  } finally {
    progress.end();
  }
  await reportTransfer(done, to.bucket, { json: options.json, verb: 'stored' });
}

export async function reportTransfer(
  done: readonly Transferred[],
  bucket: string,
  options: { readonly json?: boolean | undefined; readonly verb: string },
): Promise<void> {
  const sizeBytes = done.reduce((sum, item) => sum + item.sizeBytes, 0);
  if (options.json === true) {
    const objects = done.map((item) => ({ bucket, key: item.name, sizeBytes: item.sizeBytes }));
    await printJson({ objects, sizeBytes });
    return;
  }
  const only = done[0];
  const what =
    done.length === 1 && only !== undefined
      ? `ebb://${bucket}/${only.name}`
      : count(done.length, 'object');
  await printLine(`${options.verb} ${what} (${formatBytes(sizeBytes)})`);
}
