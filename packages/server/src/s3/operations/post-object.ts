/**
 * PostObject: an HTML form that uploads a file, allowed by a policy that somebody with a key has signed. The file is
 * stored as it comes, in the same way as a PUT.
 */
import type { IncomingMessage } from 'node:http';
import type { Committed, StagedWrite } from '@ebb/core';
import { HEADERS } from '@ebb/protocol';
import type { ReceivedBody } from '../../http/data/receive-body.ts';
import { stageBody } from '../../http/data/stage-body.ts';
import { encodeHeader } from '../../http/header-text.ts';
import {
  checkTags,
  DEFAULT_CONTENT_TYPE,
  formatChecksum,
  formatTags,
  parseAttributes,
  parseMetadata,
} from '../attributes.ts';
import { type AccessKey, mayDo } from '../auth/key-ring.ts';
import { planBody } from '../body.ts';
import { locationOf, type S3Call, sendEmpty } from '../call.ts';
import {
  type FormFields,
  FormFileDecoder,
  formBoundary,
  readFormFields,
} from '../form/form-fields.ts';
import { assertPostPolicy, type PostPolicy, parsePostPolicy } from '../form/post-policy.ts';
import { refuseUnoffered } from '../refused-headers.ts';
import { S3Error } from '../s3-error.ts';
import { assertKeyLength } from '../target.ts';
import { buildPlainXml } from '../xml.ts';
import { parseTagging } from './subresources.ts';
import { tellVersion } from './versions.ts';

/** A form carries its signature within: the request itself has none. */
export function isForm({ method, headers }: IncomingMessage): boolean {
  return method === 'POST' && /^multipart\/form-data\b/i.test(headers['content-type'] ?? '');
}

export async function postObject(call: S3Call): Promise<void> {
  const { request, response, expectsContinue, context } = call;
  const boundary = formBoundary(request.headers['content-type']);
  if (expectsContinue) response.writeContinue(); // the policy is in the body
  const form = await readFormFields(request, boundary);
  const key = formKey(form);
  const policy = admit(call, form, key);
  await context.store.getBucket(call.bucket);

  const headers = formHeaders(form);
  refuseUnoffered(headers);
  const attributes = { ...parseAttributes(headers), ...(await formTags(form)) };
  const metadata = parseMetadata(headers);
  const contentType = form.fields.get('content-type') || form.fileType || DEFAULT_CONTENT_TYPE;
  // How long the file is shows at its end: so no length is announced, and none is checked.
  const plan = planBody({
    headers: { ...headers, 'transfer-encoding': 'chunked' },
    auth: call.auth,
  });
  const decoder = new FormFileDecoder(boundary);
  const limit = sizeLimit(policy);
  const length = Number(request.headers['content-length'] ?? Number.NaN);
  const body = {
    ...{ request, response, expectsContinue: false, arrivingBytes: undefined },
    dataBytes: Number.isNaN(length) ? undefined : Math.max(0, length - form.consumedBytes),
    receive: {
      ...plan.receive,
      unframe: (arrived: Buffer, emit: (data: Buffer) => void) =>
        decoder.push(arrived, limit.counting(emit)),
    },
  };
  const commit = async ({ writeId }: StagedWrite, received: ReceivedBody) => {
    decoder.end();
    limit.assertEnough(received.sizeBytes);
    const checksum = await plan.finish(received);
    return await context.store.commit(context.owner, writeId, {
      ...{
        sizeBytes: received.sizeBytes,
        crc32c: received.crc32c,
        blocks: received.blocks,
        metadata,
      },
      attributes:
        checksum === undefined ? attributes : { ...attributes, checksum: formatChecksum(checksum) },
      contentType,
    });
  };
  const committed = await stageBody({ bucket: call.bucket, key }, body, context, commit);
  await tellVersion(call, committed.object);
  sendPosted(call, form, committed);
}

/** @throws {S3Error} `InvalidArgument`, `KeyTooLongError` */
function formKey({ fields, fileName }: FormFields): string {
  const key = fields.get('key')?.replaceAll('${filename}', fileName) ?? '';
  if (key === '')
    throw new S3Error(
      'InvalidArgument',
      "Bucket POST must contain a field named 'key'.  If it is specified, please check the order of the fields.",
      { ArgumentName: 'key', ArgumentValue: '' },
    );
  assertKeyLength(key);
  return key;
}

