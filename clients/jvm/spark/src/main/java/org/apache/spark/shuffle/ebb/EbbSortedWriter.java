package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.io.OutputStream;
import org.apache.spark.Aggregator;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.TaskContext;
import org.apache.spark.executor.TaskMetrics;
import org.apache.spark.serializer.SerializationStream;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.api.ShuffleMapOutputWriter;
import org.apache.spark.shuffle.api.ShufflePartitionWriter;
import org.apache.spark.shuffle.api.metadata.MapOutputCommitMessage;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.util.collection.ExternalSorter;
import org.ebb.client.IndexBlock;
import scala.Option;
import scala.Product2;
import scala.Tuple2;
import scala.collection.Iterator;
import scala.reflect.ClassTag;
import scala.reflect.ClassTag$;

/**
 * For map-side combine and for serializers whose records may not be moved: Spark's ExternalSorter, as SortShuffleWriter uses
 * it, streaming into the staged file. Never one file or one writer for each partition.
 */
final class EbbSortedWriter<K, V, C> extends EbbWriter<K, V> {
  @SuppressWarnings({"unchecked", "rawtypes"})
  private static final ClassTag<Object> OBJECT_TAG = (ClassTag) ClassTag$.MODULE$.Object();

  private final ShuffleDependency<K, V, C> combining;
  private final long mapId;
  private ExternalSorter<K, V, C> sorter;

  EbbSortedWriter(EbbRuntime runtime, EbbShuffleHandle<K, V, C> handle, long mapId, TaskContext context, ShuffleWriteMetricsReporter metrics) {
    super(runtime, handle, context, metrics);
    this.combining = handle.dependency();
    this.mapId = mapId;
  }

  @Override
  public void write(Iterator<Product2<K, V>> records) throws IOException {
    boolean combine = combining.mapSideCombine();
    Option<Aggregator<K, V, C>> aggregator = combine ? combining.aggregator() : Option.empty();
    Object[] rowChecksums = SparkCompat.rowChecksums(combining);
    sorter = SparkCompat.externalSorter(context, aggregator, Option.apply(combining.partitioner()),
        combine ? combining.keyOrdering() : Option.empty(), combining.serializer(), rowChecksums);
    sorter.insertAll(records);
    Counted counted = new Counted();
    long[] lengths = framing == IndexBlock.FRAMING_CHUNKS
        ? writeOut(sink -> writeChunks(sink, counted), false)
        : writeOut(sink -> sorter.writePartitionedMapOutput(attempt.shuffleId(), mapId, new EngineOutput(sink), counted), false);
    if (framing == IndexBlock.FRAMING_CHUNKS) {
      TaskMetrics task = context.taskMetrics();
      task.incMemoryBytesSpilled(sorter.memoryBytesSpilled());
      task.incDiskBytesSpilled(sorter.diskBytesSpilled());
      task.incPeakExecutionMemory(sorter.peakMemoryUsedBytes());
    }
    committed(lengths, counted.records, SparkCompat.aggregatedChecksum(rowChecksums));
  }

  /** One serializer stream and one codec for all partitions: the serializer says that its records may be cut and joined. */
  private void writeChunks(MapOutputSink sink, Counted counted) throws IOException {
    PartitionEncoder.Chunks encoder = new PartitionEncoder.Chunks(sink, buffers);
    OutputStream out = new OutputStream() {
      private final byte[] one = new byte[1];

      @Override
      public void write(int b) throws IOException {
        one[0] = (byte) b;
        encoder.append(one, Platform.BYTE_ARRAY_OFFSET, 1);
      }

      @Override
      public void write(byte[] from, int at, int bytes) throws IOException {
        encoder.append(from, Platform.BYTE_ARRAY_OFFSET + at, bytes);
      }
    };
    SerializationStream stream = combining.serializer().newInstance().serializeStream(out);
    Iterator<Tuple2<Object, Iterator<Product2<K, C>>>> byPartition = sorter.partitionedIterator();
    while (byPartition.hasNext()) {
      Tuple2<Object, Iterator<Product2<K, C>>> next = byPartition.next();
      Iterator<Product2<K, C>> elements = next._2();
      if (!elements.hasNext()) continue;
      sink.begin((Integer) next._1());
      while (elements.hasNext()) {
        Product2<K, C> element = elements.next();
        stream.writeKey(element._1(), OBJECT_TAG);
        stream.writeValue(element._2(), OBJECT_TAG);
        counted.records++;
      }
      stream.flush();
      encoder.end();
      sink.end();
    }
    stream.close();
  }

  @Override
  void release() {
    if (sorter != null) sorter.stop();
    sorter = null;
  }

  /** The sink measures bytes itself, after they were compressed; records are known here. */
  private static final class Counted implements ShuffleWriteMetricsReporter {
    long records;

    @Override
    public void incBytesWritten(long bytes) {}

    @Override
    public void incRecordsWritten(long more) {
      records += more;
    }

    @Override
    public void incWriteTime(long nanos) {}

    @Override
    public void decBytesWritten(long bytes) {}

    @Override
    public void decRecordsWritten(long less) {
      records -= less;
    }
  }

  /** Partitions come in rising order, one stream each. */
  private static final class EngineOutput implements ShuffleMapOutputWriter {
    private final MapOutputSink sink;

    EngineOutput(MapOutputSink sink) {
      this.sink = sink;
    }

    @Override
    public ShufflePartitionWriter getPartitionWriter(int partition) {
      return new ShufflePartitionWriter() {
        @Override
        public OutputStream openStream() {
          sink.begin(partition);
          return new OutBuffer.Stream(sink) {
            private boolean closed;

            @Override
            public void close() {
              if (!closed) sink.end();
              closed = true;
            }
          };
        }

        @Override
        public long getNumBytesWritten() {
          return sink.lengths()[partition];
        }
      };
    }

    @Override
    public MapOutputCommitMessage commitAllPartitions(long[] checksums) {
      return MapOutputCommitMessage.of(sink.lengths());
    }

    @Override
    public void abort(Throwable error) {
      sink.abort();
    }
  }
}
