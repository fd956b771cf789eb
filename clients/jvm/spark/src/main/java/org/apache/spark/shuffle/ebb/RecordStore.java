package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import org.apache.spark.memory.MemoryConsumer;
import org.apache.spark.memory.TaskMemoryManager;

/**
 * Serialized records of one map task: taken one by one, as they come, given out partition after partition. One thread.
 *
 * <p>Memory that runs out makes a store spill itself, never others make it: it then calls back for what it has to be written, and
 * starts empty.
 */
abstract class RecordStore extends MemoryConsumer {
  /** Writes all records of the store to disk. */
  interface Spiller {
    void spill(RecordStore full) throws IOException;
  }

  private final Spiller spiller;
  private final int spillRecordsMax;
  private final int[] counts;
  private int count;
  private long recordBytes;
  private long peakBytes;

  RecordStore(TaskMemoryManager memory, long pageBytes, int partitions, int spillRecordsMax, Spiller spiller) {
    super(memory, pageBytes, memory.getTungstenMemoryMode());
    this.counts = new int[partitions];
    this.spillRecordsMax = spillRecordsMax;
    this.spiller = spiller;
  }

  /** Room for a record of `bytes`: write it at {@link #base()} and the returned offset, at once. */
  abstract long insert(int partition, int bytes) throws IOException;

  abstract Object base();

  /** Before records are given out; may be called again. */
  abstract void sort() throws IOException;

  /** Hands the records of one partition to the encoder. Needs {@link #sort}, and may be called again. */
  abstract void encode(int partition, PartitionEncoder encoder) throws IOException;

  abstract void free();

  final boolean isSpillDue() {
    return count >= spillRecordsMax;
  }

  final void counted(int partition, int bytes) {
    count++;
    counts[partition]++;
    recordBytes += bytes;
  }

  final int count() {
    return count;
  }

  final int count(int partition) {
    return counts[partition];
  }

  final int partitions() {
    return counts.length;
  }

  /** Bytes of the records now held, without their frames here. */
  final long recordBytes() {
    return recordBytes;
  }

  final void notePeak() {
    peakBytes = Math.max(peakBytes, getUsed());
  }

  final long peakBytes() {
    return peakBytes;
  }

  @Override
  public final long spill(long size, MemoryConsumer trigger) throws IOException {
    if (trigger != this || count == 0) return 0;
    spiller.spill(this);
    return clear();
  }

  /** Frees all memory. Returns what was freed. */
  final long clear() {
    notePeak();
    long before = getUsed();
    free();
    count = 0;
    recordBytes = 0;
    java.util.Arrays.fill(counts, 0);
    return before - getUsed();
  }
}
