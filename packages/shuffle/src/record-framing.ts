/**
 * Record framing, inside the raw bytes of a partition's chunks:
 *
 *   | key length u32 | value length u32 | key | value |     little-endian, repeated; a record may cross chunks
 *
 * Zero-length keys and values are records like any other. Persisted: keep stable.
 */
import { StoreError } from '@ebb/protocol';
import { RECORD_PART_BYTES_MAX } from './limits.ts';

const RECORD_HEADER_BYTES = 8;

export interface ShuffleRecord {
  readonly key: Buffer;
  readonly value: Buffer;
}

/** @throws {StoreError} `too_large` */
export function framedRecordBytes(key: Uint8Array, value: Uint8Array): number {
  if (key.byteLength > RECORD_PART_BYTES_MAX || value.byteLength > RECORD_PART_BYTES_MAX) {
    throw new StoreError(
      'too_large',
      `a record with a key of ${key.byteLength} and a value of ${value.byteLength} bytes; each may have ${RECORD_PART_BYTES_MAX}`,
    );
  }
  return RECORD_HEADER_BYTES + key.byteLength + value.byteLength;
}

export function writeRecord(target: Buffer, at: number, key: Uint8Array, value: Uint8Array): void {
  target.writeUInt32LE(key.byteLength, at);
  target.writeUInt32LE(value.byteLength, at + 4);
  target.set(key, at + RECORD_HEADER_BYTES);
  target.set(value, at + RECORD_HEADER_BYTES + key.byteLength);
}

/** Takes raw chunks, gives records. Records are views of the chunk, or of a joined copy where they crossed chunks. */
export class RecordDecoder {
  #rest: Buffer[] = [];
  #restBytes = 0;

  *push(chunk: Buffer): Generator<ShuffleRecord, void, undefined> {
    let buffer = chunk;
    if (this.#restBytes > 0) {
      this.#rest.push(chunk);
      this.#restBytes += chunk.length;
      if (this.#restBytes < this.#neededBytes()) return;
      buffer = Buffer.concat(this.#rest, this.#restBytes);
      this.#rest = [];
      this.#restBytes = 0;
    }
    let at = 0;
    while (buffer.length - at >= RECORD_HEADER_BYTES) {
      const end = at + recordBytes(buffer, at);
      if (end > buffer.length) break;
      const keyAt = at + RECORD_HEADER_BYTES;
      const valueAt = keyAt + buffer.readUInt32LE(at);
      yield { key: buffer.subarray(keyAt, valueAt), value: buffer.subarray(valueAt, end) };
      at = end;
    }
    if (at < buffer.length) {
      this.#rest.push(at === 0 ? buffer : buffer.subarray(at));
      this.#restBytes = buffer.length - at;
    }
  }

  /** @throws {StoreError} `data_corrupt` when the bytes ended inside a record */
  end(): void {
    if (this.#restBytes > 0)
      throw new StoreError('data_corrupt', `${this.#restBytes} bytes of an unfinished record`);
  }

  #neededBytes(): number {
    const first = this.#rest[0] as Buffer;
    return first.length < RECORD_HEADER_BYTES ? RECORD_HEADER_BYTES : recordBytes(first, 0);
  }
}

function recordBytes(buffer: Buffer, at: number): number {
  const keyBytes = buffer.readUInt32LE(at);
  const valueBytes = buffer.readUInt32LE(at + 4);
  if (keyBytes > RECORD_PART_BYTES_MAX || valueBytes > RECORD_PART_BYTES_MAX)
    throw new StoreError('data_corrupt', `a record announces ${keyBytes} + ${valueBytes} bytes`);
  return RECORD_HEADER_BYTES + keyBytes + valueBytes;
}