/** @throws {S3Error} `AccessDenied`, and those of the signature and of the policy */
function admit(call: S3Call, { fields }: FormFields, key: string): PostPolicy | undefined {
  const { keys, verifier, now } = call.context;
  const text = fields.get('policy');
  if (!keys.isOpen) {
    const accessKey = signerOf(fields, verifier);
    if (!mayDo(accessKey, 'write', { bucket: call.bucket, key })) throw new S3Error('AccessDenied');
  }
  if (text === undefined) return undefined;
  const policy = parsePostPolicy(text);
  assertPostPolicy(policy, new Map([...fields, ['key', key], ['bucket', call.bucket]]), now());
  return policy;
}

function signerOf(
  fields: ReadonlyMap<string, string>,
  verifier: S3Call['context']['verifier'],
): AccessKey {
  const policy = fields.get('policy');
  const [algorithm, credential, signature] = [
    fields.get('x-amz-algorithm'),
    fields.get('x-amz-credential'),
    fields.get('x-amz-signature'),
  ];
  if (fields.has('awsaccesskeyid') && signature === undefined)
    throw new S3Error(
      'InvalidRequest',
      'The authorization mechanism that you have provided is not supported. Please use AWS4-HMAC-SHA256.',
    );
  if (policy === undefined || credential === undefined || signature === undefined)
    throw new S3Error('AccessDenied');
  if (algorithm !== 'AWS4-HMAC-SHA256')
    throw new S3Error('InvalidArgument', 'x-amz-algorithm must be AWS4-HMAC-SHA256', {
      ArgumentName: 'x-amz-algorithm',
      ArgumentValue: algorithm ?? '',
    });
  return verifier.verifyPolicy({ policy, credential, signature });
}

/** Fields that are headers of a PUT, as such. */
function formHeaders({ fields }: FormFields): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, value] of fields) {
    if (name === 'acl') headers['x-amz-acl'] = value;
    else if (name !== 'x-amz-algorithm' && name !== 'tagging') headers[name] = encodeHeader(value);
  }
  return headers;
}

/** In a form they are a document. */
async function formTags({ fields }: FormFields): Promise<Record<string, string>> {
  const xml = fields.get('tagging');
  if (xml === undefined || xml === '') return {};
  const tags = await parseTagging(xml);
  checkTags(tags);
  return formatTags(tags);
}

interface SizeLimit {
  counting(emit: (data: Buffer) => void): (data: Buffer) => void;
  assertEnough(sizeBytes: number): void;
}

/** A file that is too long is cut off where it becomes so. */
function sizeLimit(policy: PostPolicy | undefined): SizeLimit {
  const { min, max } = policy?.sizeBytes ?? { min: 0, max: Number.MAX_SAFE_INTEGER };
  let sizeBytes = 0;
  return {
    counting: (emit) => (data) => {
      sizeBytes += data.length;
      if (sizeBytes > max)
        throw new S3Error('EntityTooLarge', undefined, {
          ProposedSize: sizeBytes,
          MaxSizeAllowed: max,
        });
      emit(data);
    },
    assertEnough: (received) => {
      if (received < min)
        throw new S3Error('EntityTooSmall', undefined, {
          ProposedSize: received,
          MinSizeAllowed: min,
        });
    },
  };
}

/** Where the form says: a page, or a status with or without a document. */
function sendPosted(call: S3Call, { fields }: FormFields, { object, durability }: Committed): void {
  const { response } = call;
  const etag = `"${object.etag}"`;
  const location = locationOf(call, object.key);
  const headers = { etag, [HEADERS.durability]: durability };
  const redirect = parseRedirect(fields.get('success_action_redirect') ?? fields.get('redirect'));
  if (redirect !== undefined) {
    for (const [name, value] of [
      ['bucket', object.bucket],
      ['key', object.key],
      ['etag', etag],
    ] as const)
      redirect.searchParams.append(name, value);
    sendEmpty(call, 303, { ...headers, location: redirect.href });
    return;
  }
  const status = fields.get('success_action_status');
  if (status !== '201') {
    sendEmpty(call, status === '200' ? 200 : 204, { ...headers, location });
    return;
  }
  const body = Buffer.from(
    buildPlainXml('PostResponse', {
      ...{ Location: location, Bucket: object.bucket, Key: object.key, ETag: etag },
    }),
  );
  response.writeHead(201, {
    ...{ ...headers, location, 'content-type': 'application/xml', 'content-length': body.length },
  });
  response.end(body);
}

/** One that cannot be read is as if it were not there. */
function parseRedirect(text: string | undefined): URL | undefined {
  if (text === undefined || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  return url.protocol === 'http:' || url.protocol === 'https:' ? url : undefined;
}
