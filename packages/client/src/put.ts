/**
 * Stores one object, by the node-local path or over HTTP.
 *
 * A failed put is repeated when its body can be read again and either nothing was applied, or repeating changes nothing:
 * an unconditional put writes the same bytes under the same name. A conditional one (`ifMatch`, `ifNoneMatch`) whose
 * answer was lost is not repeated: its condition may fail because of itself. Look first (`head`), then decide.
 */
import {
  type Ack,
  HEADERS,
  type messages,
  OPS,
  StoreError,
  TIER_BY_POLICY,
  messages as wire,
} from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { type BodySource, chunksUntil, openBody, type PutBody } from './body.ts';
import type { FrameConnection, FrameSession } from './frame-connection.ts';
import { crcText, createMeter, type HttpClient } from './http-client.ts';
import { SYNC_BYTES } from './limits.ts';
import type { ObjectRef } from './object-info.ts';
import { type RetryPolicy, withRetry } from './retry.ts';
import {
  openStagedFile,
  type SealedWrite,
  type StagedFile,
  type StagedWriterOptions,
  writeFileSync,
} from './staged-writer.ts';

export interface Progress {
  readonly doneBytes: number;
  /** undefined: not known beforehand. */
  readonly totalBytes: number | undefined;
}

export interface CommitOptions {
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly contentType?: string | undefined;
  /** The object must be at this ETag. */
  readonly ifMatch?: string | undefined;
  /** `'*'`: the object must not exist. */
  readonly ifNoneMatch?: '*' | undefined;
  /** What must hold before the call returns; default: the bucket's. */
  readonly ack?: Ack | undefined;
}

