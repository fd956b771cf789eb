package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedByInterruptException;
import java.nio.channels.ClosedChannelException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.zip.CRC32C;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.shuffle.FetchFailedException;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.ebb.client.EbbException;
import org.ebb.client.Messages;
import org.ebb.client.Session;

/**
 * Walks the blocks of one reduce task, map output after map output and partition after partition, and shows their stored
 * bytes in an array of its own: `stored[at .. end)`.
 *
 * <p>I1: a partition's bytes are shown only after its CRC32C was verified over the very copy that is shown (a partition longer
 * than the array is verified in a first pass over the map output).
 * I2: every byte that the index promises is shown, or the task fails with the map output's FetchFailedException.
 * I3: no mapping is held between calls, so the node can have its file back at any time.
 * I4: per block there is no call, no system call and no allocation.
 * I5: the buffers are as long as what was read needed, and go back when the last block was read ({@link #end}), not when the task
 * ends: a task may read thousands of partitions, each with a cursor of its own.
 */
class BlockCursor {
  /** Neighbouring partitions of a map output are taken together up to this size; longer partitions go through in pieces. */
  static final int RUN_BYTES_MAX = 256 * 1024;
  private static final int READ_TRIES = 3;

  final EbbRuntime runtime;
  final ShuffleReads reads;
  final EbbRuntime.ReaderBuffers buffers;
  private final TaskContext context;
  private final ShuffleReadMetricsReporter metrics;
  private final int shuffleId;
  private final MapStatus[] statuses;
  private final MapOutput[] outputs;
  private final int endMap;
  private final int startPartition;
  private final int endPartition;
  /** Each run is one partition: for framings that know streams, not chunks. */
  private final boolean onePartition;
  private final CRC32C crc = new CRC32C();

  byte[] stored;
  int at;
  int end;
  /** The block that `stored` shows; of a run of several partitions, the first. */
  int map;
  int partition;

  private int nextPartition;
  /** Of a partition longer than the array: what is not yet shown. */
  private long restFrom;
  private long restBytes;

  private long localBytes;
  private long localBlocks;
  private long remoteBytes;
  private long remoteBlocks;
  private long waitNanos;
  private Prefetcher prefetcher;
  private boolean oneByOne;
  private final Thread taskThread = Thread.currentThread();
  /** Some other thread reads for the task (Python's writer does), and may go on when the task is over. */
  private volatile boolean isShared;
  private volatile boolean isClosed;

  BlockCursor(EbbRuntime runtime, ShuffleReads reads, ShuffleReads.Table table, int shuffleId, int startMap, int endMap, int startPartition,
      int endPartition, boolean onePartition, TaskContext context, ShuffleReadMetricsReporter metrics) {
    this.runtime = runtime;
    this.reads = reads;
    this.shuffleId = shuffleId;
    this.statuses = table.statuses();
    this.outputs = table.outputs();
    this.map = startMap;
    this.endMap = endMap;
    this.startPartition = startPartition;
    this.endPartition = endPartition;
    this.nextPartition = startPartition;
    this.onePartition = onePartition;
    this.context = context;
    this.metrics = metrics;
    this.buffers = runtime.takeReaderBuffers();
    this.stored = buffers.stored;
  }

  MapStatus status() {
    return statuses[map];
  }

  /** Whether there are blocks beyond what is shown now. Looks at indexes only: what is shown stays as it is. */
  final boolean hasNextRun() {
    if (restBytes > 0) return true;
    while (map < endMap) {
      if (nextPartition < endPartition) {
        OpenOutput open = acquire();
        try {
          // One comparison skips a map output that has nothing for this task.
          if (open.offset(endPartition) > open.offset(nextPartition)) {
            while (open.offset(nextPartition + 1) == open.offset(nextPartition)) nextPartition++;
            return true;
          }
        } finally {
          open.release();
        }
      }
      map++;
      nextPartition = startPartition;
    }
    return false;
  }

  /** Before the buffers are written to. */
  final void checkOpen() {
    // In this order, with close() in the other: either this thread sees the end, or close() sees this thread.
    if (Thread.currentThread() != taskThread) isShared = true;
    if (isClosed) throw new IllegalStateException("the task that reads shuffle " + shuffleId + " is over");
  }

