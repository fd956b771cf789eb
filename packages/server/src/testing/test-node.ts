/** A real node for tests: real store, tiers in a directory of its own on /dev/shm, both sockets. No faults are injected. */
import { mkdtempSync, rmSync } from 'node:fs';
import {
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type RequestOptions,
  request,
} from 'node:http';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import {
  encodeFrame,
  FRAME_FLAG_ERROR,
  FRAMES_UPGRADE,
  FrameSplitter,
  MiB,
  messages,
  OPS,
  PATHS,
  PROTOCOL_VERSION,
} from '@ebb/protocol';
import { type Logger, pino } from 'pino';
import { loadConfig } from '../config.ts';
import type { RawConfig } from '../config-schema.ts';
import { type RunningNode, startNode } from '../node.ts';

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** Of an error body; '' otherwise. */
  readonly code: string;
}

export interface TestNode extends AsyncDisposable {
  readonly node: RunningNode;
  readonly directory: string;
  readonly flags: RawConfig;
  readonly socketPath: string;
  http(
    method: string,
    path: string,
    options?: {
      headers?: OutgoingHttpHeaders;
      body?: Buffer | string | readonly Buffer[];
      tcp?: boolean;
    },
  ): Promise<Answer>;
  json(method: string, path: string, body?: unknown): Promise<{ status: number; value: never }>;
  frames(hello?: { jobId?: string; version?: number } | null): Promise<TestFrames>;
  /** Closes without deleting anything, so that another can start on the same directory. */
  stop(): Promise<void>;
}

const silent = pino({ level: 'silent' });

export async function openTestNode(
  changes: RawConfig & { directory?: string } = {},
  { log = silent }: { readonly log?: Logger } = {},
): Promise<TestNode> {
  const { directory = mkdtempSync('/dev/shm/ebb-test-'), ...rest } = changes;
  const flags: RawConfig = {
    ...{
      data: join(directory, 'data'),
      memoryDir: join(directory, 'memory'),
      listen: '127.0.0.1:0',
    },
    ...{ memoryLimit: 64 * MiB, diskLimit: 64 * MiB, drainDeadline: '5s' },
    ...rest,
  };
  const node = await startNode(loadConfig({ flags }), { log });
  const socketPath = node.socketPath as string;

  const http: TestNode['http'] = (method, path, { headers = {}, body, tcp = false } = {}) =>
    new Promise((resolve, reject) => {
      const where: RequestOptions = tcp
        ? { host: '127.0.0.1', port: new URL(node.url as string).port }
        : { socketPath };
      const length =
        typeof body === 'string' || body instanceof Buffer
          ? { 'content-length': Buffer.byteLength(body) }
          : {};
      const call = request(
        { ...where, method, path, headers: { ...length, ...headers }, agent: false },
        (answer) => {
          const chunks: Buffer[] = [];
          answer.on('data', (chunk: Buffer) => chunks.push(chunk));
          answer.on('error', reject);
          answer.once('end', () => {
            const whole = Buffer.concat(chunks);
            resolve({
              status: answer.statusCode ?? 0,
              headers: answer.headers,
              body: whole,
              code: codeOf(answer.headers),
            });
          });
        },
      );
      call.once('error', reject);
      if (Array.isArray(body)) {
        for (const chunk of body as readonly Buffer[]) call.write(chunk);
        call.end();
      } else {
        // As bytes: beside a string, node:http sends the head in UTF-8 too, and header text is Latin-1.
        call.end(typeof body === 'string' ? Buffer.from(body) : (body as Buffer | undefined));
      }
    });

  return {
    ...{ node, directory, flags, socketPath, http },
    json: async (method, path, body) => {
      const answer = await http(
        method,
        path,
        body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } },
      );
      return {
        status: answer.status,
        value: (answer.body.length === 0 ? undefined : JSON.parse(answer.body.toString())) as never,
      };
    },
    frames: async (hello = {}) => {
      const frames = await upgrade(socketPath);
      if (hello !== null)
        await frames.call(
          OPS.hello,
          messages.hello.request.encode({
            protocolVersion: hello.version ?? PROTOCOL_VERSION,
            client: 'test',
            jobId: hello.jobId ?? '',
          }),
        );
      return frames;
    },
    stop: async () => await node.close(),
    [Symbol.asyncDispose]: async () => {
      await node.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function codeOf(headers: IncomingHttpHeaders): string {
  return String(headers['x-ebb-error-code'] ?? '');
}

export interface TestFrames {
  readonly socket: Socket;
  readonly upgradeHeaders: IncomingHttpHeaders;
  call(op: number, payload: Buffer): Promise<Buffer>;
  /** Resolves with the payload of the next push of this op, also one that came before. */
  push(op: number): Promise<Buffer>;
  readonly closed: Promise<void>;
  close(): Promise<void>;
}

async function upgrade(socketPath: string): Promise<TestFrames> {
  const [socket, upgradeHeaders] = await new Promise<[Socket, IncomingHttpHeaders]>(
    (resolve, reject) => {
      const call = request(
        {
          socketPath,
          path: PATHS.frames,
          headers: { connection: 'upgrade', upgrade: FRAMES_UPGRADE },
        },
        (answer) => {
          answer.resume();
          reject(new Error(`refused: ${answer.statusCode} ${codeOf(answer.headers)}`));
        },
      );
      call.once('upgrade', (answer, upgraded: Socket) => resolve([upgraded, answer.headers]));
      call.once('error', reject);
      call.end();
    },
  );
  const waiting = new Map<number, PromiseWithResolvers<Buffer>>();
  const pushes: { op: number; payload: Buffer }[] = [];
  const pushWaiting: { op: number; resolve: (payload: Buffer) => void }[] = [];
  const splitter = new FrameSplitter((header, view) => {
    const payload = Buffer.from(view);
    const call = waiting.get(header.requestId);
    waiting.delete(header.requestId);
    if (header.requestId === 0 && header.flags === 0) {
      const at = pushWaiting.findIndex(({ op }) => op === header.op);
      if (at === -1) pushes.push({ op: header.op, payload });
      else pushWaiting.splice(at, 1)[0]?.resolve(payload);
    } else if (header.flags === FRAME_FLAG_ERROR)
      call?.reject(messages.errorPayload.decode(payload));
    else call?.resolve(payload);
  });
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      for (const call of waiting.values()) call.reject(new Error('connection closed'));
      resolve();
    });
  });
  socket.on('error', () => undefined);
  socket.on('data', (chunk: Buffer) => splitter.push(chunk));
  let lastId = 0;
  return {
    ...{ socket, upgradeHeaders, closed },
    call: (op, payload) => {
      const answer = Promise.withResolvers<Buffer>();
      waiting.set(++lastId, answer);
      socket.write(encodeFrame(lastId, op, 0, payload));
      return answer.promise;
    },
    push: (op) => {
      const at = pushes.findIndex((push) => push.op === op);
      if (at !== -1)
        return Promise.resolve((pushes.splice(at, 1)[0] as { payload: Buffer }).payload);
      return new Promise((resolve) => pushWaiting.push({ op, resolve }));
    },
    close: async () => {
      socket.destroy();
      await closed;
    },
  };
}
