/**
 * Clients that nobody wants: silent, slow, greedy, and those who send nonsense. Each goes on for a moment and then lets go of
 * all it has. None is told to harm what others do: whatever names they use lie in a bucket of their own.
 *
 * Fault model: no client here knows a credential, and all of them speak from this host.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeFrame, FRAMES_UPGRADE, messages, OPS, PROTOCOL_VERSION } from '@ebb/protocol';

export const NOISE = 'noise';
/** An object of 8 MiB there, for who reads. */
export const NOISE_KEY = 'large';

interface Target {
  readonly url: string;
  readonly s3Url: string;
  readonly socketPath: string;
}

export interface Nuisance {
  readonly name: string;
  readonly act: (target: Target, random: () => number) => Promise<void>;
}

const HELD_MS = 1500;
/** A node that is paused or starts answers later; the nuisance gives up. */
const ANSWER_MS = 5000;

export const NUISANCES: readonly Nuisance[] = [
  { name: 'silent connections', act: async (target) => await holdAll(target, 100, '') },
  {
    name: 'uploads of one byte',
    act: async (target) => {
      const head = 'Host: localhost\r\nContent-Length: 70000\r\n\r\nx';
      const put = (path: string): string => `PUT ${path} HTTP/1.1\r\n${head}`;
      await Promise.all([
        holdAll({ ...target, s3Url: target.url }, 40, put(`/v1/buckets/${NOISE}/objects/half`)),
        holdAll({ ...target, url: target.s3Url }, 40, put(`/${NOISE}/half`)),
      ]);
    },
  },
  {
    name: 'readers that stop',
    act: async (target) => {
      const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
      await Promise.all([
        holdAll(
          { ...target, s3Url: target.url },
          20,
          get(`/v1/buckets/${NOISE}/objects/${NOISE_KEY}`),
        ),
        holdAll({ ...target, url: target.s3Url }, 20, get(`/${NOISE}/${NOISE_KEY}`)),
      ]);
    },
  },
  { name: 'reads whose answers nobody takes', act: floodReads },
  {
    name: 'nonsense in HTTP',
    act: async (target, random) => await sendNonsense(target, random, httpNonsense),
  },
  {
    name: 'nonsense in XML',
    act: async (target, random) => await sendNonsense(target, random, xmlNonsense),
  },
  {
    name: 'nonsense in JSON',
    act: async (target, random) => await sendNonsense(target, random, jsonNonsense),
  },
  { name: 'nonsense in frames', act: sendFrameNonsense },
];

/** Opens so many connections to either address, sends the text on each, and reads nothing. */
async function holdAll({ url, s3Url }: Target, count: number, text: string): Promise<void> {
  const sockets = Array.from({ length: count }, (_, index) => {
    const { hostname, port } = new URL(index % 2 === 0 ? url : s3Url);
    const socket = connect(Number(port), hostname);
    socket.on('error', () => undefined);
    socket.pause();
    if (text !== '') socket.write(text);
    return socket;
  });
  await sleep(HELD_MS);
  for (const socket of sockets) socket.destroy();
}

async function floodReads({ socketPath }: Target): Promise<void> {
  const opened = await openFrames(socketPath);
  if (opened === undefined) return;
  const { socket, ask } = opened;
  const answer = await ask(
    OPS.open,
    messages.open.request.encode({ bucket: NOISE, key: NOISE_KEY }),
  );
  if (answer !== undefined) {
    const { extents } = messages.open.response.decode(answer);
    const [extent] = extents;
    if (extent !== undefined) {
      const ranges = [{ blobId: extent.blobId, offset: 0, length: extent.length }];
      const read = messages.read.request.encode({ ranges });
      socket.pause();
      socket.write(
        Buffer.concat(
          Array.from({ length: 200 }, (_, id) => encodeFrame(100 + id, OPS.read, 0, read)),
        ),
      );
      await sleep(HELD_MS);
    }
  }
  socket.destroy();
}