  /** Shows the next run, in place of what was shown. False at the end. */
  final boolean nextRun() {
    checkOpen();
    if (restBytes > 0) throw new IllegalStateException("the partition is not read to its end");
    if (!hasNextRun()) return false;
    context.killTaskIfInterrupted();
    for (int tries = 1; ; tries++) {
      OpenOutput open = acquire();
      try {
        if (load(open)) return true;
      } catch (ClosedChannelException e) {
        stopIfInterrupted(e);
        runtime.outputs.drop(open); // another task was killed while it read this channel
        continue;
      } catch (IOException e) {
        retry(nextPartition, tries, e);
        continue;
      } finally {
        open.release();
      }
      retry(nextPartition, tries,
          new EbbException("checksum_mismatch", "partition " + nextPartition + " of map output " + map + " does not match its CRC32C"));
    }
  }

  /** Returns when it makes sense to acquire the output anew, and to read again. */
  private void retry(int reducePartition, int tries, IOException why) {
    if (!(why instanceof EbbException known) || tries >= READ_TRIES) throw failed(reducePartition, why);
    if (known.is("node_unreachable")) return; // acquire waits for the next session
    if (!known.is("checksum_mismatch") && !known.is("data_lost")) throw failed(reducePartition, why);
    try {
      reads.suspect(outputs[map]);
    } catch (IOException e) {
      throw failed(reducePartition, e);
    }
  }

  /** Reads and verifies the next run. False when a checksum does not match. */
  private boolean load(OpenOutput open) throws IOException {
    int from = nextPartition;
    int to = runEnd(open, from);
    long start = open.offset(from);
    long bytes = open.offset(to) - start;
    if (bytes > RUN_BYTES_MAX) {
      if (!verifyLong(open, from, start, bytes)) return false;
      restFrom = start;
      restBytes = bytes;
      at = 0;
      end = 0;
    } else {
      if (stored.length < bytes) grow((int) bytes);
      read(open, start, 0, (int) bytes);
      if (runtime.settings.checksum) {
        int done = 0;
        for (int p = from; p < to; p++) {
          int length = (int) (open.offset(p + 1) - start) - done;
          if (length == 0) continue;
          crc.reset();
          crc.update(stored, done, length);
          if ((int) crc.getValue() != open.crc(p)) return false;
          done += length;
        }
      }
      at = 0;
      end = (int) bytes;
    }
    int blocks = 0;
    for (int p = from; p < to; p++) if (open.offset(p + 1) > open.offset(p)) blocks++;
    count(open, bytes, blocks);
    partition = from;
    nextPartition = to;
    return true;
  }

  /** Where the run that starts at this partition ends: with the next partition at the earliest. */
  final int runEnd(OpenOutput open, int from) {
    long start = open.offset(from);
    int to = from + 1;
    if (onePartition) return to;
    while (to < endPartition && open.offset(to + 1) - start <= RUN_BYTES_MAX) to++;
    return to;
  }

  private boolean verifyLong(OpenOutput open, int p, long start, long bytes) throws IOException {
    if (!runtime.settings.checksum) return true;
    if (stored.length < RUN_BYTES_MAX) grow(RUN_BYTES_MAX);
    crc.reset();
    for (long done = 0; done < bytes; ) {
      int n = (int) Math.min(RUN_BYTES_MAX, bytes - done);
      read(open, start + done, 0, n);
      crc.update(stored, 0, n);
      done += n;
    }
    return (int) crc.getValue() == open.crc(p);
  }

  /** Makes at least `bytes` visible, taking more of a long partition if need be. @return false when the partition has fewer. */
  final boolean ensure(int bytes) {
    if (end - at >= bytes) return true;
    checkOpen();
    if (end - at + restBytes < bytes) return false;
    for (int tries = 1; ; tries++) {
      OpenOutput open = acquire();
      try {
        int kept = end - at;
        byte[] old = stored;
        int room = Math.max(bytes, (int) Math.min(RUN_BYTES_MAX, kept + restBytes));
        if (stored.length < room) grow(room);
        System.arraycopy(old, at, stored, 0, kept);
        at = 0;
        end = kept;
        int n = (int) Math.min(stored.length - kept, restBytes);
        read(open, restFrom, kept, n);
        end = kept + n;
        restFrom += n;
        restBytes -= n;
        return true;
      } catch (ClosedChannelException e) {
        stopIfInterrupted(e);
        runtime.outputs.drop(open);
      } catch (IOException e) {
        retry(partition, tries, e);
      } finally {
        open.release();
      }
    }
  }

  /** Whether the shown run, a single partition, has bytes that `ensure` could bring. */
  final boolean hasRest() {
    return restBytes > 0;
  }

  private void grow(int bytes) {
    stored = buffers.stored = EbbRuntime.ReaderBuffers.sized(bytes, RUN_BYTES_MAX);
  }

