import { StoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readBlocks, type StreamBlock } from './event-stream.ts';

async function* inPieces(bytes: Uint8Array, cuts: readonly number[]): AsyncGenerator<Uint8Array> {
  const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].toSorted((a, b) => a - b);
  let from = 0;
  for (const to of [...at, bytes.length]) {
    yield bytes.subarray(from, to);
    from = to;
  }
}

async function read(text: string, cuts: readonly number[] = []): Promise<StreamBlock[]> {
  const blocks: StreamBlock[] = [];
  for await (const block of readBlocks(inPieces(Buffer.from(text), cuts))) blocks.push(block);
  return blocks;
}

test('fields, comments, several lines of data, and blocks of an id alone', async () => {
  const text =
    ': hello\n\nid: 7\n\nid: 8\nevent: created\ndata: {"a":\ndata: 1}\n\nretry: 5\ndata:x\nwhat\n\n';
  expect(await read(text)).toEqual([
    { id: '7', event: 'message', data: undefined },
    { id: '8', event: 'created', data: '{"a":\n1}' },
    { id: undefined, event: 'message', data: 'x' },
  ]);
});

test('a block that the end cuts off is left out', async () => {
  expect(await read('id: 1\ndata: whole\n\nid: 2\ndata: ha')).toEqual([
    { id: '1', event: 'message', data: 'whole' },
  ]);
});

test('wherever chunks are cut, and however lines end, the blocks are the same', async () => {
  const line = fc.string({ unit: 'grapheme' }).map((text) => text.replaceAll(/[\r\n]/g, ' '));
  const block = fc.record({ id: fc.nat().map(String), data: line });
  await fc.assert(
    fc.asyncProperty(
      fc.array(block, { minLength: 1 }),
      fc.array(fc.nat()),
      fc.constantFrom('\n', '\r\n', '\r'),
      async (blocks, cuts, end) => {
        const text = blocks
          .map(({ id, data }) => `id: ${id}${end}data: ${data}${end}${end}`)
          .join('');
        const expected = blocks.map(({ id, data }) => ({ id, event: 'message', data }));
        // A CR that is the very last may be half of a CRLF: one more line shows that it was not.
        expect(await read(`${text}:${end}`, cuts)).toEqual(expected);
      },
    ),
    { numRuns: 200 },
  );
});

test('a line without end is refused', async () => {
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) yield Buffer.alloc(64 * 1024, 'x');
  }
  const reading = readBlocks(endless()).next();
  await expect(reading).rejects.toBeInstanceOf(StoreError);
});
