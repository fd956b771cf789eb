package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.util.Arrays;
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
 */
final class RecordSorter extends RecordStore {
  static final int PARTITIONS_MAX = 1 << 24;
  private static final int PAGES_MAX = 1 << 13;
  private static final long PAGE_BYTES_MAX = 1L << 27;
  private static final long PAGE_BYTES_FIRST = 128 * 1024;
  private static final int RECORDS_FIRST = 2048;
  private static final int RECORDS_MOST = 1 << 29;
  private static final long OFFSET_MASK = (1L << 27) - 1;

  private final long pageBytesMax;
  private int[] ends;

  private LongArray pointers;
  private Object pointerBase;
  private long pointerAt;
  private int capacity;
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

  RecordSorter(TaskMemoryManager memory, int partitions, int spillRecordsMax, Spiller spiller) {
    super(memory, PAGE_BYTES_FIRST, partitions, spillRecordsMax, spiller);
    this.pageBytesMax = Math.max(PAGE_BYTES_FIRST, Math.min(PAGE_BYTES_MAX, memory.pageSizeBytes()));
  }

  @Override
  long insert(int partition, int bytes) throws IOException {
    int whole = bytes + 4;
    if (isSpillDue()) spill();
    while (count() == capacity || cursorEnd - cursor < whole) {
      if (cursorEnd - cursor < whole) addPage(whole);
      if (count() == capacity) growPointers();
    }
    long at = cursor;
    cursor += whole;
    Platform.putInt(base, at, bytes);
    int page = pageCount - 1;
    Platform.putLong(pointerBase, pointerAt + count() * 8L, (long) partition << 40 | (long) page << 27 | (at - pageAts[page]));
    counted(partition, bytes);
    return at + 4;
  }

  @Override
  Object base() {
    return base;
  }

  @Override
  void sort() {
    if (sorted) return;
    int partitions = partitions();
    int count = count();
    if (partitions == 1) {
      sortedAt = pointerAt;
    } else {
      if (ends == null) ends = new int[partitions];
      int at = 0;
      for (int p = 0; p < partitions; p++) {
        ends[p] = at; // where the partition starts; the scatter below moves it to its end
        at += count(p);
      }
      sortedAt = pointerAt + capacity * 8L;
      for (int i = 0; i < count; i++) {
        long pointer = Platform.getLong(pointerBase, pointerAt + i * 8L);
        Platform.putLong(pointerBase, sortedAt + (ends[(int) (pointer >>> 40)]++) * 8L, pointer);
      }
    }
    sorted = true;
  }

  @Override
  void encode(int partition, PartitionEncoder encoder) throws IOException {
    int n = count(partition);
    if (n == 0) return;
    long to = sortedAt + (partitions() == 1 ? n : ends[partition]) * 8L;
    for (long at = to - n * 8L; at < to; at += 8) {
      long pointer = Platform.getLong(pointerBase, at);
      int page = (int) (pointer >>> 27) & (PAGES_MAX - 1);
      Object from = pageBases[page];
      long offset = pageAts[page] + (pointer & OFFSET_MASK);
      encoder.append(from, offset + 4, Platform.getInt(from, offset));
    }
  }

  @Override
  void free() {
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
    sorted = false;
  }

  private void addPage(int needed) throws IOException {
    if (pageCount == PAGES_MAX) spill();
    long wanted = Math.max(needed, Math.min(pageBytesMax, pageBytes));
    MemoryBlock page;
    try {
      page = allocatePage(wanted); // may spill this sorter
    } catch (SparkOutOfMemoryError e) {
      if (count() == 0 && wanted == needed) throw e;
      if (count() > 0) spill();
      page = allocatePage(needed);
    }
    notePeak();
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
      if (count() == 0) throw e;
      spill();
      return;
    }
    notePeak();
    if (count() > 0) Platform.copyMemory(pointerBase, pointerAt, grown.getBaseObject(), grown.getBaseOffset(), count() * 8L);
    if (pointers != null) freeArray(pointers);
    pointers = grown;
    pointerBase = grown.getBaseObject();
    pointerAt = grown.getBaseOffset();
    capacity = wanted;
  }
}
