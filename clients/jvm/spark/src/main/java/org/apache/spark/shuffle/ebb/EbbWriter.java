package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.util.concurrent.TimeUnit;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.serializer.SerializerManager;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.storage.BlockManagerId;
import org.ebb.client.EbbException;
import org.ebb.client.EbbNode;
import org.ebb.client.IndexBlock;
import scala.Option;

/** What both writers share: the attempt, the framing, and the status that Spark gets. */
abstract class EbbWriter<K, V> extends ShuffleWriter<K, V> {
  final EbbRuntime runtime;
  final ShuffleDependency<K, V, ?> dependency;
  final TaskContext context;
  final ShuffleWriteMetricsReporter metrics;
  final SerializerManager serializerManager = SparkEnv.get().serializerManager();
  final MapOutputSink.Attempt attempt;
  final int partitions;
  final int framing;
  final EbbRuntime.WriterBuffers buffers;
  private MapStatus status;
  private long[] lengths;
  private boolean stopped;

  EbbWriter(EbbRuntime runtime, EbbShuffleHandle<K, V, ?> handle, TaskContext context, ShuffleWriteMetricsReporter metrics) {
    this.runtime = runtime;
    this.dependency = handle.dependency();
    this.context = context;
    this.metrics = metrics;
    this.attempt = new MapOutputSink.Attempt(handle.shuffleId(), context.partitionId(), context.taskAttemptId());
    this.partitions = dependency.partitioner().numPartitions();
    this.framing = framing(runtime, dependency, serializerManager);
    this.buffers = runtime.takeWriterBuffers();
  }

  /** Writer and reader decide alike: chunks where serialized records may be joined and the codec has chunks. */
  static int framing(EbbRuntime runtime, ShuffleDependency<?, ?, ?> dependency, SerializerManager serializerManager) {
    boolean chunks = dependency.serializer().supportsRelocationOfSerializedObjects()
        && runtime.settings.hasChunkCodec()
        && !serializerManager.encryptionEnabled();
    return chunks ? IndexBlock.FRAMING_CHUNKS : IndexBlock.FRAMING_ENGINE_STREAM;
  }

  interface Fill {
    void into(MapOutputSink sink) throws IOException;
  }

  /**
   * Writes and commits. A node that went away, or forgot the job, took the staged bytes with it: a `repeatable` fill is then
   * written anew once the node is back; otherwise the task fails, and Spark runs it again. Returns the partitions' lengths.
   */
  final long[] writeOut(Fill fill, boolean repeatable) throws IOException {
    long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(runtime.settings.reconnectTimeoutMs);
    while (true) {
      MapOutputSink sink = new MapOutputSink(runtime, attempt, partitions, framing, buffers, metrics);
      boolean done = false;
      try {
        fill.into(sink);
        long[] written = sink.commit();
        done = true;
        return written;
      } catch (EbbException e) {
        boolean lost = EbbNode.isNodeGone(e) || e.is("write_not_found") || EbbErrors.isForgotten(e);
        if (!repeatable || !lost || System.nanoTime() > deadline) throw e;
        runtime.node.retrying(session -> { // waits until the node is back
          session.ping();
          return null;
        });
      } finally {
        if (!done) {
          sink.abort();
          buffers.out.clear();
        }
      }
    }
  }

  final void committed(long[] written, long records, long checksum) {
    lengths = written;
    long bytes = 0;
    for (long length : lengths) bytes += length;
    metrics.incBytesWritten(bytes);
    metrics.incRecordsWritten(records);
    status = SparkCompat.mapStatus(location(), lengths, attempt.attemptId(), checksum);
  }

  /**
   * Where Spark believes the output to be. On a fetch failure Spark unregisters the map output whose location was named, and
   * then everything else at that executor id: one id for each map output makes it lose exactly the one that failed, and no
   * executor that leaves takes any with it. The host is a real one, for Spark's locality preferences.
   */
  private BlockManagerId location() {
    BlockManagerId here = SparkEnv.get().blockManager().blockManagerId();
    String executorId = "ebb-" + runtime.node.nodeId() + "-" + attempt.shuffleId() + "-" + attempt.attemptId();
    return BlockManagerId.apply(executorId, here.host(), Math.max(1, here.port()), Option.empty());
  }

  abstract void release();

  @Override
  public final Option<MapStatus> stop(boolean success) {
    if (stopped) return Option.empty();
    stopped = true;
    try {
      release();
    } finally {
      runtime.giveBack(buffers);
    }
    return success ? Option.apply(status) : Option.empty();
  }

  @Override
  public final long[] getPartitionLengths() {
    return lengths;
  }
}
