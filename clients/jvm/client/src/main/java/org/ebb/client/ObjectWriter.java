package org.ebb.client;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Collections;
import java.util.Map;
import java.util.Set;
import java.util.WeakHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32C;

/**
 * Writes one object: collects, stages, fills, commits. One thread at a time.
 *
 * <p>An object that fits the buffer is staged with its exact size when it is committed, and costs two calls; a longer one is
 * staged when the buffer is first full, and extended. A staged write is kept alive however long its writer pauses.
 *
 * <p>I1: nothing is visible before {@link #commit}; {@link #close} without it, a lost node and a killed process leave nothing.
 * I2: bytes are written only within the reservation, so want of room is an answer and never a signal.
 * I3: after a failed write nothing can be committed.
 */
public final class ObjectWriter implements Closeable {
  /** `fullTimeoutMs`: how long to wait for room on a full node. `keepAliveMs`: below the node's `--staging-ttl`. */
  public record Options(int bufferBytes, long fullTimeoutMs, long keepAliveMs, Messages.Ack ack, String contentType) {}

  private static final int COMMIT_TRIES = 3;

  private final EbbNode node;
  private final Messages.ObjectRef object;
  private final Options options;
  private final ByteBuffer buffer;
  private final CRC32C crc = new CRC32C();
  private final GrowingFile growing;
  private long written;
  private IOException failure;
  private boolean ended;

  public ObjectWriter(EbbNode node, Messages.ObjectRef object, Options options) {
    this.node = node;
    this.object = object;
    this.options = options;
    this.buffer = ByteBuffer.allocateDirect(options.bufferBytes);
    this.growing = new GrowingFile(new GrowingFile.Owner() {
      @Override
      public StagedFile stage(long reserveBytes, int tier) throws EbbException {
        return node.retrying(session -> new StagedFile(session,
            session.stage(new Messages.StageRequest(object.bucket(), object.key(), reserveBytes, tier, node.jobId()))));
      }

      @Override
      public Patience patience() {
        return new Patience(options.fullTimeoutMs, () -> "the Ebb node at " + node.url() + " had no room for " + object.bucket() + "/"
            + object.key() + " (" + position() + " bytes so far) for " + options.fullTimeoutMs + " ms");
      }
    });
  }

  /** Bytes so far. */
  public long position() {
    return written + buffer.position();
  }

  public void write(byte[] source, int offset, int length) throws IOException {
    check();
    int at = offset;
    for (int left = length; left > 0; ) {
      int n = Math.min(left, buffer.remaining());
      buffer.put(source, at, n);
      at += n;
      left -= n;
      if (!buffer.hasRemaining()) drain();
    }
  }

  public void write(int value) throws IOException {
    check();
    buffer.put((byte) value);
    if (!buffer.hasRemaining()) drain();
  }

  /**
   * Makes the object visible. Where the connection breaks, what fits the buffer is sent again. When the answer to the commit
   * itself is lost and there was no condition, an object with these very bytes is what was asked for.
   *
   * @throws EbbException those of the condition; `node_unreachable` when nobody can tell whether the object is there.
   */
  public void commit(Messages.Condition condition) throws IOException {
    check();
    ended = true;
    KeepAlive.forget(this);
    boolean isAllHere = growing.file() == null;
    int last = buffer.position();
    try {
      for (int left = isAllHere ? COMMIT_TRIES : 1; ; left--) {
        boolean isAsked = false;
        try {
          pour();
          if (growing.file() == null) growing.reserve(0, 0, 0);
          StagedFile file = growing.file();
          file.close();
          isAsked = true;
          file.session().commit(new Messages.CommitRequest(
              file.writeId(), written, (int) crc.getValue(), condition, options.ack, options.contentType, Map.of()));
          return;
        } catch (EbbException e) {
          if (!EbbNode.isNodeGone(e)) throw e;
          if (isAsked && !condition.equals(Messages.Condition.NONE)) throw e;
          if (isAsked && isThere()) return;
          if (left == 1) throw e;
          growing.abort();
          written = 0;
          crc.reset();
          buffer.clear().position(last);
        }
      }
    } catch (IOException | RuntimeException e) {
      growing.abort();
      throw e;
    }
  }

  private boolean isThere() throws EbbException {
    try {
      Messages.ObjectRow there = node.retrying(session -> session.head(object));
      return there.sizeBytes() == written && there.crc32c() != null && there.crc32c() == (int) crc.getValue();
    } catch (EbbException e) {
      if (e.is("not_found")) return false;
      throw e;
    }
  }

  /** Throws all away, unless it was committed. */
  @Override
  public void close() {
    if (ended) return;
    ended = true;
    KeepAlive.forget(this);
    growing.abort();
  }

  private void check() throws IOException {
    if (failure != null) throw failure;
    if (ended) throw new IllegalStateException("the write of " + object + " has ended");
  }

  private void drain() throws IOException {
    try {
      pour();
    } catch (IOException | RuntimeException e) {
      failure = e instanceof IOException known ? known : new IOException(e);
      close();
      throw e;
    }
  }

  /** From the buffer to the staged file, which is made when it is needed. */
  private void pour() throws IOException {
    if (buffer.position() == 0) return;
    buffer.flip();
    crc.update(buffer.duplicate());
    reserve(written + buffer.remaining());
    growing.write(buffer, written);
    written += buffer.limit();
    buffer.clear();
  }

  private void reserve(long need) throws IOException {
    boolean isFirst = growing.file() == null;
    // What is all there is needs no more; what goes on will need as much again.
    boolean goesOn = buffer.limit() == buffer.capacity();
    growing.reserve(need, goesOn ? need + Math.min(need, GrowingFile.AHEAD_BYTES_MAX) : need, written);
    if (isFirst && !ended) KeepAlive.remember(this);
  }

  private void keepAlive() {
    StagedFile now = growing.file();
    if (!ended && now != null) now.session().touchQuietly(now.writeId());
  }

  /** Says for writers that pause that they are there; one that nobody holds any more is not spoken for. */
  private static final class KeepAlive {
    private static final Set<ObjectWriter> OPEN = Collections.synchronizedSet(Collections.newSetFromMap(new WeakHashMap<>()));
    private static ScheduledExecutorService clock;
    private static long everyMs = Long.MAX_VALUE;

    static synchronized void remember(ObjectWriter writer) {
      OPEN.add(writer);
      if (writer.options.keepAliveMs >= everyMs) return;
      everyMs = writer.options.keepAliveMs;
      if (clock != null) clock.shutdownNow();
      clock = Executors.newSingleThreadScheduledExecutor(task -> {
        Thread thread = new Thread(task, "ebb-keep-alive");
        thread.setDaemon(true);
        return thread;
      });
      clock.scheduleAtFixedRate(KeepAlive::beat, everyMs, everyMs, TimeUnit.MILLISECONDS);
    }

    static void forget(ObjectWriter writer) {
      OPEN.remove(writer);
    }

    private static void beat() {
      for (ObjectWriter writer : OPEN.toArray(new ObjectWriter[0])) writer.keepAlive();
    }
  }
}
