package org.ebb.client;

import com.github.luben.zstd.Zstd;
import com.github.luben.zstd.ZstdCompressCtx;
import com.github.luben.zstd.ZstdDecompressCtx;
import java.nio.ByteBuffer;
import net.jpountz.lz4.LZ4Compressor;
import net.jpountz.lz4.LZ4Factory;
import net.jpountz.lz4.LZ4SafeDecompressor;

/**
 * Compresses and decompresses the bytes of chunks: `| raw length u32 | stored length u32 | codec u8 | stored bytes |`.
 * Holds codec state that is used again and again: one thread at a time, and closed at the end.
 */
public abstract class ChunkCodec implements AutoCloseable {
  public static final int HEADER_BYTES = 9;
  public static final int NONE = 0;
  public static final int LZ4 = 1;
  public static final int ZSTD = 2;

  public abstract int id();

  public abstract int maxStoredBytes(int rawBytes);

  /** Compresses into `to` at the absolute `toAt`, where maxStoredBytes are free; returns the stored length. Moves no position. */
  public abstract int compress(byte[] raw, int rawAt, int rawBytes, ByteBuffer to, int toAt);

  @Override
  public void close() {}

  public static ChunkCodec none() {
    return new ChunkCodec() {
      @Override
      public int id() {
        return NONE;
      }

      @Override
      public int maxStoredBytes(int rawBytes) {
        return rawBytes;
      }

      @Override
      public int compress(byte[] raw, int rawAt, int rawBytes, ByteBuffer to, int toAt) {
        to.put(toAt, raw, rawAt, rawBytes);
        return rawBytes;
      }
    };
  }

  public static ChunkCodec lz4() {
    return new ChunkCodec() {
      private final LZ4Compressor compressor = LZ4Factory.fastestInstance().fastCompressor();
      private byte[] wrapped;
      private ByteBuffer wrapper;

      @Override
      public int id() {
        return LZ4;
      }

      @Override
      public int maxStoredBytes(int rawBytes) {
        return rawBytes + rawBytes / 255 + 16;
      }

      @Override
      public int compress(byte[] raw, int rawAt, int rawBytes, ByteBuffer to, int toAt) {
        if (wrapped != raw) {
          wrapped = raw;
          wrapper = ByteBuffer.wrap(raw);
        }
        return compressor.compress(wrapper, rawAt, rawBytes, to, toAt, to.limit() - toAt);
      }
    };
  }

  public static ChunkCodec zstd(int level) {
    return new ChunkCodec() {
      private final ZstdCompressCtx context = new ZstdCompressCtx().setLevel(level);
      private byte[] scratch = new byte[0];

      @Override
      public int id() {
        return ZSTD;
      }

      @Override
      public int maxStoredBytes(int rawBytes) {
        return (int) Zstd.compressBound(rawBytes);
      }

      @Override
      public int compress(byte[] raw, int rawAt, int rawBytes, ByteBuffer to, int toAt) {
        int most = maxStoredBytes(rawBytes);
        if (scratch.length < most) scratch = new byte[most];
        int stored = context.compressByteArray(scratch, 0, most, raw, rawAt, rawBytes);
        to.put(toAt, scratch, 0, stored);
        return stored;
      }

      @Override
      public void close() {
        context.close();
      }
    };
  }

  /** The other direction: any codec that a chunk names. */
  public static final class Decoder implements AutoCloseable {
    private LZ4SafeDecompressor lz4;
    private ZstdDecompressCtx zstd;

    /** Fills exactly `rawBytes` from the stored bytes. @throws EbbException `data_corrupt` */
    public void decode(int codec, byte[] stored, int storedAt, int storedBytes, byte[] raw, int rawAt, int rawBytes) throws EbbException {
      int got;
      try {
        switch (codec) {
          case NONE -> {
            if (storedBytes != rawBytes) throw new EbbException("data_corrupt", "chunk stores " + storedBytes + " bytes for " + rawBytes);
            System.arraycopy(stored, storedAt, raw, rawAt, rawBytes);
            got = rawBytes;
          }
          case LZ4 -> {
            if (lz4 == null) lz4 = LZ4Factory.fastestInstance().safeDecompressor();
            got = lz4.decompress(stored, storedAt, storedBytes, raw, rawAt, rawBytes);
          }
          case ZSTD -> {
            if (zstd == null) zstd = new ZstdDecompressCtx();
            got = zstd.decompressByteArray(raw, rawAt, rawBytes, stored, storedAt, storedBytes);
          }
          default -> throw new EbbException("version_unsupported", "chunk codec " + codec);
        }
      } catch (RuntimeException e) {
        throw new EbbException("data_corrupt", "chunk does not decompress: " + e.getMessage(), e);
      }
      if (got != rawBytes) throw new EbbException("data_corrupt", "chunk holds " + got + " bytes, " + rawBytes + " announced");
    }

    @Override
    public void close() {
      if (zstd != null) zstd.close();
      zstd = null;
    }
  }
}