export interface PutOptions extends CommitOptions {
  readonly jobId?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

export interface Committed {
  readonly version: number;
  readonly etag: string;
  readonly sizeBytes: number;
  /** 8 hex digits. */
  readonly crc32c: string;
  /** What holds now. */
  readonly durability: Ack;
}

/** A staged object: a staged file whose commit makes it an object version. */
export interface StagedWriter extends StagedFile {
  /** Makes the bytes visible under the name, atomically. After a failure the staged bytes are gone. */
  commit(
    options?: CommitOptions & { readonly signal?: AbortSignal | undefined },
  ): Promise<Committed>;
}

export interface PutContext {
  /** undefined: no node-local path. */
  readonly connection: FrameConnection | undefined;
  readonly http: HttpClient;
  readonly retry: RetryPolicy;
  readonly jobId: string | undefined;
}

export async function putObject(
  context: PutContext,
  ref: ObjectRef,
  body: PutBody,
  options: PutOptions,
): Promise<Committed> {
  const source = await openBody(body);
  const conditional = options.ifMatch !== undefined || options.ifNoneMatch !== undefined;
  const attempt = (): Promise<Committed> =>
    context.connection === undefined
      ? putHttp(context, ref, source, options)
      : putLocal(context, context.connection, ref, source, options);
  if (!source.replayable) return await attempt();
  return await withRetry(
    { policy: context.retry, idempotent: !conditional, signal: options.signal },
    attempt,
  );
}

async function putLocal(
  context: PutContext,
  connection: FrameConnection,
  ref: ObjectRef,
  source: BodySource,
  options: PutOptions,
): Promise<Committed> {
  const jobId = options.jobId ?? context.jobId;
  const { bytes, sizeBytes } = source;
  if (bytes !== undefined && bytes.byteLength <= SYNC_BYTES) {
    return await putSmall(connection, ref, bytes, options, jobId);
  }
  await using writer = await stageObject(connection, ref, {
    jobId,
    reserveBytes: sizeBytes,
    signal: options.signal,
  });
  for await (const chunk of chunksUntil(source, options.signal)) {
    await writer.write(chunk);
    options.onProgress?.({ doneBytes: writer.sizeBytes, totalBytes: sizeBytes });
  }
  return await writer.commit(options);
}

/** Two calls and one short synchronous write: a thread-pool trip would cost more than the copy. */
async function putSmall(
  connection: FrameConnection,
  ref: ObjectRef,
  bytes: Uint8Array,
  options: PutOptions,
  jobId: string | undefined,
): Promise<Committed> {
  const { session, staged } = await stageCall(
    connection,
    ref,
    jobId,
    options.signal,
  )({
    reserveBytes: bytes.byteLength,
    tier: TIER_BY_POLICY,
  });
  const { writeId } = staged;
  try {
    if (bytes.byteLength > 0) await writeSmall(session, staged, bytes);
    const sealed = {
      session,
      writeId,
      sizeBytes: bytes.byteLength,
      crc32c: crc32c(bytes),
      tier: staged.tier,
    };
    const committed = await commitSealed(sealed, options, options.signal);
    options.onProgress?.({ doneBytes: bytes.byteLength, totalBytes: bytes.byteLength });
    return committed;
  } catch (error) {
    await session.call(OPS.abort, wire.abort, { writeId }).catch(() => undefined);
    throw error;
  }
}

async function writeSmall(
  session: FrameSession,
  staged: messages.StagedResponse,
  bytes: Uint8Array,
): Promise<void> {
  if (session.files !== undefined && staged.tier === 0) {
    try {
      writeFileSync(session.files, bytes, staged);
      return;
    } catch (error) {
      // A full tmpfs or a file that is not ours: the node can do better.
      if (
        !(error instanceof StoreError) ||
        (error.code !== 'tier_full' && error.code !== 'io_failed')
      )
        throw error;
    }
  }
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  await session.call(OPS.write, wire.write, { writeId: staged.writeId, offset: 0, data });
}

/** Opens a writer for one object. Needs a frame connection, node-local or not. */
export async function stageObject(
  connection: FrameConnection,
  ref: ObjectRef,
  options: StagedWriterOptions & { readonly jobId?: string | undefined },
): Promise<StagedWriter> {
  const stage = stageCall(connection, ref, options.jobId, options.signal);
  const file = await openStagedFile(stage, { ...options, tierByPolicy: TIER_BY_POLICY });
  return new ObjectWriter(file);
}

function stageCall(
  connection: FrameConnection,
  ref: ObjectRef,
  jobId: string | undefined,
  signal: AbortSignal | undefined,
) {
  return async (request: { readonly reserveBytes: number; readonly tier: number }) => {
    const session = await connection.session(signal);
    const message = { ...ref, ...request, jobId: jobId ?? '' };
    const staged = await session.call(OPS.stage, wire.stage, message, {
      signal,
      undo: ({ writeId }) => session.send(OPS.abort, wire.abort, { writeId }),
    });
    return { session, staged };
  };
}

class ObjectWriter implements StagedWriter {
  readonly #file: StagedFile;

  constructor(file: StagedFile) {
    this.#file = file;
  }

  get writeId() {
    return this.#file.writeId;
  }
  get tier() {
    return this.#file.tier;
  }
  get slotId() {
    return this.#file.slotId;
  }
  get path() {
    return this.#file.path;
  }
  get sizeBytes() {
    return this.#file.sizeBytes;
  }
  get reservedBytes() {
    return this.#file.reservedBytes;
  }
  write(chunk: Uint8Array) {
    return this.#file.write(chunk);
  }
  extend(reserveBytes: number) {
    return this.#file.extend(reserveBytes);
  }
  seal() {
    return this.#file.seal();
  }
  settled() {
    this.#file.settled();
  }
  abort() {
    return this.#file.abort();
  }
  async [Symbol.asyncDispose]() {
    await this.#file.abort();
  }

