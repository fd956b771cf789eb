package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.io.InputStream;
import org.apache.spark.Aggregator;
import org.apache.spark.InterruptibleIterator;
import org.apache.spark.MapOutputTracker;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.MapOutputTrackerWorker;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.ShuffleStatus;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.serializer.DeserializationStream;
import org.apache.spark.serializer.SerializerInstance;
import org.apache.spark.serializer.SerializerManager;
import org.apache.spark.shuffle.MetadataFetchFailedException;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.shuffle.ShuffleReader;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.storage.ShuffleBlockId;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.util.TaskCompletionListener;
import org.apache.spark.util.collection.ExternalSorter;
import org.ebb.client.IndexBlock;
import scala.Option;
import scala.Product2;
import scala.Tuple2;
import scala.collection.AbstractIterator;
import scala.collection.Iterator;

/**
 * Reads a range of partitions of a range of map outputs (all of AQE's shapes are such ranges), then aggregates and sorts as
 * Spark's own reader does.
 */
final class EbbShuffleReader<K, C> implements ShuffleReader<K, C> {
  private final EbbRuntime runtime;
  private final EbbShuffleHandle<K, ?, C> handle;
  private final int startMap;
  private final int endMap;
  private final int startPartition;
  private final int endPartition;
  private final TaskContext context;
  private final ShuffleReadMetricsReporter metrics;

  EbbShuffleReader(EbbRuntime runtime, EbbShuffleHandle<K, ?, C> handle, int startMap, int endMap, int startPartition, int endPartition,
      TaskContext context, ShuffleReadMetricsReporter metrics) {
    this.runtime = runtime;
    this.handle = handle;
    this.startMap = startMap;
    this.endMap = endMap;
    this.startPartition = startPartition;
    this.endPartition = endPartition;
    this.context = context;
    this.metrics = metrics;
  }

  @Override
  public Iterator<Product2<K, C>> read() {
    return combined(records());
  }

  @SuppressWarnings({"unchecked", "rawtypes"})
  private Iterator<Product2<K, C>> records() {
    ShuffleDependency<K, ?, C> dependency = handle.dependency();
    SerializerManager serializerManager = SparkEnv.get().serializerManager();
    MapStatus[] statuses = statuses();
    ShuffleReads reads = runtime.reads(handle.shuffleId());
    ShuffleReads.Table table = reads.tableFor(statuses);
    int lastMap = Math.min(endMap, statuses.length);
    boolean chunks = EbbWriter.framing(runtime, dependency, serializerManager) == IndexBlock.FRAMING_CHUNKS;
    BlockCursor cursor = new BlockCursor(runtime, reads, table, handle.shuffleId(), startMap, lastMap, startPartition, endPartition, !chunks, context, metrics);
    Reading reading = new Reading(cursor, context, metrics);
    if (!chunks) return (Iterator) new EngineRecords(cursor, reading, dependency.serializer().newInstance(), serializerManager, handle.shuffleId());
    if (Rows.reads(dependency.serializer())) return (Iterator) Rows.of(cursor, reading, dependency.serializer());
    return (Iterator) new StreamRecords(cursor, reading, dependency.serializer().newInstance());
  }

  /** The map outputs that Spark names, asked of the driver at most once an epoch by this executor. */
  @SuppressWarnings("unchecked")
  private MapStatus[] statuses() {
    MapOutputTracker tracker = SparkEnv.get().mapOutputTracker();
    int shuffleId = handle.shuffleId();
    MapStatus[] statuses = null;
    if (tracker instanceof MapOutputTrackerMaster master) {
      Option<ShuffleStatus> status = master.shuffleStatuses().get(shuffleId);
      if (status.isDefined()) statuses = status.get().withMapStatuses((MapStatus[] live) -> live.clone());
    } else {
      MapOutputTrackerWorker worker = (MapOutputTrackerWorker) tracker;
      // An empty range makes the worker fetch, and builds nothing. An epoch may clear what was fetched at any time.
      for (int tries = 0; tries < 10 && statuses == null; tries++) {
        Option<MapStatus[]> known = worker.mapStatuses().get(shuffleId);
        if (known.isDefined()) statuses = known.get();
        else worker.getMapSizesByExecutorId(shuffleId, 0, 0, 0, 0);
      }
    }
    if (statuses == null) {
      throw EbbErrors.sneaky(new MetadataFetchFailedException(shuffleId, startPartition, "no map outputs known for shuffle " + shuffleId));
    }
    int last = Math.min(endMap, statuses.length);
    for (int map = startMap; map < last; map++) {
      if (statuses[map] != null) continue;
      // Spark's own words for it: throws, and on an executor forgets what was fetched.
      tracker.getMapSizesByExecutorId(shuffleId, map, map + 1, startPartition, startPartition + 1);
      throw EbbErrors.sneaky(new MetadataFetchFailedException(shuffleId, startPartition, "Missing an output location for shuffle " + shuffleId + " partition " + startPartition));
    }
    return statuses;
  }

