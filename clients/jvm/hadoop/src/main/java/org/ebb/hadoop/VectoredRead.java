package org.ebb.hadoop;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.IntFunction;
import org.apache.hadoop.fs.FileRange;
import org.apache.hadoop.fs.FileSystem;
import org.ebb.client.Messages;
import org.ebb.client.ObjectReader;

/**
 * Many ranges of a file at once. From local files they are read then and there: that is copying from memory, and another
 * thread would cost more. Through the connection, ranges travel many in a call, and several calls are under way.
 *
 * <p>Apart from the stream, since this needs classes that Hadoop before 3.3.5 does not have.
 */
final class VectoredRead {
  private static final int THREADS_MAX = 8;
  private static final int BATCH_BYTES = Messages.READ_BYTES_MAX / 2;

  private VectoredRead() {}

  private record Wanted(FileRange range, ByteBuffer target, CompletableFuture<ByteBuffer> result) {}

  static void start(ObjectReader reader, List<? extends FileRange> ranges, IntFunction<ByteBuffer> allocate, FileSystem.Statistics statistics)
      throws EOFException {
    boolean isLocal = reader.isLocal();
    List<Wanted> batch = new ArrayList<>();
    long bytes = 0;
    for (FileRange range : checked(ranges, reader.sizeBytes())) {
      CompletableFuture<ByteBuffer> result = new CompletableFuture<>();
      range.setData(result);
      batch.add(new Wanted(range, allocate.apply(range.getLength()), result));
      statistics.incrementBytesRead(range.getLength());
      bytes += range.getLength();
      if (isLocal || bytes >= BATCH_BYTES) {
        run(reader, batch, isLocal);
        batch = new ArrayList<>();
        bytes = 0;
      }
    }
    run(reader, batch, isLocal);
  }

  private static void run(ObjectReader reader, List<Wanted> batch, boolean here) {
    if (batch.isEmpty()) return;
    if (here) read(reader, batch);
    else Workers.POOL.execute(() -> read(reader, batch));
  }

  private static void read(ObjectReader reader, List<Wanted> batch) {
    try {
      List<ObjectReader.Piece> pieces = new ArrayList<>();
      for (Wanted wanted : batch) {
        pieces.add(new ObjectReader.Piece(wanted.range.getOffset(), wanted.target.slice(wanted.target.position(), wanted.range.getLength())));
      }
      reader.readFully(pieces);
      for (Wanted wanted : batch) wanted.result.complete(wanted.target.limit(wanted.target.position() + wanted.range.getLength()));
    } catch (IOException | RuntimeException e) {
      for (Wanted wanted : batch) wanted.result.completeExceptionally(e);
    }
  }

  /** In order, none overlapping another, all within the file. */
  private static List<FileRange> checked(List<? extends FileRange> ranges, long sizeBytes) throws EOFException {
    List<FileRange> sorted = new ArrayList<>(Objects.requireNonNull(ranges, "no list of ranges"));
    for (FileRange range : sorted) {
      Objects.requireNonNull(range, "a range is null");
      if (range.getLength() < 0) throw new IllegalArgumentException("negative length: " + range);
      if (range.getOffset() < 0) throw new EOFException("negative position: " + range);
      if (range.getOffset() + range.getLength() > sizeBytes) throw new EOFException(range + " of a file of " + sizeBytes + " bytes");
    }
    sorted.sort(Comparator.comparingLong(FileRange::getOffset));
    for (int i = 1; i < sorted.size(); i++) {
      FileRange before = sorted.get(i - 1);
      if (sorted.get(i).getOffset() < before.getOffset() + before.getLength()) {
        throw new IllegalArgumentException("Overlapping ranges " + before + " and " + sorted.get(i));
      }
    }
    return sorted;
  }

  /** Made when first needed. */
  private static final class Workers {
    static final ExecutorService POOL = pool();

    private static ExecutorService pool() {
      ThreadPoolExecutor pool = new ThreadPoolExecutor(THREADS_MAX, THREADS_MAX, 10, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), task -> {
        Thread thread = new Thread(task, "ebb-vectored-read");
        thread.setDaemon(true);
        return thread;
      });
      pool.allowCoreThreadTimeOut(true);
      return pool;
    }
  }
}
