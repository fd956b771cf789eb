package org.apache.spark.shuffle.ebb;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.Partitioner;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.serializer.SerializationStream;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.unsafe.Platform;
import org.ebb.client.IndexBlock;
import scala.Product2;
import scala.collection.Iterator;
import scala.reflect.ClassTag;
import scala.reflect.ClassTag$;

/**
 * For serializers whose records may be moved, without map-side combine: records are serialized once, as they come, sorted by
 * partition, and written in one pass into the staged file. What Spark's UnsafeShuffleWriter does, without its streams and
 * 64 KiB of buffers for each partition, and without the bypass-merge writer's file for each partition.
 */
final class EbbSerializedWriter<K, V> extends EbbWriter<K, V> {
  @SuppressWarnings({"unchecked", "rawtypes"})
  private static final ClassTag<Object> OBJECT_TAG = (ClassTag) ClassTag$.MODULE$.Object();

  /** What codecs and encryption add to a partition that does not compress, about. */
  private static final long FRAMING_BYTES_MAX = 128;

  private final RecordStore records;
  private final List<SpillFile> spills = new ArrayList<>();
  private final Object[] rowChecksums;
  private long recordCount;
  private long memoryBytesSpilled;

  EbbSerializedWriter(EbbRuntime runtime, EbbShuffleHandle<K, V, ?> handle, TaskContext context, ShuffleWriteMetricsReporter metrics) {
    super(runtime, handle, context, metrics);
    int spillRecordsMax = runtime.settings.spillRecordsMax;
    boolean isChunked = framing == IndexBlock.FRAMING_CHUNKS && ChunkedRecords.isFor(partitions, runtime.settings.chunkBytes);
    this.records = isChunked
        ? new ChunkedRecords(context.taskMemoryManager(), buffers, partitions, spillRecordsMax, this::spill)
        : new RecordSorter(context.taskMemoryManager(), partitions, spillRecordsMax, this::spill);
    this.rowChecksums = SparkCompat.rowChecksums(dependency);
  }

  @Override
  public void write(Iterator<Product2<K, V>> input) throws IOException {
    if (UnsafeRows.serializes(dependency.serializer())) UnsafeRows.insertAll(this, input);
    else insertAll(input);
    long[] lengths = writeOut(this::fill, true);
    committed(lengths, recordCount, SparkCompat.aggregatedChecksum(rowChecksums));
    context.taskMetrics().incPeakExecutionMemory(records.peakBytes());
    if (!spills.isEmpty()) {
      context.taskMetrics().incMemoryBytesSpilled(memoryBytesSpilled);
      long onDisk = 0;
      for (SpillFile spill : spills) onDisk += spill.fileBytes;
      context.taskMetrics().incDiskBytesSpilled(onDisk);
    }
  }

  private void insertAll(Iterator<Product2<K, V>> input) throws IOException {
    Partitioner partitioner = dependency.partitioner();
    OpenBytes bytes = new OpenBytes();
    SerializationStream stream = dependency.serializer().newInstance().serializeStream(bytes);
    while (input.hasNext()) {
      Product2<K, V> record = input.next();
      K key = record._1();
      int partition = partitioner.getPartition(key);
      bytes.reset();
      stream.writeKey(key, OBJECT_TAG);
      stream.writeValue(record._2(), OBJECT_TAG);
      stream.flush();
      int size = bytes.size();
      long at = records.insert(partition, size);
      Platform.copyMemory(bytes.array(), Platform.BYTE_ARRAY_OFFSET, records.base(), at, size);
      if (rowChecksums.length > 0) SparkCompat.updateChecksum(rowChecksums[partition], key, record._2());
      recordCount++;
    }
    stream.close();
  }

  /** The class names of Spark SQL are met only here, so that a core-only application never loads them. */
  private static final class UnsafeRows {
    static boolean serializes(Object serializer) {
      return serializer.getClass().getName().equals("org.apache.spark.sql.execution.UnsafeRowSerializer")
          && SparkCompat.hasPrivateField(serializer, "dataSize");
    }