  /** Aggregation and order on the reduce side: BlockStoreShuffleReader's. */
  @SuppressWarnings({"unchecked", "rawtypes"})
  private Iterator<Product2<K, C>> combined(Iterator<Product2<K, C>> records) {
    ShuffleDependency<K, ?, C> dependency = handle.dependency();
    Iterator<Product2<K, C>> result = records;
    if (dependency.aggregator().isDefined()) {
      Aggregator aggregator = dependency.aggregator().get();
      result = dependency.mapSideCombine() ? aggregator.combineCombinersByKey(result, context) : aggregator.combineValuesByKey(result, context);
    }
    if (dependency.keyOrdering().isDefined()) {
      ExternalSorter sorter = SparkCompat.externalSorter(context, Option.empty(), Option.empty(), (Option) dependency.keyOrdering(), dependency.serializer(), new Object[0]);
      result = sorter.insertAllAndUpdateMetrics(result);
    }
    return result == records ? result : new InterruptibleIterator<>(context, result);
  }

  /**
   * What a task keeps of an iterator from its first record to the task's end, and of one that was read to its own end nothing: a
   * task may have thousands. The iterator itself, with its streams and deserializers, is its consumer's to drop.
   */
  private static final class Reading implements TaskCompletionListener {
    private final TaskContext context;
    private final ShuffleReadMetricsReporter metrics;
    /** Null once all was read. */
    private BlockCursor cursor;
    private long uncounted;

    Reading(BlockCursor cursor, TaskContext context, ShuffleReadMetricsReporter metrics) {
      this.cursor = cursor;
      this.context = context;
      this.metrics = metrics;
      context.addTaskCompletionListener(this);
    }

    boolean isOver() {
      return cursor == null;
    }

    void counted(int records) {
      uncounted += records;
      if (uncounted >= 4096) report(cursor);
    }

    private void report(BlockCursor of) {
      if (uncounted > 0) metrics.incRecordsRead(uncounted);
      uncounted = 0;
      of.report();
    }

    /** All was read. `shown` is what the last record points into, or null. Returns false, for hasNext. */
    boolean exhausted(byte[] shown) {
      BlockCursor read = cursor;
      if (read == null) return false;
      cursor = null;
      report(read);
      read.end(shown);
      context.taskMetrics().mergeShuffleReadMetrics();
      return false;
    }

    @Override
    public void onTaskCompletion(TaskContext task) {
      BlockCursor left = cursor;
      if (left == null) return;
      report(left);
      left.close();
      context.taskMetrics().mergeShuffleReadMetrics();
    }
  }

  private abstract static class Records<T> extends AbstractIterator<T> {
    final BlockCursor cursor;
    final Reading reading;

    Records(BlockCursor cursor, Reading reading) {
      this.cursor = cursor;
      this.reading = reading;
    }
  }

  /** The class names of Spark SQL are met only here, so that a core-only application never loads them. */
  private static final class Rows {
    static boolean reads(Object serializer) {
      return serializer.getClass().getName().equals("org.apache.spark.sql.execution.UnsafeRowSerializer")
          && SparkCompat.privateField(serializer, "numFields") instanceof Integer && Platform.unaligned();
    }

    static Records<?> of(BlockCursor cursor, Reading reading, Object serializer) {
      return new RowRecords(cursor, reading, (Integer) SparkCompat.privateField(serializer, "numFields"));
    }
  }

  /**
   * Rows as UnsafeRowSerializer's own iterator gives them: one row object and one pair, good until the next `next()`. The row
   * points into the decompressed chunk; only a row that crosses chunks is copied.
   */
  private static final class RowRecords extends Records<Tuple2<Object, UnsafeRow>> {
    private final ChunkReader chunks;
    private final UnsafeRow row;
    private final Tuple2<Object, UnsafeRow> pair;
    private byte[] crossing = new byte[0];
    private int inChunk;

    RowRecords(BlockCursor cursor, Reading reading, int fields) {
      super(cursor, reading);
      this.chunks = new ChunkReader(cursor);
      this.row = new UnsafeRow(fields);
      this.pair = new Tuple2<>(0, row);
    }

    @Override
    public boolean hasNext() {
      if (chunks.at < chunks.end) return true;
      if (reading.isOver()) return false;
      if (chunks.hasNext()) return true;
      reading.counted(inChunk);
      inChunk = 0;
      return reading.exhausted(chunks.bytes);
    }

