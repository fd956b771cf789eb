package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.util.Arrays;
import org.apache.spark.memory.MemoryConsumer;
import org.apache.spark.memory.SparkOutOfMemoryError;
import org.apache.spark.memory.TaskMemoryManager;
import org.apache.spark.memory.TooLargePageException;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.array.LongArray;
import org.apache.spark.unsafe.memory.MemoryBlock;

/**
 * Serialized records in Tungsten pages, and a counting sort of them by partition.
 *
 * <p>A record lies in a page as `| length u32 | bytes |`; its pointer is one long, `| partition 24 | page 13 | offset 27 |`.
 * The partitions are counted as records come in, so the sort is one pass that scatters the pointers into the upper half of
 * their own array, whatever the number of partitions; it keeps the order of arrival within a partition, so gathering walks
 * the pages forwards. Pages start small and double: most map tasks are small, and a page of Spark's full size would cost
 * more to clear than the records to write.
 *
 * <p>One thread. Memory that runs out makes this consumer spill itself, never others make it: it then calls back for the
 * sorted records to be written, and starts empty.
 */
final class RecordSorter extends MemoryConsumer {
  /** Writes all records of the sorter, which sorted itself, to disk. */
  interface Spiller {
    void spill(RecordSorter sorted) throws IOException;
  }

  static final int PARTITIONS_MAX = 1 << 24;
  private static final int PAGES_MAX = 1 << 13;
  private static final long PAGE_BYTES_MAX = 1L << 27;
  private static final long PAGE_BYTES_FIRST = 128 * 1024;
  private static final int RECORDS_FIRST = 2048;
  private static final int RECORDS_MOST = 1 << 29;
  private static final long OFFSET_MASK = (1L << 27) - 1;

  private final Spiller spiller;
  private final long pageBytesMax;
  private final int spillRecordsMax;
  private final int[] counts;
  private int[] ends;

  private LongArray pointers;
  private Object pointerBase;
  private long pointerAt;
  private int capacity;
  private int count;
  private boolean sorted;
  private long sortedAt;

  private MemoryBlock[] pages = new MemoryBlock[16];
  private Object[] pageBases = new Object[16];
  private long[] pageAts = new long[16];
  private int pageCount;
  private long pageBytes;
  private Object base;
  private long cursor;
  private long cursorEnd;
  private long recordBytes;
  private long peakBytes;

  RecordSorter(TaskMemoryManager memory, int partitions, int spillRecordsMax, Spiller spiller) {
    super(memory, PAGE_BYTES_FIRST, memory.getTungstenMemoryMode());
    this.pageBytesMax = Math.max(PAGE_BYTES_FIRST, Math.min(PAGE_BYTES_MAX, memory.pageSizeBytes()));
    this.spillRecordsMax = spillRecordsMax;
    this.spiller = spiller;
    this.counts = new int[partitions];
  }

  /** Room for a record of `bytes`: write it at {@link #base()} and the returned offset, at once. */
  long insert(int partition, int bytes) throws IOException {
    int whole = bytes + 4;
    if (count >= spillRecordsMax) spill();
    while (count == capacity || cursorEnd - cursor < whole) {
      if (cursorEnd - cursor < whole) addPage(whole);
      if (count == capacity) growPointers();
    }
    long at = cursor;
    cursor += whole;
    Platform.putInt(base, at, bytes);
    int page = pageCount - 1;
    Platform.putLong(pointerBase, pointerAt + count * 8L, (long) partition << 40 | (long) page << 27 | (at - pageAts[page]));
    count++;
    counts[partition]++;
    recordBytes += bytes;
    return at + 4;
  }

  Object base() {
    return base;
  }

  int count() {
    return count;
  }

  int count(int partition) {
    return counts[partition];
  }

  /** Bytes of the records now held, without their frames here. */
  long recordBytes() {
    return recordBytes;
  }

  long peakBytes() {
    return peakBytes;
  }