  private void read(OpenOutput open, long from, int to, int bytes) throws IOException {
    if (open.isLocal()) {
      open.copy(from, stored, to, bytes);
      return;
    }
    long start = System.nanoTime();
    readRemote(open, from, to, bytes);
    waitNanos += System.nanoTime() - start;
  }

  private void readRemote(OpenOutput open, long from, int to, int bytes) throws IOException {
    if (!oneByOne) {
      Prefetcher ahead = prefetcher == null ? new Prefetcher(map, nextPartition, from) : prefetcher;
      prefetcher = null; // unless it goes on; else what is on its way is dropped, and planned again from where the cursor then is
      try {
        if (ahead.take(open, from, stored, to, bytes)) {
          prefetcher = ahead;
          return;
        }
      } catch (EbbException e) {
        if (e.is("node_unreachable") || e.is("aborted")) throw e;
        // Any of the map outputs that were asked for together may be the one that is gone: an answer about one names the right one.
        oneByOne = true;
      }
    }
    open.copy(from, stored, to, bytes);
  }

  /**
   * Asks for the bytes of the runs to come, in the order and as often as the cursor reads them (a long partition twice: to
   * verify, then to show), many ranges in one request, several requests under way, their bytes bounded.
   */
  private final class Prefetcher {
    private static final int RANGES_MAX = 2048;
    private final long inFlightMax = runtime.settings.inFlightBytesMax;
    private final int requestBytesMax = (int) Math.max(RUN_BYTES_MAX, Math.min(Messages.READ_BYTES_MAX, inFlightMax / 4));
    private final ArrayDeque<Piece> pieces = new ArrayDeque<>();
    private long inFlight;
    private int planMap;
    private int planPartition;
    /** Of a long partition being planned: passes left over its bytes, and where the pass is. */
    private int passes;
    private long passFrom;
    private long passEnd;
    private boolean done;

    /** `at`: the data offset of the next read, which lies in the run at this partition. */
    Prefetcher(int map, int partition, long at) throws IOException {
      planMap = map;
      planPartition = partition;
      OpenOutput open = reads.acquire(outputs[map]);
      try {
        if (partition >= endPartition || open.offset(partition) != at) done = true; // amid a long partition: read it directly
      } finally {
        open.release();
      }
    }

    boolean take(OpenOutput open, long from, byte[] into, int to, int bytes) throws IOException {
      while (bytes > 0) {
        fill();
        Piece piece = pieces.peek();
        if (piece == null || piece.output != open || piece.from != from) return false;
        int n = Math.min(bytes, piece.bytes);
        ByteBuffer data = piece.request.data();
        data.get(piece.at, into, to, n);
        piece.from += n;
        piece.at += n;
        piece.bytes -= n;
        inFlight -= n;
        if (piece.bytes == 0) pieces.poll();
        from += n;
        to += n;
        bytes -= n;
      }
      return true;
    }

    private void fill() throws IOException {
      // A further request only when there is room for a good part of one: many small ones would be calls again.
      while (!done && (pieces.isEmpty() || inFlight + requestBytesMax <= inFlightMax)) {
        Session session = runtime.node.session();
        Request request = new Request(session);
        List<Messages.ReadRange> ranges = new ArrayList<>();
        int size = 0;
        while (!done && size < requestBytesMax && ranges.size() < RANGES_MAX) {
          Piece piece = plan(requestBytesMax - size);
          if (piece == null) continue;
          piece.request = request;
          piece.at = size;
          size += piece.bytes;
          ranges.add(new Messages.ReadRange(piece.output.row.location().blobId(), piece.output.row.location().offset() + piece.from, piece.bytes));
          pieces.add(piece);
        }
        if (ranges.isEmpty()) return;
        inFlight += size;
        request.send(ranges, size);
      }
    }

    /** The next bytes to be read, at most `room`; null when only the position moved on. */
    private Piece plan(int room) throws IOException {
      if (planMap >= endMap) {
        done = true;
        return null;
      }
      if (outputs[planMap].open == null) reads.openAhead(outputs, planMap, endMap);
      OpenOutput open = reads.acquire(outputs[planMap]);
      try {
        if (open.isLocal()) { // the node came back where we can see it
          done = true;
          return null;
        }
        if (passFrom == passEnd) {
          if (passes > 0) { // again from the start of the long partition
            passes--;
            passFrom = open.offset(planPartition - 1);
            return null;
          }
          while (planPartition < endPartition && open.offset(planPartition + 1) == open.offset(planPartition)) planPartition++;
          if (planPartition >= endPartition) {
            planMap++;
            planPartition = startPartition;
            return null;
          }
          int to = runEnd(open, planPartition);
          passFrom = open.offset(planPartition);
          passEnd = open.offset(to);
          passes = passEnd - passFrom > RUN_BYTES_MAX && runtime.settings.checksum ? 1 : 0;
          planPartition = to;
        }
        int n = (int) Math.min(room, passEnd - passFrom);
        Piece piece = new Piece(open, passFrom, n);
        passFrom += n;
        return piece;
      } finally {
        open.release();
      }
    }
  }