    @Override
    public Tuple2<Object, UnsafeRow> next() {
      if (chunks.at == chunks.end) {
        reading.counted(inChunk);
        inChunk = 0;
        if (reading.isOver() || !chunks.next()) throw new java.util.NoSuchElementException("no more rows");
      }
      if (chunks.end - chunks.at >= 4) {
        int size = Integer.reverseBytes(Platform.getInt(chunks.bytes, Platform.BYTE_ARRAY_OFFSET + chunks.at));
        if (size >= 0 && size <= chunks.end - chunks.at - 4) {
          row.pointTo(chunks.bytes, Platform.BYTE_ARRAY_OFFSET + chunks.at + 4L, size);
          chunks.at += 4 + size;
          inChunk++;
          return pair;
        }
      }
      return crossing();
    }

    private Tuple2<Object, UnsafeRow> crossing() {
      byte[] head = new byte[4];
      take(head, 4);
      int size = Integer.reverseBytes(Platform.getInt(head, Platform.BYTE_ARRAY_OFFSET));
      if (size < 0 || size % 8 != 0) throw chunks.torn("row of " + size + " bytes");
      if (crossing.length < size) crossing = new byte[size];
      take(crossing, size);
      row.pointTo(crossing, Platform.BYTE_ARRAY_OFFSET, size);
      inChunk++;
      return pair;
    }

    private void take(byte[] into, int bytes) {
      for (int done = 0; done < bytes; ) {
        if (chunks.at == chunks.end && !chunks.next()) throw chunks.torn("the last row is cut off");
        int n = Math.min(bytes - done, chunks.end - chunks.at);
        System.arraycopy(chunks.bytes, chunks.at, into, done, n);
        chunks.at += n;
        done += n;
      }
    }
  }

  /** One deserialization stream over the chunks of all blocks. */
  private static final class StreamRecords extends Records<Tuple2<Object, Object>> {
    private final Iterator<Tuple2<Object, Object>> inner;

    StreamRecords(BlockCursor cursor, Reading reading, SerializerInstance serializer) {
      super(cursor, reading);
      DeserializationStream stream = serializer.deserializeStream(new ChunkReader.Stream(new ChunkReader(cursor)));
      this.inner = stream.asKeyValueIterator();
    }

    @Override
    public boolean hasNext() {
      if (reading.isOver()) return false;
      if (inner.hasNext()) return true;
      if (cursor.at < cursor.end || cursor.hasNextRun()) {
        throw cursor.failed(cursor.partition, new org.ebb.client.EbbException("data_corrupt", "the deserializer stopped before the last byte"));
      }
      return reading.exhausted(null);
    }

    @Override
    public Tuple2<Object, Object> next() {
      Tuple2<Object, Object> record = inner.next();
      reading.counted(1);
      return record;
    }
  }

  /** One stream for each block, through Spark's own decryption, decompression and deserialization. */
  private static final class EngineRecords extends Records<Tuple2<Object, Object>> {
    private final SerializerInstance serializer;
    private final SerializerManager manager;
    private final int shuffleId;
    private Iterator<Tuple2<Object, Object>> inner;
    private DeserializationStream stream;

    EngineRecords(BlockCursor cursor, Reading reading, SerializerInstance serializer, SerializerManager manager, int shuffleId) {
      super(cursor, reading);
      this.serializer = serializer;
      this.manager = manager;
      this.shuffleId = shuffleId;
    }

    @Override
    public boolean hasNext() {
      if (reading.isOver()) return false;
      while (inner == null || !inner.hasNext()) {
        if (stream != null) stream.close();
        stream = null;
        inner = null;
        if (!cursor.nextRun()) return reading.exhausted(null);
        ShuffleBlockId block = new ShuffleBlockId(shuffleId, cursor.status().mapId(), cursor.partition);
        stream = serializer.deserializeStream(manager.wrapStream(block, new Block(cursor)));
        inner = stream.asKeyValueIterator();
      }
      return true;
    }

    @Override
    public Tuple2<Object, Object> next() {
      if (!hasNext()) throw new java.util.NoSuchElementException("no more records");
      Tuple2<Object, Object> record = inner.next();
      reading.counted(1);
      return record;
    }
  }

  /** The bytes of the one block that the cursor shows. Closing it passes over what was not read. */
  private static final class Block extends InputStream {
    private final BlockCursor cursor;
    private boolean closed;

    Block(BlockCursor cursor) {
      this.cursor = cursor;
    }

    @Override
    public int read() {
      if (closed || !cursor.ensure(1)) return -1;
      return cursor.stored[cursor.at++] & 0xff;
    }

    @Override
    public int read(byte[] into, int to, int most) {
      if (most == 0) return 0;
      if (closed || !cursor.ensure(1)) return -1;
      int n = Math.min(most, cursor.end - cursor.at);
      System.arraycopy(cursor.stored, cursor.at, into, to, n);
      cursor.at += n;
      return n;
    }

    @Override
    public int available() {
      return closed ? 0 : cursor.end - cursor.at;
    }

    @Override
    public void close() throws IOException {
      if (closed) return;
      while (cursor.ensure(1)) cursor.at = cursor.end;
      closed = true;
    }
  }
}
