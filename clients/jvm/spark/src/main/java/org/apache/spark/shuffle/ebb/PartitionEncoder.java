package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import org.apache.spark.serializer.SerializerManager;
import org.apache.spark.storage.ShuffleBlockId;
import org.apache.spark.unsafe.Platform;
import org.ebb.client.ChunkCodec;

/** Turns the serialized records of one partition after another into stored bytes. */
abstract class PartitionEncoder {
  abstract void begin(int partition) throws IOException;

  /** Appends the bytes of one record, from a Tungsten page or an array. */
  abstract void append(Object base, long offset, int bytes) throws IOException;

  /** Appends `bytes` of chunk framing from memory. */
  abstract void appendStored(Object base, long offset, int bytes) throws IOException;

  /** Appends `bytes` of chunk framing that a spill holds. */
  abstract void appendSpilled(SpillFile.Reader spill, long bytes) throws IOException;

  abstract void end() throws IOException;

  /**
   * Chunk framing: records are gathered into one reused array and compressed with one reused codec, so a partition of a few
   * hundred bytes costs a copy and a compression, and no allocation. A record that fits a chunk never crosses two, so that
   * readers can point into the chunk.
   */
  static final class Chunks extends PartitionEncoder {
    private static final int COMPRESS_BYTES_MIN = 128;
    private final OutBuffer target;
    private final byte[] raw;
    private final ChunkCodec codec;
    private int rawBytes;

    Chunks(OutBuffer target, EbbRuntime.WriterBuffers buffers) {
      this.target = target;
      this.raw = buffers.raw;
      this.codec = buffers.codec;
    }

    @Override
    void begin(int partition) {}

    @Override
    void append(Object base, long offset, int bytes) throws IOException {
      if (bytes > raw.length - rawBytes) {
        flush();
        while (bytes > raw.length) {
          Platform.copyMemory(base, offset, raw, Platform.BYTE_ARRAY_OFFSET, raw.length);
          rawBytes = raw.length;
          flush();
          offset += raw.length;
          bytes -= raw.length;
        }
      }
      Platform.copyMemory(base, offset, raw, Platform.BYTE_ARRAY_OFFSET + rawBytes, bytes);
      rawBytes += bytes;
    }

    @Override
    void appendStored(Object base, long offset, int bytes) throws IOException {
      flush();
      target.putMemory(base, offset, bytes);
    }

    @Override
    void appendSpilled(SpillFile.Reader spill, long bytes) throws IOException {
      flush();
      spill.copyTo(target, bytes);
    }

    @Override
    void end() throws IOException {
      flush();
    }

    private void flush() throws IOException {
      if (rawBytes == 0) return;
      ByteBuffer out = target.room(ChunkCodec.HEADER_BYTES + codec.maxStoredBytes(rawBytes));
      int at = out.position();
      out.position(at + encode(codec, raw, 0, rawBytes, out, at));
      rawBytes = 0;
    }

    /** Writes one chunk at the absolute `to`, where a header and maxStoredBytes are free. Returns its length; moves no position. */
    static int encode(ChunkCodec codec, byte[] raw, int from, int rawBytes, ByteBuffer out, int to) {
      int id = codec.id();
      int stored = rawBytes;
      if (id != ChunkCodec.NONE && rawBytes >= COMPRESS_BYTES_MIN) {
        stored = codec.compress(raw, from, rawBytes, out, to + ChunkCodec.HEADER_BYTES);
      }
      if (stored >= rawBytes) {
        id = ChunkCodec.NONE;
        stored = rawBytes;
        out.put(to + ChunkCodec.HEADER_BYTES, raw, from, rawBytes);
      }
      out.putInt(to, rawBytes).putInt(to + 4, stored).put(to + 8, (byte) id);
      return ChunkCodec.HEADER_BYTES + stored;
    }
  }

  /** Engine streams: what Spark's own codec and encryption make of the partition. For codecs without chunks, and encryption. */
  static final class EngineStreams extends PartitionEncoder {
    private final OutBuffer target;
    private final SerializerManager serializerManager;
    private final int shuffleId;
    private final long mapId;
    private final byte[] scratch;
    private OutputStream stream;

    EngineStreams(OutBuffer target, EbbRuntime.WriterBuffers buffers, SerializerManager manager, int shuffleId, long mapId) {
      this.target = target;
      this.serializerManager = manager;
      this.shuffleId = shuffleId;
      this.mapId = mapId;
      this.scratch = buffers.raw;
    }

    @Override
    void begin(int partition) {
      stream = serializerManager.wrapStream(new ShuffleBlockId(shuffleId, mapId, partition), new OutBuffer.Stream(target));
    }

    @Override
    void append(Object base, long offset, int bytes) throws IOException {
      for (int done = 0; done < bytes; ) {
        int n = Math.min(scratch.length, bytes - done);
        Platform.copyMemory(base, offset + done, scratch, Platform.BYTE_ARRAY_OFFSET, n);
        stream.write(scratch, 0, n);
        done += n;
      }
    }

    @Override
    void appendStored(Object base, long offset, int bytes) {
      throw new UnsupportedOperationException("chunks in an engine stream");
    }

    @Override
    void appendSpilled(SpillFile.Reader spill, long bytes) throws IOException {
      spill.decodeTo(stream, bytes);
    }

    @Override
    void end() throws IOException {
      stream.close();
    }
  }
}
