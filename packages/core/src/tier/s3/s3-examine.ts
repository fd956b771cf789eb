/**
 * Tries out what a tier needs of a store, under a prefix of its own, and tells what was found. In the worker only.
 *
 * I1  Nothing stays: objects and uploads that were made are removed at the end, also after a failure or an abort. Only what was
 *     made here is touched.
 * I2  A store that cannot be reached or asked is one observation; what comes after it is not tried.
 * I3  An ability that is missing is told with what Ebb does without it.
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  PutObjectCommand,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { MiB, StoreError } from '@ebb/protocol';
import { crc32c, formatCrc32c } from '../../checksum.ts';
import { S3_CLEANUP_MS } from '../../limits.ts';
import { type Attempt, type S3Connection, stopIfAborted } from './s3-connection.ts';
import { headObject, listObjects, quoteEtag } from './s3-objects.ts';
import type { S3Observation } from './s3-protocol.ts';

const SMALL_OBJECTS = 10;
const SMALL_BYTES = 1024;
/** The smallest that S3 takes as a part that is not the last. */
const PART_BYTES = 5 * MiB;
/** S3 refuses requests whose time is 15 minutes off. */
const SKEW_MS_MAX = 15 * 60_000;
/** Answers tell their time in whole seconds. */
const SKEW_MS_NOTED = 5_000;
const SLOW_MS = 500;
/** No object has such an ETag. */
const NOBODYS = '"ebb-none"';

/** @throws `aborted`, when everything was removed */
export async function examineStore(
  connection: S3Connection,
  keyPrefix: string,
  signal: AbortSignal,
): Promise<readonly S3Observation[]> {
  const examination = new Examination(connection, keyPrefix, signal);
  try {
    await examination.run();
  } finally {
    await examination.cleanUp();
  }
  stopIfAborted(signal);
  return examination.observations;
}

interface Made {
  readonly key: string;
  readonly uploadId: string;
}

class Examination {
  readonly observations: S3Observation[] = [];
  readonly #connection: S3Connection;
  readonly #keyPrefix: string;
  readonly #signal: AbortSignal;
  /** With the versions that a bucket which keeps them made: deleted by their ids, nothing of them stays. */
  readonly #keys = new Map<string, Set<string>>();
  readonly #uploads = new Set<Made>();

