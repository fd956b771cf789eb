package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import org.ebb.client.ChunkCodec;
import org.ebb.client.EbbException;
import org.apache.spark.unsafe.Platform;

/** Decodes one chunk after another across all blocks of a task: `bytes[at .. end)`. Buffers and codec state are reused. */
final class ChunkReader {
  private static final int RAW_BYTES_MAX = 64 << 20;

  private final BlockCursor cursor;
  private final EbbRuntime.ReaderBuffers buffers;
  byte[] bytes;
  int at;
  int end;

  ChunkReader(BlockCursor cursor) {
    this.cursor = cursor;
    this.buffers = cursor.buffers;
    this.bytes = buffers.raw;
  }

  /** Whether a further chunk exists; the shown one stays as it is. */
  boolean hasNext() {
    return cursor.at < cursor.end || cursor.hasNextRun();
  }

  /** Shows the next chunk, in place of the one before. False at the end of the last block. */
  boolean next() {
    cursor.checkOpen();
    if (cursor.at == cursor.end && !cursor.hasRest() && !cursor.nextRun()) return false;
    if (!cursor.ensure(ChunkCodec.HEADER_BYTES)) throw torn("a chunk header is cut off");
    byte[] stored = cursor.stored;
    int rawBytes = littleInt(stored, cursor.at);
    int storedBytes = littleInt(stored, cursor.at + 4);
    int codec = stored[cursor.at + 8];
    if (rawBytes <= 0 || rawBytes > RAW_BYTES_MAX || storedBytes <= 0 || storedBytes > RAW_BYTES_MAX) {
      throw torn("chunk of " + rawBytes + " raw and " + storedBytes + " stored bytes");
    }
    if (!cursor.ensure(ChunkCodec.HEADER_BYTES + storedBytes)) throw torn("a chunk is cut off");
    int from = cursor.at + ChunkCodec.HEADER_BYTES;
    if (codec == ChunkCodec.NONE && storedBytes == rawBytes) {
      bytes = cursor.stored;
      at = from;
      end = from + rawBytes;
    } else {
      if (buffers.raw.length < rawBytes) buffers.raw = EbbRuntime.ReaderBuffers.sized(rawBytes, cursor.runtime.settings.chunkBytes);
      bytes = buffers.raw;
      try {
        buffers.decoder.decode(codec, cursor.stored, from, storedBytes, bytes, 0, rawBytes);
      } catch (EbbException e) {
        throw cursor.failed(cursor.partition, e);
      }
      at = 0;
      end = rawBytes;
    }
    cursor.at = from + storedBytes;
    return true;
  }

  RuntimeException torn(String why) {
    return cursor.failed(cursor.partition, new EbbException("data_corrupt", why));
  }

  private static int littleInt(byte[] in, int at) {
    int value = Platform.getInt(in, Platform.BYTE_ARRAY_OFFSET + at);
    return java.nio.ByteOrder.nativeOrder() == java.nio.ByteOrder.LITTLE_ENDIAN ? value : Integer.reverseBytes(value);
  }

  /** The chunks of all blocks as one stream, for serializers whose records may be joined. */
  static final class Stream extends java.io.InputStream {
    private final ChunkReader chunks;

    Stream(ChunkReader chunks) {
      this.chunks = chunks;
    }

    @Override
    public int read() throws IOException {
      if (chunks.at == chunks.end && !chunks.next()) return -1;
      return chunks.bytes[chunks.at++] & 0xff;
    }

    @Override
    public int read(byte[] into, int to, int most) throws IOException {
      if (most == 0) return 0;
      if (chunks.at == chunks.end && !chunks.next()) return -1;
      int n = Math.min(most, chunks.end - chunks.at);
      System.arraycopy(chunks.bytes, chunks.at, into, to, n);
      chunks.at += n;
      return n;
    }

    @Override
    public int available() {
      return chunks.end - chunks.at;
    }
  }
}