  private static final class Piece {
    final OpenOutput output;
    long from;
    int bytes;
    Request request;
    int at;

    Piece(OpenOutput output, long from, int bytes) {
      this.output = output;
      this.from = from;
      this.bytes = bytes;
    }
  }

  private static final class Request {
    private final Session session;
    private CompletableFuture<ByteBuffer> answer;
    private int size;
    private ByteBuffer data;

    Request(Session session) {
      this.session = session;
    }

    void send(List<Messages.ReadRange> ranges, int bytes) throws EbbException {
      size = bytes;
      answer = session.readAsync(ranges);
    }

    ByteBuffer data() throws EbbException {
      if (data != null) return data;
      ByteBuffer came = session.awaitRead(answer);
      if (came.remaining() != size) throw new EbbException("length_mismatch", came.remaining() + " bytes came, " + size + " asked for");
      answer = null;
      data = came;
      return data;
    }
  }

  private OpenOutput acquire() {
    MapOutput output = outputs[map];
    OpenOutput open = null;
    try {
      if (output.open == null) reads.openAhead(outputs, map, endMap);
      open = reads.acquire(output);
      if (open.header.partitions() < endPartition) {
        throw new EbbException("data_corrupt", "map output with " + open.header.partitions() + " partitions, " + endPartition + " wanted");
      }
      return open;
    } catch (IOException e) {
      if (open != null) open.release();
      throw failed(nextPartition, e);
    }
  }

  private void stopIfInterrupted(Exception cause) {
    if (!Thread.currentThread().isInterrupted() && !(cause instanceof ClosedByInterruptException)) return;
    context.killTaskIfInterrupted();
    throw EbbErrors.sneaky(new InterruptedException("interrupted while reading shuffle " + shuffleId));
  }

  /** The failure of one map output, as Spark wants it: exactly this one is computed anew. */
  final RuntimeException failed(int reducePartition, Exception cause) {
    if (cause instanceof EbbException known && known.is("aborted")) stopIfInterrupted(cause);
    stopIfInterrupted(cause);
    MapStatus status = statuses[map];
    return EbbErrors.sneaky(new FetchFailedException(status.location(), shuffleId, status.mapId(), map, Math.min(reducePartition, endPartition - 1),
        "Ebb node " + runtime.node.url() + ": " + cause.getMessage(), cause));
  }

  private void count(OpenOutput open, long bytes, int blocks) {
    if (open.isLocal()) {
      localBytes += bytes;
      localBlocks += blocks;
    } else {
      remoteBytes += bytes;
      remoteBlocks += blocks;
    }
  }

  /** Adds what was counted to the task's metrics: now and then, not for each block. */
  final void report() {
    if (localBlocks > 0) {
      metrics.incLocalBlocksFetched(localBlocks);
      metrics.incLocalBytesRead(localBytes);
    }
    if (remoteBlocks > 0) {
      metrics.incRemoteBlocksFetched(remoteBlocks);
      metrics.incRemoteBytesRead(remoteBytes);
    }
    if (waitNanos > 0) metrics.incFetchWaitTime(waitNanos / 1_000_000);
    localBlocks = localBytes = remoteBlocks = remoteBytes = 0;
    waitNanos %= 1_000_000;
  }

  /**
   * All was read: the buffers serve other readers from here on. `shown` does not, for the last row points into it: whoever still has
   * the row has the array.
   */
  final void end(byte[] shown) {
    if (!closes()) return;
    if (shown == buffers.stored) buffers.stored = new byte[0];
    if (shown == buffers.raw) buffers.raw = new byte[0];
    giveBack();
  }

  /** The task is over: the buffers serve other readers, unless some thread may still be at them. */
  final void close() {
    if (closes()) giveBack();
  }

  /** Once: the thread that reads and the one that ends the task may both come. */
  private synchronized boolean closes() {
    if (isClosed) return false;
    isClosed = true;
    return true;
  }

  private void giveBack() {
    if (isShared) buffers.closeUnlessInUse();
    else runtime.giveBack(buffers);
  }

}
