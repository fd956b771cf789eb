import { Command } from '@commander-js/extra-typings';
import {
  isObjectUrl,
  type ObjectName,
  parseObjectKey,
  parseObjectName,
  toPrefix,
} from '@ebb/client';
import { StoreError } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { download } from './download.ts';
import { countArgument, examples, jsonOption, nodeOption, recursiveOption } from './options.ts';
import { type Session, withClient } from './session.ts';
import { forEachParallel, PARALLEL_DEFAULT, type Transferred, targetKey } from './transfer.ts';
import { reportTransfer, upload } from './upload.ts';

interface CopyOptions {
  readonly recursive?: boolean | undefined;
  readonly overwrite: boolean;
  readonly parallel: number;
  readonly json?: boolean | undefined;
}

export function create(): AnyCommand {
  return new Command('cp')
    .argument(
      '<from>',
      'ebb://bucket/key or bucket/key; a local file starts with ./ ../ / or is "-"',
    )
    .argument('<to>', 'the same')
    .addOption(recursiveOption)
    .option('--no-overwrite', 'refuse when the target exists')
    .option('--parallel <n>', 'objects under way at a time', countArgument, PARALLEL_DEFAULT)
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb cp ./report.csv ebb://results/2026/report.csv',
        'ebb cp ebb://results/2026/report.csv ebb://archive/r.csv   # shares the bytes',
        'ebb cp -r ebb://models/v7 ./model',
      ),
    )
    .action(async (from, to, options) => {
      const places = { from: parsePlace(from), to: parsePlace(to) };
      await withClient(options, (session) => copy(session, places, options));
    });
}

type Place = { readonly file: string } | { readonly object: ObjectName };

export function parsePlace(text: string): Place {
  if (isObjectUrl(text)) return { object: parseObjectName(text) };
  const isFile = text === '-' || text === '.' || text === '..' || /^(\.{1,2}\/|\/)/.test(text);
  return isFile ? { file: text } : { object: parseObjectName(text) };
}

async function copy(
  session: Session,
  { from, to }: { readonly from: Place; readonly to: Place },
  options: CopyOptions,
): Promise<void> {
  if ('object' in from && 'object' in to) {
    await copyObjects(session, from.object, to.object, options);
  } else if ('object' in to && 'file' in from) {
    const put = options.overwrite ? {} : { ifNoneMatch: '*' as const };
    await upload(session, from.file, to.object, { ...options, put });
  } else if ('object' in from && 'file' in to) {
    await download(session, from.object, to.file, options);
  } else {
    throw new StoreError('request_invalid', 'one side must be an object: ebb://bucket/key');
  }
}

async function copyObjects(
  { client, signal }: Session,
  from: ObjectName,
  to: ObjectName,
  options: CopyOptions,
): Promise<void> {
  const { overwrite } = options;
  const done: Transferred[] = [];
  const copyOne = async (source: ObjectName, target: ObjectName): Promise<void> => {
    const { key, sizeBytes } = await client.copy(source, target, { overwrite, signal });
    done.push({ name: key, sizeBytes });
  };
  if (options.recursive === true) {
    const prefixes = { from: toPrefix(from.key), to: toPrefix(to.key) };
    const objects = client.listAll(from.bucket, { prefix: prefixes.from, signal });
    await forEachParallel(objects, options.parallel, ({ bucket, key }) =>
      copyOne(
        { bucket, key },
        { bucket: to.bucket, key: prefixes.to + key.slice(prefixes.from.length) },
      ),
    );
    if (done.length === 0) {
      throw new StoreError('not_found', `no objects under ebb://${from.bucket}/${prefixes.from}`);
    }
  } else {
    const source = parseObjectKey(`${from.bucket}/${from.key}`);
    await copyOne(source, targetKey(to, source.key));
  }
  await reportTransfer(done, to.bucket, { json: options.json, verb: 'copied to' });
}
