import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  encodeFrame,
  FRAME_HEADER_BYTES,
  FRAME_PAYLOAD_BYTES_MAX,
  FrameSplitter,
  messages,
  PayloadReader,
  PayloadWriter,
  StoreError,
} from './index.ts';

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u64 = fc.maxSafeNat();
const text = fc.string({ unit: 'grapheme', maxLength: 40 });
const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));

test('any cut of the stream gives the same frames', () => {
  const frame = fc.record({ requestId: u32, op: u16, flags: u16, payload: bytes });
  fc.assert(
    fc.property(
      fc.array(frame, { maxLength: 12 }),
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 30 }),
      (frames, cuts) => {
        const stream = Buffer.concat(
          frames.map((f) => encodeFrame(f.requestId, f.op, f.flags, f.payload)),
        );
        const seen: unknown[] = [];
        const splitter = new FrameSplitter((header, payload) =>
          seen.push({
            requestId: header.requestId,
            op: header.op,
            flags: header.flags,
            payload: payload.toString('hex'),
          }),
        );
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const end = at + (cuts[turn % cuts.length] as number);
          splitter.push(Buffer.from(stream.subarray(at, end)));
          at = end;
        }
        expect(seen).toEqual(frames.map((f) => ({ ...f, payload: f.payload.toString('hex') })));
      },
    ),
  );
});

test('a frame that announces too long a payload is refused before its bytes arrive', () => {
  const header = Buffer.alloc(FRAME_HEADER_BYTES);
  header.writeUInt32LE(FRAME_PAYLOAD_BYTES_MAX + 1, 0);
  const whole = new FrameSplitter(() => undefined);
  expect(() => whole.push(header)).toThrow(StoreError);
  const inPieces = new FrameSplitter(() => undefined);
  inPieces.push(header.subarray(0, 5));
  expect(() => inPieces.push(header.subarray(5))).toThrow(StoreError);
});

test('primitives come back as they went in', () => {
  fc.assert(
    fc.property(u16, u32, u64, fc.boolean(), text, bytes, (a, b, c, d, e, f) => {
      const payload = new PayloadWriter(1)
        .u8(7)
        .u16(a)
        .u32(b)
        .u64(c)
        .bool(d)
        .str(e)
        .bytes(f)
        .done();
      const from = new PayloadReader(payload);
      expect([from.u8(), from.u16(), from.u32(), from.u64(), from.bool(), from.str()]).toEqual([
        7,
        a,
        b,
        c,
        d,
        e,
      ]);
      expect(from.bytes().equals(f)).toBe(true);
      from.end();
    }),
  );
});

const ack = fc.constantFrom('memory', 'disk', 'remote', undefined);
const commitRequest = fc.record({
  writeId: u64,
  sizeBytes: u64,
  crc32c: fc.option(u32, { nil: undefined }),
  ifMatch: text,
  ifNoneMatch: fc.boolean(),
  ack,
  contentType: text,
  metadata: fc.dictionary(fc.string({ minLength: 1, maxLength: 10 }), text, {
    maxKeys: 4,
    noNullPrototype: true,
  }),
});
const extent = fc.record({
  tier: fc.constantFrom(0 as const, 1 as const, 2 as const),
  blobId: u64,
  path: text,
  offset: u64,
  length: u64,
});
const row = fc.record({
  mapIndex: u32,
  attemptId: u64,
  epoch: u32,
  winner: fc.boolean(),
  indexBytes: u32,
  location: extent,
});

test('a commit comes back as it went in', () => {
  fc.assert(
    fc.property(commitRequest, (message) => {
      const { request } = messages.commit;
      expect(request.decode(request.encode(message))).toEqual(message);
    }),
  );
});

test('an open answer and a shuffle table come back as they went in', () => {
  const opened = fc.record({
    leaseId: u64,
    version: u64,
    etag: text,
    sizeBytes: u64,
    extents: fc.array(extent, { maxLength: 5 }),
  });
  const table = fc.record({
    version: u64,
    maps: u32,
    partitions: u32,
    rows: fc.array(row, { maxLength: 5 }),
  });
  fc.assert(
    fc.property(opened, table, (o, t) => {
      expect(messages.open.response.decode(messages.open.response.encode(o))).toEqual(o);
      const { response } = messages.shuffleTable;
      expect(response.decode(response.encode(t))).toEqual(t);
    }),
  );
});

test('random bytes never do worse than a refusal', () => {
  const codecs = [
    messages.commit.request,
    messages.open.response,
    messages.release.request,
    messages.shuffleTable.response,
    messages.errorPayload,
  ] as const;
  fc.assert(
    fc.property(bytes, fc.nat({ max: codecs.length - 1 }), (payload, which) => {
      try {
        codecs[which]?.decode(payload);
      } catch (error) {
        expect(error).toBeInstanceOf(StoreError);
      }
    }),
  );
});

test('text that is not UTF-8 is refused, and a replacement character that was sent is not', () => {
  const read = (raw: Buffer): string => {
    const length = Buffer.alloc(2);
    length.writeUInt16LE(raw.length);
    return new PayloadReader(Buffer.concat([length, raw])).str();
  };
  expect(read(Buffer.from('grüße \uFFFD'))).toBe('grüße \uFFFD');
  for (const raw of [[0xff], [0x61, 0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80]])
    expect(() => read(Buffer.from(raw))).toThrow('not UTF-8');
});

test('a splitter that is stopped gives the next frames when it is told to go on', () => {
  const frames = [1, 2, 3].map((id) => encodeFrame(id, 5, 0, Buffer.from([id])));
  const seen: number[] = [];
  const splitter = new FrameSplitter(({ requestId }) => {
    seen.push(requestId);
    return false;
  });
  splitter.push(Buffer.concat(frames));
  expect(seen).toEqual([1]);
  splitter.resume();
  splitter.push(encodeFrame(4, 5, 0, Buffer.alloc(0)));
  expect(seen).toEqual([1, 2, 3]);
  splitter.resume();
  splitter.resume();
  expect(seen).toEqual([1, 2, 3, 4]);
});

test('a splitter tells what a frame announces before it is there', () => {
  const frame = encodeFrame(1, 5, 0, Buffer.alloc(1000));
  const splitter = new FrameSplitter(() => undefined);
  splitter.push(frame.subarray(0, 5));
  expect(splitter.announcedBytes).toBe(0);
  splitter.push(frame.subarray(5, 100));
  expect([splitter.announcedBytes, splitter.gatheredBytes]).toEqual([1000, 100 - 12]);
  splitter.push(frame.subarray(100));
  expect(splitter.announcedBytes).toBe(0);
});
