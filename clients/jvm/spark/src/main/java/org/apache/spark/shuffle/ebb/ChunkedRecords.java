package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import org.apache.spark.memory.SparkOutOfMemoryError;
import org.apache.spark.memory.TaskMemoryManager;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.memory.MemoryBlock;
import org.ebb.client.ChunkCodec;

/**
 * Serialized records for few partitions: each goes straight into the open chunk of its partition. A chunk that is full is
 * compressed at once, and kept in Tungsten pages until the map output is written. Beside {@link RecordSorter} that saves the
 * sort and one copy of each record, and pages hold compressed bytes; its price is an open chunk for every partition.
 *
 * <p>I1: the chunks of a partition, then its open chunk, are its records in the order they came.
 * I2: giving records out changes nothing, so a map output can be written again.
 */
final class ChunkedRecords extends RecordStore {
  /** For each running map task, beside what Spark's memory manager counts: 64 partitions at the usual size of a chunk. */
  private static final long OPEN_BYTES_MAX = 4 << 20;
  private static final int OPEN_BYTES_FIRST = 4096;
  private static final long PAGE_BYTES_FIRST = 128 * 1024;
  private static final long PAGE_BYTES_MOST = 4 << 20;
  private static final int PAGES_FIRST = 16;
  private static final int CHUNKS_FIRST = 64;

  private final EbbRuntime.WriterBuffers buffers;
  private final int chunkBytes;
  private final byte[][] open;
  private final int[] used;
  private byte[] base;
  /** A record longer than a chunk, until it is cut. */
  private byte[] large;
  private int largePartition;

  private MemoryBlock[] pages = new MemoryBlock[PAGES_FIRST];
  private int pageCount;
  private long pageBytes;
  private Object pageBase;
  private long cursor;
  private long cursorEnd;

  // Chunks in the order they were closed; each partition's are a list through `next`, from `first` on. 0 ends it.
  private int chunkCount;
  private Object[] chunkBase = new Object[CHUNKS_FIRST];
  private long[] chunkAt = new long[CHUNKS_FIRST];
  private int[] chunkStored = new int[CHUNKS_FIRST];
  private int[] next = new int[CHUNKS_FIRST];
  private final int[] first;
  private final int[] last;

  ChunkedRecords(TaskMemoryManager memory, EbbRuntime.WriterBuffers buffers, int partitions, int spillRecordsMax, Spiller spiller) {
    super(memory, PAGE_BYTES_FIRST, partitions, spillRecordsMax, spiller);
    this.buffers = buffers;
    this.chunkBytes = buffers.raw.length;
    this.open = buffers.openChunks(partitions);
    this.used = new int[partitions];
    this.first = new int[partitions];
    this.last = new int[partitions];
  }

  static boolean isFor(int partitions, int chunkBytes) {
    return (long) partitions * chunkBytes <= OPEN_BYTES_MAX;
  }

  @Override
  long insert(int partition, int bytes) throws IOException {
    if (large != null) cutLarge();
    if (isSpillDue()) spill();
    byte[] chunk = open[partition];
    int at = used[partition];
    if (bytes > chunk.length - at) {
      if (bytes > chunkBytes - at) {
        close(partition);
        at = 0;
        if (bytes > chunkBytes) return insertLarge(partition, bytes);
      }
      if (bytes > chunk.length - at) chunk = grow(partition, at, at + bytes);
    }
    used[partition] = at + bytes;
    base = chunk;
    counted(partition, bytes);
    return Platform.BYTE_ARRAY_OFFSET + at;
  }

  @Override
  Object base() {
    return base;
  }

  private byte[] grow(int partition, int kept, int bytes) {
    byte[] grown = new byte[Math.min(chunkBytes, Math.max(OPEN_BYTES_FIRST, Integer.highestOneBit(bytes) << 1))];
    if (kept > 0) System.arraycopy(open[partition], 0, grown, 0, kept);
    open[partition] = grown;
    return grown;
  }