async function sendFrameNonsense({ socketPath }: Target, random: () => number): Promise<void> {
  const ops = Object.values(OPS);
  for (let round = 0; round < 8; round++) {
    const opened = await openFrames(socketPath);
    if (opened === undefined) return;
    const { socket } = opened;
    socket.resume();
    for (let n = 0; n < 20; n++) {
      const payload = randomBytes(random, Math.floor(random() * 200));
      const op = ops[Math.floor(random() * ops.length)] as number;
      const frame = encodeFrame(1000 + n, random() < 0.1 ? op + 500 : op, 0, payload);
      // Now and then a frame that claims more than comes.
      if (random() < 0.05) frame.writeUInt32LE(Math.floor(random() * 0xffff_ffff), 0);
      if (!socket.destroyed) socket.write(frame);
    }
    await sleep(50);
    socket.destroy();
  }
}

interface Frames {
  readonly socket: Socket;
  /** The payload of the answer; undefined for an error, or when the connection ended. */
  readonly ask: (op: number, payload: Buffer) => Promise<Buffer | undefined>;
}

/** undefined when the node does not take it now. */
async function openFrames(socketPath: string): Promise<Frames | undefined> {
  const socket = connect(socketPath);
  let received = Buffer.alloc(0);
  socket.on('error', () => undefined);
  socket.on('data', (chunk: Buffer) => {
    received = Buffer.concat([received, chunk]);
  });
  const wait = async (enough: () => boolean): Promise<boolean> => {
    const deadlineMs = performance.now() + ANSWER_MS;
    while (!enough()) {
      const leftMs = deadlineMs - performance.now();
      if (socket.destroyed || leftMs <= 0) return false;
      await Promise.race([once(socket, 'data'), once(socket, 'close'), sleep(leftMs)]).catch(
        () => undefined,
      );
    }
    return true;
  };
  socket.write(
    `GET /v1/frames HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: ${FRAMES_UPGRADE}\r\n\r\n`,
  );
  if (!(await wait(() => received.includes('\r\n\r\n')))) {
    socket.destroy();
    return undefined;
  }
  if (!received.subarray(0, 12).equals(Buffer.from('HTTP/1.1 101'))) {
    socket.destroy();
    return undefined;
  }
  received = received.subarray(received.indexOf('\r\n\r\n') + 4);
  const ask: Frames['ask'] = async (op, payload) => {
    socket.write(encodeFrame(1, op, 0, payload));
    const isWhole = (): boolean =>
      received.length >= 12 && received.length >= 12 + received.readUInt32LE(0);
    if (!(await wait(isWhole))) return undefined;
    const end = 12 + received.readUInt32LE(0);
    const isError = (received.readUInt16LE(10) & 1) === 1;
    const answer = Buffer.from(received.subarray(12, end));
    received = received.subarray(end);
    return isError ? undefined : answer;
  };
  const hello = { protocolVersion: PROTOCOL_VERSION, client: 'nuisance', jobId: '' };
  const greeted = await ask(OPS.hello, messages.hello.request.encode(hello));
  return greeted === undefined ? undefined : { socket, ask };
}

// ── nonsense ─────────────────────────────────────────────────────────────────────────────────────────────────────────

type Sentence = (random: () => number) => { readonly surface: 'v1' | 's3'; readonly text: Buffer };

/** Forty requests, each on a connection of its own; whatever comes back is taken. */
async function sendNonsense(target: Target, random: () => number, make: Sentence): Promise<void> {
  for (let n = 0; n < 40; n++) {
    const { surface, text } = make(random);
    const { hostname, port } = new URL(surface === 'v1' ? target.url : target.s3Url);
    const socket = connect(Number(port), hostname);
    socket.on('error', () => undefined);
    socket.resume();
    socket.end(mutate(text, random));
    await Promise.race([once(socket, 'close').catch(() => undefined), sleep(300)]);
    socket.destroy();
  }
}