  async commit(
    options: CommitOptions & { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Committed> {
    const sealed = await this.#file.seal();
    const committed = await commitSealed(sealed, options, options.signal);
    this.#file.settled();
    return committed;
  }
}

async function commitSealed(
  sealed: SealedWrite,
  options: CommitOptions,
  signal: AbortSignal | undefined,
): Promise<Committed> {
  const { session, writeId, sizeBytes, crc32c } = sealed;
  const answer = await session.call(
    OPS.commit,
    wire.commit,
    {
      writeId,
      sizeBytes,
      crc32c,
      ifMatch: options.ifMatch ?? '',
      ifNoneMatch: options.ifNoneMatch !== undefined,
      ack: options.ack,
      contentType: options.contentType ?? '',
      metadata: normalizeMetadata(options.metadata),
    },
    { signal, timeoutMs: 0 }, // tier 2 may take its time; a node that is gone is noticed by the connection
  );
  const { version, etag, durability } = answer;
  return { version, etag, durability, sizeBytes, crc32c: crcText(crc32c) };
}

async function putHttp(
  context: PutContext,
  ref: ObjectRef,
  source: BodySource,
  options: PutOptions,
): Promise<Committed> {
  const jobId = options.jobId ?? context.jobId;
  const meter = createMeter();
  const { bytes } = source;
  const totalBytes = source.sizeBytes;
  const checksum = bytes === undefined ? undefined : crcText(crc32c(bytes));
  const headers: Record<string, string> = {};
  if (options.contentType !== undefined) headers['content-type'] = options.contentType;
  if (options.ifMatch !== undefined) headers['if-match'] = `"${options.ifMatch}"`;
  if (options.ifNoneMatch !== undefined) headers['if-none-match'] = '*';
  if (options.ack !== undefined) headers[HEADERS.ack] = options.ack;
  if (jobId !== undefined) headers[HEADERS.job] = headerBytes(jobId);
  if (checksum !== undefined) headers[HEADERS.crc32c] = checksum;
  for (const [name, value] of Object.entries(normalizeMetadata(options.metadata))) {
    headers[HEADERS.metaPrefix + name] = headerBytes(value);
  }
  async function* reported(): AsyncGenerator<Uint8Array> {
    for await (const chunk of meter.pass(source.keptChunks())) {
      yield chunk;
      options.onProgress?.({ doneBytes: meter.bytes(), totalBytes });
    }
  }
  const answer = await context.http
    .put(ref, { headers, body: bytes ?? reported(), sizeBytes: totalBytes, signal: options.signal })
    .catch((error: unknown) => {
      source.cancel();
      throw error;
    });
  const sent = checksum ?? crcText(meter.crc());
  if (answer.crc32c !== '' && answer.crc32c !== sent) {
    throw new StoreError('checksum_mismatch', 'the node stored other bytes than were sent', {
      sent,
      stored: answer.crc32c,
    });
  }
  if (bytes !== undefined) options.onProgress?.({ doneBytes: bytes.byteLength, totalBytes });
  return {
    version: answer.version,
    etag: answer.etag,
    durability: answer.durability as Ack,
    sizeBytes: bytes?.byteLength ?? meter.bytes(),
    crc32c: sent,
  };
}

/**
 * Names in lower case, as HTTP hands them over: both paths store the same.
 * @throws {StoreError} `request_invalid`
 */
export function normalizeMetadata(
  metadata: Readonly<Record<string, string>> | undefined,
): Record<string, string> {
  const normal: Record<string, string> = {};
  for (const [name, value] of Object.entries(metadata ?? {})) {
    if (!/^[a-z0-9!#$&'*+.^_`|~-]+$/i.test(name)) {
      throw new StoreError(
        'request_invalid',
        `"${name}" is no name for metadata: letters, digits, - _ and . only`,
      );
    }
    // oxlint-disable-next-line no-control-regex -- these are what is looked for
    if (/[\0-\x08\x0a-\x1f\x7f]/.test(value)) {
      throw new StoreError('request_invalid', `the metadata "${name}" has control characters`);
    }
    normal[name.toLowerCase()] = value;
  }
  return normal;
}

/** Headers carry UTF-8 bytes; Node writes a header string as Latin-1. */
function headerBytes(value: string): string {
  return Buffer.from(value, 'utf8').toString('latin1');
}