  constructor(connection: S3Connection, keyPrefix: string, signal: AbortSignal) {
    this.#connection = connection;
    this.#keyPrefix = keyPrefix;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    if (!(await this.#try('reachable', async () => await this.#reach()))) return;
    if (!(await this.#try('write and read', async () => await this.#small()))) return;
    await this.#try('checksums', async () => await this.#checksums());
    await this.#try('ETags', async () => await this.#etags());
    await this.#try('conditional writes', async () => await this.#conditions());
    await this.#try('conditional reads', async () => await this.#conditionalReads());
    await this.#try('conditional deletes', async () => await this.#conditionalDeletes());
    await this.#try('ranges', async () => await this.#ranges());
    const isWhole = await this.#try('multipart uploads', async () => await this.#multipart());
    await this.#try('aborted uploads', async () => await this.#abortedUpload());
    if (isWhole) await this.#try('copies of parts', async () => await this.#copy());
    await this.#try('delete', async () => await this.#delete());
  }

  async cleanUp(): Promise<void> {
    let left = '';
    for (const upload of this.#uploads)
      await this.#abort(upload, NEVER).catch((error: unknown) => {
        left = this.#explain(error);
      });
    for (const key of this.#keys.keys())
      await this.#remove(key, NEVER).catch((error: unknown) => {
        left = this.#explain(error);
      });
    if (left !== '')
      this.#note(
        'fail',
        'clean up',
        `something may be left below ${this.#keyPrefix}; remove it (${left})`,
      );
  }

  async #reach(): Promise<void> {
    // Not HEAD: refusals of it have no words.
    await listObjects(this.#connection, { keyPrefix: this.#keyPrefix }, this.#signal);
    const { target } = this.#connection.config;
    const style = target.pathStyle ? 'the bucket in the path' : 'the bucket in the host name';
    const where =
      target.endpoint ?? `AWS${target.region === undefined ? '' : `, ${target.region}`}`;
    this.#note(
      'ok',
      'reachable',
      `${where} answers for the bucket ${target.bucket} (${style}), and takes the credentials`,
    );
  }

  async #small(): Promise<void> {
    const [puts, gets]: [number[], number[]] = [[], []];
    const content = Buffer.alloc(SMALL_BYTES, 'ebb doctor ');
    let skewMs = 0;
    for (let index = 0; index < SMALL_OBJECTS; index++) {
      const key = this.#key(`small-${index}`);
      const putMs = performance.now();
      const sentAtMs = Date.now();
      const output = await this.#put(key, content);
      puts.push(performance.now() - putMs);
      skewMs = this.#connection.dateOf(output) - (sentAtMs + Date.now()) / 2;
      const getMs = performance.now();
      const found = await this.#get(key);
      gets.push(performance.now() - getMs);
      if (!found.equals(content)) throw wrong(`reading ${key}: other bytes came than were put`);
    }
    const [put, get] = [median(puts), median(gets)];
    this.#note(
      put > SLOW_MS || get > SLOW_MS ? 'warn' : 'ok',
      'write and read',
      `a small put takes ${put} ms, a get ${get} ms (median of ${SMALL_OBJECTS})${
        put > SLOW_MS || get > SLOW_MS
          ? ': that is slow; writes with ack=remote wait for it, look at the way to the store'
          : ''
      }`,
    );
    this.#clock(skewMs);
  }

  #clock(skewMs: number): void {
    const off = Math.abs(skewMs);
    const shown = `${Math.round(off / 1000)} s ${skewMs > 0 ? 'behind' : 'ahead of'} the store's`;
    if (off >= SKEW_MS_MAX)
      this.#note('fail', 'clock', `this host's clock is ${shown}: S3 refuses that; set the clock`);
    else if (off >= SKEW_MS_NOTED)
      this.#note('warn', 'clock', `this host's clock is ${shown}; keep both by NTP`);
    else this.#note('ok', 'clock', "this host's clock and the store's agree");
  }

  async #checksums(): Promise<void> {
    const content = Buffer.from('checked');
    const key = this.#key('checked');
    const sum = base64(crc32c(content));
    let output: { readonly ChecksumCRC32C?: string | undefined };
    try {
      output = await this.#put(key, content, { ChecksumCRC32C: sum });
    } catch (error) {
      stopIfAborted(this.#signal);
      this.#note(
        'warn',
        'checksums',
        `the store refuses a CRC32C with a put: Ebb sends none there, and compares the MD5 that is the ETag (${this.#explain(error)})`,
      );
      return;
    }
    const isRefused = await this.#put(key, content, { ChecksumCRC32C: base64(1) }).then(
      () => false,
      (error: unknown) => {
        stopIfAborted(this.#signal);
        if (error instanceof StoreError && Number(error.details['status']) === 400) return true;
        throw error;
      },
    );
    if (output.ChecksumCRC32C !== sum)
      this.#note(
        'warn',
        'checksums',
        'the store repeats no CRC32C: Ebb compares the MD5 that is the ETag, and reads back what it puts where it is none',
      );
    else if (!isRefused)
      this.#note(
        'warn',
        'checksums',
        'the store repeats a CRC32C without checking it: bytes that change on the way are found when they are read',
      );
    else this.#note('ok', 'checksums', 'the store checks CRC32C and repeats it');
  }

  async #etags(): Promise<void> {
    const key = this.#key('etag');
    const { ETag } = await this.#put(key, Buffer.from('one'));
    const heads = [await this.#head(key), await this.#head(key)];
    if (
      ETag === undefined ||
      heads.some((head) => head?.etag === undefined || quoteEtag(head.etag) !== ETag)
    )
      this.#note(
        'fail',
        'ETags',
        'an object that nobody changed has another ETag each time: Ebb would take it for changed; use another store',
      );
    else this.#note('ok', 'ETags', 'an object keeps its ETag');
  }

  async #conditions(): Promise<void> {
    const key = this.#key('condition');
    await this.#put(key, Buffer.from('first'));
    let refusal: StoreError | undefined;
    try {
      await this.#put(key, Buffer.from('second'), { IfNoneMatch: '*' });
    } catch (error) {
      stopIfAborted(this.#signal);
      refusal = this.#connection.toError(error, 'putting under a condition');
    }
    if (refusal?.code === 'precondition_failed') {
      this.#note('ok', 'conditional writes', 'If-None-Match is kept');
      return;
    }
    const how = refusal === undefined ? 'ignores' : 'refuses';
    const why = refusal === undefined ? '' : ` (${refusal.message})`;
    this.#note(
      'warn',
      'conditional writes',
      `the store ${how} If-None-Match${why}: programs that count on it may overwrite each other there; Ebb asks what is there right before`,
    );
  }

  async #conditionalReads(): Promise<void> {
    const key = this.#key('condition');
    const isKept = await this.#isRefused(
      async () => void (await this.#get(key, { IfMatch: NOBODYS })),
    );
    if (isKept) this.#note('ok', 'conditional reads', 'If-Match is kept');
    else
      this.#note(
        'warn',
        'conditional reads',
        'the store ignores If-Match of a read: Ebb compares the ETag of each answer; programs that count on it may mix two versions of an object',
      );
  }

  async #conditionalDeletes(): Promise<void> {
    const key = this.#key('condition');
    const isRefused = await this.#isRefused(async () => {
      await this.#request(`deleting ${key}`, async ({ signal: abortSignal }) => {
        const at = { Bucket: this.#connection.bucket, Key: key, IfMatch: NOBODYS };
        await this.#connection.client.send(new DeleteObjectCommand(at), { abortSignal });
      });
    });
    const isThere = (await headObject(this.#connection, key, this.#signal)) !== undefined;
    if (isRefused && isThere) this.#note('ok', 'conditional deletes', 'If-Match is kept');
    else
      this.#note(
        'warn',
        'conditional deletes',
        'the store ignores If-Match of a delete: Ebb asks what is there right before, and what others put there in between is deleted',
      );
  }

  async #ranges(): Promise<void> {
    const key = this.#key('small-0');
    const whole = await this.#get(key);
    const part = await this.#get(key, { Range: 'bytes=7-99' });
    if (part.equals(whole.subarray(7, 100))) this.#note('ok', 'ranges', 'ranges are given');
    else
      this.#note(
        'fail',
        'ranges',
        `the store gives ${part.length} bytes for a range of 93: objects above 8 MiB cannot be read there; use another store`,
      );
  }

  /** Whether the store answers that the condition does not hold, or that it takes none. */
  async #isRefused(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return false;
    } catch (error) {
      stopIfAborted(this.#signal);
      const { code, details } = this.#connection.toError(error, 'asking under a condition');
      if (code === 'precondition_failed' || details['status'] === 501) return true;
      throw error;
    }
  }

  async #multipart(): Promise<void> {
    const upload = await this.#begin('multipart');
    const content = [Buffer.alloc(PART_BYTES, 1), Buffer.from('the last part')];
    const Parts: { PartNumber: number; ETag: string | undefined }[] = [];
    for (const [index, Body] of content.entries()) {
      const ETag = await this.#part(upload, index + 1, Body);
      Parts.push({ PartNumber: index + 1, ETag });
    }
    const listed = await this.#request('listing parts', async ({ signal: abortSignal }) => {
      const command = new ListPartsCommand(this.#at(upload));
      return await this.#connection.client.send(command, { abortSignal });
    });
    if (listed.Parts?.length !== Parts.length)
      throw wrong('listing parts: not those that were put');
    this.#made(upload.key);
    const { VersionId } = await this.#request(
      'completing an upload',
      async ({ signal: abortSignal }) => {
        const command = new CompleteMultipartUploadCommand({
          ...this.#at(upload),
          MultipartUpload: { Parts },
        });
        return await this.#connection.client.send(command, { abortSignal });
      },
    );
    this.#uploads.delete(upload);
    this.#made(upload.key, VersionId);
    const sizeBytes = content.reduce((sum, { length }) => sum + length, 0);
    if ((await this.#head(upload.key))?.sizeBytes !== sizeBytes)
      throw wrong('completing an upload: the object has another length than its parts');
    this.#note('ok', 'multipart uploads', 'parts of 5 MiB are taken, listed and joined');
  }

  async #abortedUpload(): Promise<void> {
    const upload = await this.#begin('aborted');
    await this.#part(upload, 1, Buffer.from('never'));
    await this.#abort(upload, this.#signal);
    const { Uploads = [] } = await this.#request(
      'listing uploads',
      async ({ signal: abortSignal }) => {
        const command = new ListMultipartUploadsCommand({
          Bucket: this.#connection.bucket,
          Prefix: upload.key,
        });
        return await this.#connection.client.send(command, { abortSignal });
      },
    );
    if (Uploads.some(({ UploadId }) => UploadId === upload.uploadId))
      this.#note(
        'warn',
        'aborted uploads',
        'an aborted upload is still listed: parts of failed uploads may stay; let a lifecycle rule of the bucket remove them',
      );
    else this.#note('ok', 'aborted uploads', 'an upload that is aborted goes');
  }

  async #copy(): Promise<void> {
    const upload = await this.#begin('copied');
    const { bucket, client } = this.#connection;
    const from = this.#key('multipart').split('/').map(encodeURIComponent).join('/');
    try {
      await this.#request('copying a part', async ({ signal: abortSignal }) => {
        const range = {
          CopySource: `${bucket}/${from}`,
          CopySourceRange: `bytes=1-${PART_BYTES - 1}`,
        };
        const command = new UploadPartCopyCommand({ ...this.#at(upload), PartNumber: 1, ...range });
        return await client.send(command, { abortSignal });
      });
      this.#note('ok', 'copies of parts', 'the store copies ranges of its objects');
    } catch (error) {
      stopIfAborted(this.#signal);
      this.#note(
        'warn',
        'copies of parts',
        `the store copies no ranges of its objects: objects that share bytes are refused there (${this.#explain(error)})`,
      );
    }
    await this.#abort(upload, this.#signal);
  }

  async #delete(): Promise<void> {
    for (const key of [...this.#keys.keys()]) {
      await this.#remove(key, this.#signal);
      if ((await headObject(this.#connection, key, this.#signal)) !== undefined)
        throw wrong(`deleting ${key}: it is still there`);
    }
    const { entries } = await listObjects(
      this.#connection,
      { keyPrefix: this.#keyPrefix },
      this.#signal,
    );
    if (entries.length > 0)
      this.#note(
        'warn',
        'delete',
        'objects that were deleted are still listed: the store lists late, and ebb sync may see what is gone',
      );
    else this.#note('ok', 'delete', 'what is deleted is gone');
  }

  /** False, with an observation, where the work failed. An abort ends everything. */
  async #try(check: string, work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      stopIfAborted(this.#signal);
      this.#note('fail', check, this.#explain(error));
      return false;
    }
  }

  #note(level: S3Observation['level'], check: string, says: string): void {
    this.observations.push({ check, level, says });
  }

  #explain(error: unknown): string {
    return this.#connection.toError(error, 'trying the store').message;
  }

  #key(name: string): string {
    return `${this.#keyPrefix}${name}`;
  }

  #made(key: string, versionId?: string): void {
    const versions = this.#keys.get(key) ?? new Set();
    if (versionId !== undefined && versionId !== 'null') versions.add(versionId);
    this.#keys.set(key, versions);
  }

  async #remove(key: string, signal: AbortSignal): Promise<void> {
    const { bucket, client } = this.#connection;
    const versions = [...(this.#keys.get(key) ?? [])];
    for (const VersionId of versions.length === 0 ? [undefined] : versions)
      await this.#connection.request(
        { doing: `deleting ${key}`, signal, stallMs: S3_CLEANUP_MS },
        async ({ signal: abortSignal }) => {
          const command = new DeleteObjectCommand({
            ...{ Bucket: bucket, Key: key },
            ...(VersionId === undefined ? {} : { VersionId }),
          });
          await client.send(command, { abortSignal });
        },
      );
    this.#keys.delete(key);
  }

  #at({ key, uploadId }: Made): { Bucket: string; Key: string; UploadId: string } {
    return { Bucket: this.#connection.bucket, Key: key, UploadId: uploadId };
  }

  async #request<T>(doing: string, work: (attempt: Attempt) => Promise<T>): Promise<T> {
    return await this.#connection.request({ doing, signal: this.#signal }, work);
  }

  /** Noted before it is made: an answer may be lost. */
  async #put(
    key: string,
    Body: Buffer,
    options: { ChecksumCRC32C?: string; IfNoneMatch?: string } = {},
  ): Promise<{ ETag?: string | undefined; ChecksumCRC32C?: string | undefined }> {
    this.#made(key);
    const output = await this.#request(`putting ${key}`, async ({ signal: abortSignal }) => {
      const command = new PutObjectCommand({
        Bucket: this.#connection.bucket,
        Key: key,
        Body,
        ...options,
      });
      return await this.#connection.client.send(command, { abortSignal });
    });
    this.#made(key, output.VersionId);
    return output;
  }

  async #get(
    key: string,
    options: { readonly IfMatch?: string; readonly Range?: string } = {},
  ): Promise<Buffer> {
    return await this.#request(`reading ${key}`, async ({ signal: abortSignal }) => {
      const asked = { Bucket: this.#connection.bucket, Key: key, ...options };
      const command = new GetObjectCommand(asked);
      const { Body } = await this.#connection.client.send(command, { abortSignal });
      return Buffer.from((await Body?.transformToByteArray()) ?? []);
    });
  }

  async #head(
    key: string,
  ): Promise<{ readonly etag: string; readonly sizeBytes: number } | undefined> {
    return await this.#request(`looking for ${key}`, async ({ signal: abortSignal }) => {
      const command = new HeadObjectCommand({ Bucket: this.#connection.bucket, Key: key });
      const { ETag = '', ContentLength = 0 } = await this.#connection.client.send(command, {
        abortSignal,
      });
      return { etag: ETag.replaceAll('"', ''), sizeBytes: ContentLength };
    });
  }

  /** One try, and not aborted: an upload that was created must be known. */
  async #begin(name: string): Promise<Made> {
    stopIfAborted(this.#signal);
    const key = this.#key(name);
    const { bucket, client } = this.#connection;
    const { UploadId = '' } = await this.#connection.request(
      { doing: `beginning the upload of ${key}`, signal: NEVER, attempts: 1 },
      async ({ signal: abortSignal }) =>
        await client.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: key }), {
          abortSignal,
        }),
    );
    const made = { key, uploadId: UploadId };
    this.#uploads.add(made);
    return made;
  }

  async #part(upload: Made, PartNumber: number, Body: Buffer): Promise<string | undefined> {
    const { ETag } = await this.#request(
      `putting a part of ${upload.key}`,
      async ({ signal: abortSignal }) => {
        const command = new UploadPartCommand({ ...this.#at(upload), PartNumber, Body });
        return await this.#connection.client.send(command, { abortSignal });
      },
    );
    return ETag;
  }

  async #abort(upload: Made, signal: AbortSignal): Promise<void> {
    const options = {
      doing: `aborting the upload of ${upload.key}`,
      signal,
      stallMs: S3_CLEANUP_MS,
    };
    await this.#connection.request(options, async ({ signal: abortSignal }) => {
      await this.#connection.client.send(new AbortMultipartUploadCommand(this.#at(upload)), {
        abortSignal,
      });
    });
    this.#uploads.delete(upload);
  }
}

const NEVER = new AbortController().signal;

function wrong(message: string): StoreError {
  return new StoreError('io_failed', message, { status: 0, s3Code: '', retryable: false });
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return Math.round((sorted[Math.floor(sorted.length / 2)] as number) * 10) / 10;
}

function base64(sum: number): string {
  return Buffer.from(formatCrc32c(sum), 'hex').toString('base64');
}