const METHODS = ['GET', 'PUT', 'POST', 'DELETE', 'HEAD', 'TRACE', 'OPTIONS', 'PATCH', 'M-SEARCH'];
const HTTP_PATHS = [
  '/',
  '//',
  '/v1/status',
  `/v1/buckets/${NOISE}/objects/k`,
  `/v1/buckets/${NOISE}/objects?limit=-1`,
  `/${NOISE}/k?partNumber=1`,
  `/${NOISE}?list-type=2&max-keys=99999999999999999999`,
  `http://other/${NOISE}`,
  '*',
];
const HTTP_HEADERS = [
  'Content-Length: 5',
  'Content-Length: 5\r\nContent-Length: 6',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip',
  'Host: a\r\nHost: b',
  'Range: bytes=9-1,2-3',
  'Expect: 100-continue',
  'x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD',
  'Authorization: AWS4-HMAC-SHA256 nonsense',
  'If-Match: "',
];

function httpNonsense(random: () => number): ReturnType<Sentence> {
  const lines = [
    `${pick(METHODS, random)} ${pick(HTTP_PATHS, random)} HTTP/1.1`,
    'Host: localhost',
  ];
  for (let n = 0; n < 3; n++) if (random() < 0.6) lines.push(pick(HTTP_HEADERS, random));
  const text = Buffer.from(`${lines.join('\r\n')}\r\n\r\nhello`);
  return { surface: random() < 0.5 ? 'v1' : 's3', text };
}

const XML = [
  ['POST', `/${NOISE}?delete`, '<Delete><Object><Key>a</Key></Object><Quiet>true</Quiet></Delete>'],
  [
    'PUT',
    `/${NOISE}/k?tagging`,
    '<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>',
  ],
  [
    'PUT',
    `/${NOISE}?versioning`,
    '<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>',
  ],
  [
    'POST',
    `/${NOISE}/k?uploadId=none`,
    '<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"a"</ETag></Part></CompleteMultipartUpload>',
  ],
] as const;

function xmlNonsense(random: () => number): ReturnType<Sentence> {
  const [method, path, body] = pick(XML, random);
  return { surface: 's3', text: request(method, path, body) };
}

const JSONS = [
  ['PUT', `/v1/buckets/${NOISE}`, '{"preset":"ephemeral"}'],
  [
    'POST',
    '/v1/copy',
    `{"from":{"bucket":"${NOISE}","key":"k"},"to":{"bucket":"${NOISE}","key":"l"},"overwrite":true}`,
  ],
  ['POST', '/v1/files', `{"bucket":"${NOISE}","key":"f","mode":"w"}`],
  ['PUT', '/v1/runs/noise', '{"keepLast":3}'],
  [
    'POST',
    '/v1/runs/noise/snapshots/1/begin',
    '{"session":"s","part":"p","imageBytes":10,"parts":1}',
  ],
  ['POST', '/v1/jobs', '{"jobId":"noise","heartbeatTtlMs":1000}'],
] as const;

function jsonNonsense(random: () => number): ReturnType<Sentence> {
  const [method, path, body] = pick(JSONS, random);
  return { surface: 'v1', text: request(method, path, body, 'Content-Type: application/json\r\n') };
}

function request(method: string, path: string, body: string, headers = ''): Buffer {
  return Buffer.from(
    `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n${headers}Content-Length: ${body.length}\r\n\r\n${body}`,
  );
}

/** Most sentences are changed in a few places behind their first line, where the names are. */
function mutate(text: Buffer, random: () => number): Buffer {
  if (random() < 0.2) return text;
  const bytes = Buffer.from(text);
  const from = bytes.indexOf('\r\n') + 2;
  for (let n = Math.floor(random() * 6); n >= 0; n--) {
    const at = from + Math.floor(random() * (bytes.length - from));
    bytes[at] = Math.floor(random() * 256);
  }
  return random() < 0.2 ? bytes.subarray(0, Math.floor(random() * bytes.length)) : bytes;
}

function randomBytes(random: () => number, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => Math.floor(random() * 256)));
}

function pick<T>(from: readonly T[], random: () => number): T {
  return from[Math.floor(random() * from.length)] as T;
}
