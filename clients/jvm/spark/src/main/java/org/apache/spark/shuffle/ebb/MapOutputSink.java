package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.zip.CRC32C;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.ebb.client.EbbException;
import org.ebb.client.EbbNode;
import org.ebb.client.GrowingFile;
import org.ebb.client.IndexBlock;
import org.ebb.client.Messages;
import org.ebb.client.Patience;
import org.ebb.client.Session;
import org.ebb.client.StagedFile;

/**
 * Writes one map output: partitions in order, then the index block, into one staged file; then commits it.
 *
 * <p>An output that fits the buffer is staged with its exact size and written by one call; a longer one is staged by an
 * estimate and extended. Nothing is visible before {@link #commit}; {@link #abort} leaves nothing behind.
 *
 * <p>Every attempt that commits stands, for the node is told of no order among attempts: which of them Spark reads is the word of
 * its MapOutputTracker. So what Spark has unregistered can neither come back nor stand in the way, whatever the job, the stage or
 * the attempt it belongs to, and a late attempt can only add an output that nobody reads.
 *
 * <p>I1: bytes are written only within the reservation, so want of room is an answer and never a signal.
 * I2: the CRC of a partition and of the blob cover exactly the bytes handed to the file.
 */
final class MapOutputSink extends OutBuffer {
  /** Which attempt at this map: `attemptId` is unique in the life of the driver, and so in the job. */
  record Attempt(int shuffleId, int mapIndex, long attemptId) {}

  private final EbbRuntime runtime;
  private final Attempt attempt;
  private final int framing;
  private final ShuffleWriteMetricsReporter metrics;
  private final long[] lengths;
  private final int[] crcs;
  private final CRC32C partitionCrc = new CRC32C();
  private final CRC32C blobCrc = new CRC32C();
  private final ByteBuffer view;
  private final GrowingFile growing;
  private long written;
  private long partitionStart;
  private int crcFrom;
  private int open = -1;
  private double progress;
  private long bytesMost;

  MapOutputSink(EbbRuntime runtime, Attempt attempt, int partitions, int framing, EbbRuntime.WriterBuffers buffers,
      ShuffleWriteMetricsReporter metrics) {
    super(buffers.out);
    this.runtime = runtime;
    this.attempt = attempt;
    this.framing = framing;
    this.metrics = metrics;
    this.lengths = new long[partitions];
    this.crcs = new int[partitions];
    this.view = buffers.out.duplicate();
    this.growing = new GrowingFile(new Staging());
  }

  /** How much of the input has gone through, 0 to 1, and about how many bytes all of it is at most: for the first reservation. */
  void progress(double done, long most) {
    progress = done;
    bytesMost = most;
  }

  void begin(int partition) {
    open = partition;
    partitionCrc.reset();
    crcFrom = buffer.position();
    partitionStart = position();
  }

  void end() {
    crcUpTo(buffer.position());
    lengths[open] = position() - partitionStart;
    crcs[open] = lengths[open] == 0 ? 0 : (int) partitionCrc.getValue();
    open = -1;
  }

  /** Bytes so far. */
  long position() {
    return written + buffer.position();
  }

  long[] lengths() {
    return lengths;
  }

  @Override
  void drain() throws IOException {
    int bytes = buffer.position();
    if (bytes == 0) return;
    if (open >= 0) crcUpTo(bytes);
    crcFrom = 0;
    view.limit(bytes).position(0);
    blobCrc.update(view);
    long start = System.nanoTime();
    growing.reserve(written + bytes, estimate(written + bytes), written);
    buffer.flip();
    growing.write(buffer, written);
    metrics.incWriteTime(System.nanoTime() - start);
    written += bytes;
    buffer.clear();
  }

  private void crcUpTo(int position) {
    if (position == crcFrom) return;
    view.limit(position).position(crcFrom);
    partitionCrc.update(view);
    crcFrom = position;
  }

  private long estimate(long sure) {
    if (progress <= 0 || progress > 1) return sure + Math.min(sure, GrowingFile.AHEAD_BYTES_MAX);
    // Partitions of few records may hold most of the bytes, or the other way round: the guess is bounded.
    long guess = (long) (sure / Math.max(progress, 0.001) * 1.05);
    return Math.max(sure, Math.min(guess, bytesMost)) + IndexBlock.bytes(lengths.length, sure);
  }

  /** Appends the index block, commits. Returns the lengths of the partitions. */
  long[] commit() throws IOException {
    if (open >= 0) throw new IllegalStateException("partition " + open + " is not ended");
    long dataBytes = position();
    ByteBuffer index = IndexBlock.encode(framing, attempt.shuffleId, attempt.mapIndex, attempt.attemptId, lengths, crcs);
    long sizeBytes = dataBytes + index.remaining();
    growing.reserve(sizeBytes, sizeBytes, written);
    int indexBytes = index.remaining();
    put(index.array(), 0, indexBytes);
    drain();
    if (written != sizeBytes) throw new IllegalStateException(written + " bytes written, " + sizeBytes + " meant");
    StagedFile file = growing.file();
    file.close();
    long start = System.nanoTime();
    Session session = file.session();
    try {
      var answer = session.mapCommit(new Messages.MapCommitRequest(file.writeId(), sizeBytes, (int) blobCrc.getValue(), indexBytes));
      if (!answer.won()) throw new EbbException("superseded", "another attempt holds the place of map " + attempt.mapIndex + " of shuffle " + attempt.shuffleId);
    } catch (EbbException e) {
      if (!EbbNode.isNodeGone(e)) throw e;
      // The commit may have happened before the connection went: look first.
      var rows = runtime.node.retrying(s -> s.mapResolve(runtime.node.jobId(), attempt.shuffleId, false, attempt.attemptId));
      if (rows.isEmpty()) throw e;
    }
    metrics.incWriteTime(System.nanoTime() - start);
    growing.forget();
    return lengths;
  }

  void abort() {
    growing.abort();
  }

  private final class Staging implements GrowingFile.Owner {
    @Override
    public StagedFile stage(long reserveBytes, int tier) throws EbbException {
      Messages.MapStageRequest request = new Messages.MapStageRequest(
          runtime.node.jobId(), attempt.shuffleId, attempt.mapIndex, attempt.attemptId, Messages.EPOCH_NONE, reserveBytes, tier);
      long timeoutMs = runtime.settings.reconnectTimeoutMs;
      Patience driver = new Patience(timeoutMs,
          () -> who() + " did not know job " + runtime.node.jobId() + ", or the shuffle, of " + what(timeoutMs)
              + ", and the driver did not bring them back");
      while (true) {
        try {
          return runtime.node.retrying(session -> new StagedFile(session, session.mapStage(request)));
        } catch (EbbException e) {
          if (!EbbErrors.isForgotten(e)) throw e;
          driver.wait(e);
        }
      }
    }

    @Override
    public Patience patience() {
      long timeoutMs = runtime.settings.fullTimeoutMs;
      return new Patience(timeoutMs, () -> who() + " had no room for " + what(timeoutMs)
          + "; give it more memory or disk, or raise " + EbbSettings.PREFIX + "writer.fullTimeout");
    }

    private String who() {
      return "the Ebb node at " + runtime.node.url();
    }

    private String what(long timeoutMs) {
      return "map " + attempt.mapIndex + " of shuffle " + attempt.shuffleId + " (" + position() + " bytes so far) for " + timeoutMs + " ms";
    }
  }
}