  private long insertLarge(int partition, int bytes) {
    large = new byte[bytes];
    largePartition = partition;
    base = large;
    counted(partition, bytes);
    return Platform.BYTE_ARRAY_OFFSET;
  }

  private void cutLarge() throws IOException {
    byte[] record = large;
    large = null; // first: storing may spill, and what is stored by then is spilled in its order
    for (int at = 0; at < record.length; at += chunkBytes) {
      store(largePartition, record, at, Math.min(chunkBytes, record.length - at), false);
      if (count(largePartition) == 0) counted(largePartition, 0); // what was before it is spilled: the rest still counts
    }
  }

  private void close(int partition) throws IOException {
    if (used[partition] > 0) store(partition, open[partition], 0, used[partition], true);
    used[partition] = 0;
  }

  /** Compresses bytes of a partition and keeps them. Those of its open chunk are gone with the rest when finding room spills. */
  private void store(int partition, byte[] raw, int at, int bytes, boolean isOpenChunk) throws IOException {
    reserve(ChunkCodec.HEADER_BYTES + buffers.codec.maxStoredBytes(bytes));
    if (isOpenChunk && used[partition] == 0) return;
    ByteBuffer scratch = buffers.out;
    scratch.clear();
    int stored = PartitionEncoder.Chunks.encode(buffers.codec, raw, at, bytes, scratch, 0);
    Platform.copyMemory(null, OpenOutput.addressOf(scratch), pageBase, cursor, stored);
    int chunk = chunkCount++;
    if (chunk == next.length) growChunks();
    chunkBase[chunk] = pageBase;
    chunkAt[chunk] = cursor;
    chunkStored[chunk] = stored;
    next[chunk] = 0;
    cursor += stored;
    if (first[partition] == 0) first[partition] = chunk + 1;
    else next[last[partition] - 1] = chunk + 1;
    last[partition] = chunk + 1;
  }

  private void reserve(int bytes) throws IOException {
    if (cursorEnd - cursor >= bytes) return;
    long wanted = Math.max(bytes, Math.min(PAGE_BYTES_MOST, pageBytes == 0 ? PAGE_BYTES_FIRST : pageBytes));
    MemoryBlock page;
    try {
      page = allocatePage(wanted); // may spill
    } catch (SparkOutOfMemoryError e) {
      if (chunkCount == 0 && wanted == bytes) throw e;
      spill();
      page = allocatePage(bytes);
    }
    notePeak();
    if (pageCount == pages.length) pages = Arrays.copyOf(pages, pageCount * 2);
    pages[pageCount++] = page;
    pageBase = page.getBaseObject();
    cursor = page.getBaseOffset();
    cursorEnd = cursor + page.size();
    pageBytes += page.size();
  }

  private void growChunks() {
    int more = next.length * 2;
    chunkBase = Arrays.copyOf(chunkBase, more);
    chunkAt = Arrays.copyOf(chunkAt, more);
    chunkStored = Arrays.copyOf(chunkStored, more);
    next = Arrays.copyOf(next, more);
  }

  @Override
  void sort() throws IOException {
    if (large != null) cutLarge();
  }

  @Override
  void encode(int partition, PartitionEncoder encoder) throws IOException {
    for (int chunk = first[partition]; chunk != 0; chunk = next[chunk - 1]) {
      encoder.appendStored(chunkBase[chunk - 1], chunkAt[chunk - 1], chunkStored[chunk - 1]);
    }
    if (used[partition] > 0) encoder.append(open[partition], Platform.BYTE_ARRAY_OFFSET, used[partition]);
  }

  @Override
  void free() {
    for (int i = 0; i < pageCount; i++) {
      freePage(pages[i]);
      pages[i] = null;
    }
    pageCount = 0;
    pageBytes = 0;
    pageBase = null;
    cursor = 0;
    cursorEnd = 0;
    Arrays.fill(chunkBase, 0, chunkCount, null);
    chunkCount = 0;
    Arrays.fill(first, 0);
    Arrays.fill(used, 0);
    base = null;
  }
}
