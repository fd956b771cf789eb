package org.ebb.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;

/**
 * The index block at the end of a map output (packages/protocol/src/index-block.ts). A reader looks offsets up in place:
 * the block is checked once when the map output is opened, and never copied into objects.
 */
public final class IndexBlock {
  private IndexBlock() {}

  public static final int MAGIC = 0x49424245; // 'EBBI'
  public static final int FORMAT = 1;
  public static final int TRAILER_BYTES = 48;
  public static final int FRAMING_ENGINE_STREAM = 0;
  public static final int FRAMING_CHUNKS = 1;

  /** What the trailer says, after the whole block was checked. */
  public record Header(int framing, int shuffleId, int mapIndex, long attemptId, int partitions, int offsetWidth, long dataBytes) {}

  public static int offsetWidth(long dataBytes) {
    return dataBytes < 1L << 32 ? 4 : 8;
  }

  public static long bytes(int partitions, long dataBytes) {
    return (partitions + 1L) * offsetWidth(dataBytes) + partitions * 4L + TRAILER_BYTES;
  }

  /** `lengths` and `crc32cs` hold one entry a partition. */
  public static ByteBuffer encode(int framing, int shuffleId, int mapIndex, long attemptId, long[] lengths, int[] crc32cs) {
    int partitions = lengths.length;
    long dataBytes = 0;
    for (long length : lengths) dataBytes += length;
    int width = offsetWidth(dataBytes);
    long size = bytes(partitions, dataBytes);
    if (size > Integer.MAX_VALUE - 8) throw new IllegalArgumentException("index of " + partitions + " partitions is too long");
    ByteBuffer block = ByteBuffer.allocate((int) size).order(ByteOrder.LITTLE_ENDIAN);
    long at = 0;
    for (int i = 0; i <= partitions; i++) {
      if (width == 4) block.putInt((int) at);
      else block.putLong(at);
      if (i < partitions) at += lengths[i];
    }
    for (int crc : crc32cs) block.putInt(crc);
    block.putInt(MAGIC).putShort((short) FORMAT).put((byte) width).put((byte) framing).putInt(partitions).putInt(mapIndex);
    block.putLong(attemptId).putInt(shuffleId).putInt(0).putLong(dataBytes);
    CRC32C crc = new CRC32C();
    crc.update(block.array(), 0, block.position());
    block.putInt((int) crc.getValue()).putInt(MAGIC);
    if (block.hasRemaining()) throw new IllegalStateException("index block not filled exactly");
    return block.flip();
  }

  /** Checks the whole block, from the buffer's position to its limit. @throws EbbException `data_corrupt`, `version_unsupported` */
  public static Header check(ByteBuffer source) throws EbbException {
    ByteBuffer block = source.slice().order(ByteOrder.LITTLE_ENDIAN);
    int size = block.remaining();
    if (size < TRAILER_BYTES) throw corrupt(size + " bytes are too short");
    int t = size - TRAILER_BYTES;
    if (block.getInt(t) != MAGIC) throw corrupt("no magic number");
    if (block.getInt(size - 4) != MAGIC) throw corrupt("no closing magic number");
    CRC32C crc = new CRC32C();
    crc.update(block.slice(0, size - 8));
    if ((int) crc.getValue() != block.getInt(size - 8)) throw corrupt("checksum differs");
    int format = block.getShort(t + 4) & 0xffff;
    if (format != FORMAT) throw new EbbException("version_unsupported", "index block format " + format);
    int width = block.get(t + 6);
    int framing = block.get(t + 7);
    int partitions = block.getInt(t + 8);
    long dataBytes = block.getLong(t + 32);
    if (partitions < 0 || dataBytes < 0 || size != bytes(partitions, dataBytes) || width != offsetWidth(dataBytes)) throw corrupt("length differs");
    long last = 0;
    for (int i = 0; i <= partitions; i++) {
      long offset = width == 4 ? block.getInt(i * 4) & 0xffffffffL : block.getLong(i * 8);
      if (i == 0 && offset != 0) throw corrupt("offsets do not start at 0");
      if (offset < last) throw corrupt("offsets fall at partition " + (i - 1));
      last = offset;
    }
    if (last != dataBytes) throw corrupt("offsets do not span the data");
    return new Header(framing, block.getInt(t + 24), block.getInt(t + 12), block.getLong(t + 16), partitions, width, dataBytes);
  }

  private static EbbException corrupt(String why) {
    return new EbbException("data_corrupt", "index block of a map output: " + why);
  }
}