    /** Writes what UnsafeRowSerializer would, length and row, straight from the row's memory, and counts what it counts. */
    static <K, V> void insertAll(EbbSerializedWriter<K, V> writer, Iterator<Product2<K, V>> input) throws IOException {
      SQLMetric dataSize = (SQLMetric) SparkCompat.privateField(writer.dependency.serializer(), "dataSize");
      Partitioner partitioner = writer.dependency.partitioner();
      RecordStore store = writer.records;
      Object[] checksums = writer.rowChecksums;
      long bytes = 0;
      long count = 0;
      while (input.hasNext()) {
        Product2<K, V> record = input.next();
        UnsafeRow row = (UnsafeRow) record._2();
        int size = row.getSizeInBytes();
        int partition = partitioner.getPartition(record._1());
        long at = store.insert(partition, size + 4);
        Object base = store.base();
        Platform.putInt(base, at, Integer.reverseBytes(size));
        Platform.copyMemory(row.getBaseObject(), row.getBaseOffset(), base, at + 4, size);
        if (checksums.length > 0) SparkCompat.updateChecksum(checksums[partition], record._1(), row);
        bytes += size;
        count++;
      }
      writer.recordCount = count;
      if (dataSize != null) dataSize.add(bytes);
    }
  }

  private PartitionEncoder encoder(OutBuffer target) {
    return framing == IndexBlock.FRAMING_CHUNKS
        ? new PartitionEncoder.Chunks(target, buffers)
        : new PartitionEncoder.EngineStreams(target, buffers, serializerManager, attempt.shuffleId(), attempt.attemptId());
  }

  /** May run again: reads pages and spills, and changes neither. */
  private void fill(MapOutputSink sink) throws IOException {
    records.sort();
    long bytesMost = records.recordBytes() + records.recordBytes() / 32 + partitions * FRAMING_BYTES_MAX;
    PartitionEncoder encoder = encoder(sink);
    List<SpillFile.Reader> readers = new ArrayList<>();
    try {
      for (SpillFile spill : spills) readers.add(spill.reader());
      long recordsDone = 0;
      for (int p = 0; p < partitions; p++) {
        boolean any = records.count(p) > 0;
        for (int i = 0; i < readers.size() && !any; i++) any = spills.get(i).lengths[p] > 0;
        if (!any) continue;
        if (recordCount > 0 && spills.isEmpty()) sink.progress((double) recordsDone / recordCount, bytesMost);
        sink.begin(p);
        encoder.begin(p);
        for (int i = 0; i < readers.size(); i++) {
          long bytes = spills.get(i).lengths[p];
          if (bytes > 0) encoder.appendSpilled(readers.get(i), bytes);
        }
        records.encode(p, encoder);
        encoder.end();
        sink.end();
        recordsDone += records.count(p);
      }
    } finally {
      for (SpillFile.Reader reader : readers) reader.close();
    }
  }

  private void spill(RecordStore full) throws IOException {
    long start = System.nanoTime();
    File file = SparkEnv.get().blockManager().diskBlockManager().createTempShuffleBlock()._2();
    SpillFile spill = new SpillFile(file, partitions, serializerManager);
    spills.add(spill); // before the first byte, so that a failure leaves no file
    full.sort();
    try (SpillFile.Writer out = spill.writer(buffers.out)) {
      PartitionEncoder encoder = new PartitionEncoder.Chunks(out, buffers);
      for (int p = 0; p < partitions; p++) {
        if (full.count(p) == 0) continue;
        out.begin();
        full.encode(p, encoder);
        encoder.end();
        out.end(p);
      }
    }
    memoryBytesSpilled += full.getUsed();
    metrics.incWriteTime(System.nanoTime() - start);
  }

  @Override
  void release() {
    records.clear();
    for (SpillFile spill : spills) spill.delete();
    spills.clear();
  }

  /** A byte array stream that shows its array. */
  private static final class OpenBytes extends ByteArrayOutputStream {
    OpenBytes() {
      super(64 * 1024);
    }

    byte[] array() {
      return buf;
    }
  }
}
