/**
 * A node that is not to be trusted, for tests of clients: it answers frames, and names the directories and files it is told to.
 *
 * Fault model: it lies about places. It keeps nothing, so that what a client reads or writes can only come from, or go to,
 * what was named. Bytes that come by `write` are swallowed; `read` gives the letter S.
 */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import {
  encodeFrame,
  FrameSplitter,
  messages,
  OPS,
  PROTOCOL_VERSION,
  proofName,
} from '@ebb/protocol';

export interface StrangerOptions {
  /** What HELLO says of both tiers. */
  readonly directory: string;
  /** A node on this host makes the files that a client asks for; one on another host cannot. */
  readonly provesHost: boolean;
  /** What `stage`, `fileStage` and `open` say of every file, in tier 0. */
  readonly path: string;
  /** The size of every object. */
  readonly sizeBytes: number;
}

export interface StrangerNode extends AsyncDisposable {
  readonly socketPath: string;
  readonly url: string;
  /** Names of the calls that came, and lines of plain HTTP requests, in their order. */
  readonly calls: readonly string[];
}

const NAMES = new Map<number, string>(Object.entries(OPS).map(([name, op]) => [op, name]));

/** Listens on a Unix socket in `scratch`. */
export async function openStrangerNode(
  options: StrangerOptions,
  scratch: string,
): Promise<StrangerNode> {
  const calls: string[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    greet(socket, {
      onRequest: (line) => calls.push(line),
      onCall: (op, payload) => {
        calls.push(NAMES.get(op) ?? String(op));
        return answer(op, payload, options);
      },
    });
  });
  const socketPath = join(scratch, 'stranger.sock');
  server.listen(socketPath);
  await once(server, 'listening');
  return {
    ...{ socketPath, url: `unix://${socketPath}`, calls },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Takes a request for an upgrade, then frames; finds nothing of whatever is asked in HTTP. */
function greet(
  socket: Socket,
  {
    onRequest,
    onCall,
  }: {
    readonly onRequest: (line: string) => void;
    readonly onCall: (op: number, payload: Buffer) => Buffer;
  },
): void {
  let head = Buffer.alloc(0);
  const splitter = new FrameSplitter(({ requestId, op }, payload) => {
    const body = onCall(op, payload);
    if (!socket.destroyed) socket.write(encodeFrame(requestId, op, 0, body));
  });
  let isUpgraded = false;
  socket.on('data', (chunk: Buffer) => {
    if (isUpgraded) {
      splitter.push(chunk);
      return;
    }
    head = Buffer.concat([head, chunk]);
    const end = head.indexOf('\r\n\r\n');
    if (end === -1) return;
    const [line = ''] = head.toString('latin1', 0, end).split('\r\n');
    if (!/\r\nupgrade: ebb-frames/i.test(head.toString('latin1', 0, end))) {
      onRequest(line);
      socket.end(
        'HTTP/1.1 404 Not Found\r\nx-ebb-error-code: not_found\r\ncontent-length: 0\r\n\r\n',
      );
      return;
    }
    isUpgraded = true;
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ebb-frames/1\r\n\r\n',
    );
    splitter.push(head.subarray(end + 4));
  });
}

function answer(op: number, payload: Buffer, options: StrangerOptions): Buffer {
  const { directory, path, sizeBytes } = options;
  const extents = [{ tier: 0, blobId: 1, path, offset: 0, length: sizeBytes }] as const;
  const staged = {
    writeId: 1,
    blobId: 1,
    tier: 0,
    path,
    reservedBytes: 1 << 20,
    slotId: 1,
  } as const;
  switch (op) {
    case OPS.hello:
      return messages.hello.response.encode({
        ...{ protocolVersion: PROTOCOL_VERSION, nodeId: 'stranger', instanceId: 1 },
        ...{ memoryDir: directory, diskDir: directory, probeName: '', probeNonce: '' },
      });
    case OPS.proveHost: {
      const { challenge } = messages.proveHost.request.decode(payload);
      if (options.provesHost) writeFileSync(join(directory, proofName(challenge)), '');
      return messages.empty.encode();
    }
    case OPS.stage:
    case OPS.fileStage:
      return messages.staged.encode(staged);
    case OPS.open:
      return messages.open.response.encode({
        leaseId: 1,
        version: 1,
        etag: 'e',
        sizeBytes,
        extents,
      });
    case OPS.fileOpen:
      return messages.fileOpen.response.encode({
        ...{ fileId: 1, exists: true, version: 1, etag: 'e', sizeBytes, extents },
      });
    case OPS.read:
      return messages.read.response.encode({
        data: Buffer.alloc(
          messages.read.request
            .decode(payload)
            .ranges.reduce((sum, range) => sum + range.length, 0),
          'S',
        ),
      });
    case OPS.commit:
      return messages.commit.response.encode({ version: 1, etag: 'e', durability: 'memory' });
    default:
      return Buffer.alloc(0);
  }
}
