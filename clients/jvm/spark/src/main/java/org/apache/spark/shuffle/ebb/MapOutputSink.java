package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32C;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.ebb.client.EbbException;
import org.ebb.client.EbbNode;
import org.ebb.client.IndexBlock;
import org.ebb.client.Messages;
import org.ebb.client.Session;
import org.ebb.client.StagedFile;

/**
 * Writes one map output: partitions in order, then the index block, into one staged file; then commits it.
 *
 * <p>An output that fits the buffer is staged with its exact size and written by one call; a longer one is staged by an
 * estimate and extended. Nothing is visible before {@link #commit}; {@link #abort} leaves nothing behind.
 *
 * <p>I1: bytes are written only within the reservation, so want of room is an answer and never a signal.
 * I2: the CRC of a partition and of the blob cover exactly the bytes handed to the file.
 */
final class MapOutputSink extends OutBuffer {
  /** Which attempt at this map: `attemptId` is unique in the application, `epoch` the attempt at the stage. */
  record Attempt(int shuffleId, int mapIndex, long attemptId, int epoch) {}

  /** `attemptId` is the one whose output stands. */
  record Committed(long attemptId, long[] lengths) {}

  private static final long EXTEND_BYTES_MAX = 256L << 20;
  private static final long FULL_RETRY_MS = 200;

  private final EbbRuntime runtime;
  private final Attempt attempt;
  private final int framing;
  private final ShuffleWriteMetricsReporter metrics;
  private final long[] lengths;
  private final int[] crcs;
  private final CRC32C partitionCrc = new CRC32C();
  private final CRC32C blobCrc = new CRC32C();
  private final ByteBuffer view;
  private final int firstTier;
  private StagedFile file;
  private long written;
  private long partitionStart;
  private int crcFrom;
  private int open = -1;
  private double progress;

  MapOutputSink(EbbRuntime runtime, Attempt attempt, int partitions, int framing, EbbRuntime.WriterBuffers buffers,
      ShuffleWriteMetricsReporter metrics, int firstTier) {
    super(buffers.out);
    this.runtime = runtime;
    this.attempt = attempt;
    this.framing = framing;
    this.metrics = metrics;
    this.lengths = new long[partitions];
    this.crcs = new int[partitions];
    this.view = buffers.out.duplicate();
    this.firstTier = firstTier;
  }

  /** How much of the input has gone through, 0 to 1: from it the first reservation is estimated. 0 when not known. */
  void progress(double done) {
    progress = done;
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
    reserve(written + bytes, estimate(written + bytes));
    buffer.flip();
    file.write(buffer, written);
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
    if (progress <= 0 || progress > 1) return sure + Math.min(sure, EXTEND_BYTES_MAX);
    return (long) (sure / Math.max(progress, 0.001) * 1.05) + IndexBlock.bytes(lengths.length, sure);
  }

  private void reserve(long need, long wanted) throws IOException {
    if (file == null) {
      file = stage(Math.max(need, wanted), need, firstTier);
      return;
    }
    if (need <= file.reservedBytes()) return;
    long more = Math.max(need, Math.min(wanted, need + EXTEND_BYTES_MAX));
    Patience patience = new Patience();
    while (true) {
      try {
        file.extend(more);
        return;
      } catch (EbbException e) {
        if (e.is("tier_full") && more > need) more = need; // ask for less before moving
        else if (e.is("tier_full") && file.tier() == 0) break;
        else if (e.is("tier_full") || e.is("busy")) patience.wait(e);
        else throw e;
      }
    }
    if (!file.canCopy()) throw new EbbException("tier_full", "map output outgrew tier 0, and its file cannot be seen to be moved");
    StagedFile below = stage(need + Math.min(need, EXTEND_BYTES_MAX), need, 1);
    try {
      file.copyTo(below, written);
    } catch (IOException | RuntimeException e) {
      below.abort();
      throw e;
    }
    file.abort();
    file = below;
  }

  /** @throws EbbException when no tier has had room for the bounded time, or the node is gone beyond its own. */
  private StagedFile stage(long wanted, long need, int tier) throws IOException {
    Patience patience = new Patience();
    long reserve = wanted;
    while (true) {
      try {
        long bytes = reserve;
        return runtime.node.retrying(session -> new StagedFile(session, session.mapStage(new Messages.MapStageRequest(
            runtime.node.jobId(), attempt.shuffleId, attempt.mapIndex, attempt.attemptId, attempt.epoch, bytes, tier))));
      } catch (EbbException e) {
        if (e.is("tier_full") && reserve > need) reserve = need;
        else if (e.is("tier_full") || e.is("busy")) patience.wait(e);
        else throw e;
      }
    }
  }

  /** Waits as the node says, for a bounded time in all. */
  private final class Patience {
    private final long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(runtime.settings.fullTimeoutMs);

    void wait(EbbException full) throws EbbException {
      long ms = Math.max(10, Math.min(full.retryAfterMs(FULL_RETRY_MS), 10_000));
      if (System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(ms) > deadline) {
        throw new EbbException(full.code, "the Ebb node at " + runtime.node.url() + " had no room for map " + attempt.mapIndex + " of shuffle "
            + attempt.shuffleId + " (" + position() + " bytes so far) for " + runtime.settings.fullTimeoutMs
            + " ms; give it more memory or disk, or raise " + EbbSettings.PREFIX + "writer.fullTimeout", full);
      }
      EbbNode.sleep(ms);
    }
  }

  /** Appends the index block, commits. The answer names the attempt that stands, which may be another. */
  Committed commit() throws IOException {
    if (open >= 0) throw new IllegalStateException("partition " + open + " is not ended");
    long dataBytes = position();
    ByteBuffer index = IndexBlock.encode(framing, attempt.shuffleId, attempt.mapIndex, attempt.attemptId, lengths, crcs);
    long sizeBytes = dataBytes + index.remaining();
    reserve(sizeBytes, sizeBytes);
    int indexBytes = index.remaining();
    put(index.array(), 0, indexBytes);
    drain();
    if (written != sizeBytes) throw new IllegalStateException(written + " bytes written, " + sizeBytes + " meant");
    file.close();
    long start = System.nanoTime();
    Session session = file.session();
    Messages.MapCommitResponse answer;
    try {
      answer = session.mapCommit(new Messages.MapCommitRequest(file.writeId(), sizeBytes, (int) blobCrc.getValue(), indexBytes));
    } catch (EbbException e) {
      if (!EbbNode.isNodeGone(e)) throw e;
      // The commit may have happened before the connection went: look first.
      var rows = runtime.node.retrying(s -> s.mapResolve(runtime.node.jobId(), attempt.shuffleId, false, attempt.attemptId));
      if (rows.isEmpty()) throw e;
      answer = new Messages.MapCommitResponse(true, rows.get(0));
    }
    metrics.incWriteTime(System.nanoTime() - start);
    file = null;
    if (answer.won()) return new Committed(attempt.attemptId, lengths);
    long standing = answer.winner().attemptId();
    return new Committed(standing, runtime.reads(attempt.shuffleId).lengthsOf(attempt.mapIndex, standing, lengths.length));
  }

  void abort() {
    if (file != null) file.abort();
    file = null;
  }
}