  void sort() {
    if (sorted) return;
    int partitions = counts.length;
    if (partitions == 1) {
      sortedAt = pointerAt;
    } else {
      if (ends == null) ends = new int[partitions];
      int at = 0;
      for (int p = 0; p < partitions; p++) {
        ends[p] = at; // where the partition starts; the scatter below moves it to its end
        at += counts[p];
      }
      sortedAt = pointerAt + capacity * 8L;
      for (int i = 0; i < count; i++) {
        long pointer = Platform.getLong(pointerBase, pointerAt + i * 8L);
        Platform.putLong(pointerBase, sortedAt + (ends[(int) (pointer >>> 40)]++) * 8L, pointer);
      }
    }
    sorted = true;
  }

  /** Hands the records of one partition to the encoder. Needs {@link #sort}. */
  void encode(int partition, PartitionEncoder encoder) throws IOException {
    int n = counts[partition];
    if (n == 0) return;
    long to = sortedAt + (counts.length == 1 ? n : ends[partition]) * 8L;
    for (long at = to - n * 8L; at < to; at += 8) {
      long pointer = Platform.getLong(pointerBase, at);
      int page = (int) (pointer >>> 27) & (PAGES_MAX - 1);
      Object from = pageBases[page];
      long offset = pageAts[page] + (pointer & OFFSET_MASK);
      encoder.append(from, offset + 4, Platform.getInt(from, offset));
    }
  }

  @Override
  public long spill(long size, MemoryConsumer trigger) throws IOException {
    if (trigger != this || count == 0) return 0;
    spiller.spill(this);
    return clear();
  }

  /** Frees all memory. Returns what was freed. */
  long clear() {
    peakBytes = Math.max(peakBytes, getUsed());
    long before = getUsed();
    for (int i = 0; i < pageCount; i++) {
      freePage(pages[i]);
      pages[i] = null;
      pageBases[i] = null;
    }
    pageCount = 0;
    pageBytes = 0;
    base = null;
    cursor = 0;
    cursorEnd = 0;
    if (pointers != null) freeArray(pointers);
    pointers = null;
    pointerBase = null;
    capacity = 0;
    count = 0;
    recordBytes = 0;
    sorted = false;
    Arrays.fill(counts, 0);
    return before - getUsed();
  }

  private void addPage(int needed) throws IOException {
    if (pageCount == PAGES_MAX) spill();
    long wanted = Math.max(needed, Math.min(pageBytesMax, pageBytes));
    MemoryBlock page;
    try {
      page = allocatePage(wanted); // may spill this sorter
    } catch (SparkOutOfMemoryError e) {
      if (count == 0 && wanted == needed) throw e;
      if (count > 0) spill();
      page = allocatePage(needed);
    }
    peakBytes = Math.max(peakBytes, getUsed());
    if (pageCount == pages.length) {
      pages = Arrays.copyOf(pages, pageCount * 2);
      pageBases = Arrays.copyOf(pageBases, pageCount * 2);
      pageAts = Arrays.copyOf(pageAts, pageCount * 2);
    }
    pages[pageCount] = page;
    base = pageBases[pageCount] = page.getBaseObject();
    cursor = pageAts[pageCount] = page.getBaseOffset();
    // A record must start within the offset bits; a single longer one may fill a page of its own.
    cursorEnd = cursor + (needed > PAGE_BYTES_MAX ? page.size() : Math.min(page.size(), PAGE_BYTES_MAX));
    pageBytes += page.size();
    pageCount++;
  }

  /** The upper half of the array is room for the sort. */
  private void growPointers() throws IOException {
    if (capacity >= RECORDS_MOST) spill();
    int wanted = capacity == 0 ? RECORDS_FIRST : capacity * 2;
    LongArray grown;
    try {
      grown = allocateArray(wanted * 2L); // may spill this sorter
    } catch (TooLargePageException e) {
      spill();
      return;
    } catch (SparkOutOfMemoryError e) {
      if (count == 0) throw e;
      spill();
      return;
    }
    peakBytes = Math.max(peakBytes, getUsed());
    if (count > 0) Platform.copyMemory(pointerBase, pointerAt, grown.getBaseObject(), grown.getBaseOffset(), count * 8L);
    if (pointers != null) freeArray(pointers);
    pointers = grown;
    pointerBase = grown.getBaseObject();
    pointerAt = grown.getBaseOffset();
    capacity = wanted;
  }
}
