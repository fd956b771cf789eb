/** Reads server-sent events (WHATWG HTML, 9.2) from chunks of bytes: lines end with LF, CRLF or CR, anywhere in a chunk. */
import { StoreError } from '@ebb/protocol';

/** One block: an event, or with `data` undefined only an id. */
export interface StreamBlock {
  readonly id: string | undefined;
  readonly event: string;
  readonly data: string | undefined;
}

/** Far above any event of ours; more is no stream of events. */
const LINE_CHARS_MAX = 1024 * 1024;

/** A block that the end cuts off is left out, as the standard says. @throws {StoreError} `too_large` */
export async function* readBlocks(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<StreamBlock> {
  let block = emptyBlock();
  for await (const line of readLines(chunks)) {
    if (line === '') {
      if (block.id !== undefined || block.data !== undefined) yield block;
      block = emptyBlock();
      continue;
    }
    const colon = line.indexOf(':');
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (field === 'id') block.id = value;
    else if (field === 'event') block.event = value;
    else if (field === 'data')
      block.data = block.data === undefined ? value : `${block.data}\n${value}`;
    // Comments and fields that nobody knows are ignored.
  }
}

async function* readLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunks) {
    rest += decoder.decode(chunk, { stream: true });
    // A CR at the end may be the first half of a CRLF: it waits for what follows.
    const end = rest.endsWith('\r') ? rest.length - 1 : rest.length;
    const lines = rest.slice(0, end).split(/\r\n|\n|\r/);
    rest = (lines.pop() as string) + rest.slice(end);
    if (rest.length > LINE_CHARS_MAX)
      throw new StoreError('too_large', 'a line of more than 1 MiB in a stream of events');
    yield* lines;
  }
}

function emptyBlock(): { id: string | undefined; event: string; data: string | undefined } {
  return { id: undefined, event: 'message', data: undefined };
}
