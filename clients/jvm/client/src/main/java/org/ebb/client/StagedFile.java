package org.ebb.client;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.StandardOpenOption;

/** The bytes of one staged write: its file where we see it, `write` frames where we do not. One thread at a time. */
public final class StagedFile implements Closeable {
  private static final int WRITE_FRAME_BYTES = 4 * 1024 * 1024;

  private final Session session;
  private final Messages.Staged staged;
  private final FileChannel channel; // null: remote
  private long reservedBytes;

  public StagedFile(Session session, Messages.Staged staged) throws EbbException {
    this.session = session;
    this.staged = staged;
    this.reservedBytes = staged.reservedBytes();
    try {
      this.channel = session.isLocal()
          ? session.openFile(staged.tier(), staged.path(), StandardOpenOption.READ, StandardOpenOption.WRITE)
          : null;
    } catch (IOException e) {
      session.abortQuietly(staged.writeId());
      throw e instanceof EbbException known ? known : new EbbException("io_failed", "cannot open the staged file " + staged.path() + ": " + e, e);
    }
  }

  public Session session() {
    return session;
  }

  public long writeId() {
    return staged.writeId();
  }

  public int tier() {
    return staged.tier();
  }

  public long reservedBytes() {
    return reservedBytes;
  }

  /** @throws EbbException `tier_full` when the tier has no more room for this file. */
  public void extend(long bytes) throws EbbException {
    reservedBytes = session.extend(staged.writeId(), bytes);
  }

  /**
   * Writes all that remains in `data` at `offset`: into the file never beyond the reservation; through the connection
   * wherever the node then finds room. After `tier_full` or `busy` what remains in `data` may be written again.
   */
  public void write(ByteBuffer data, long offset) throws IOException {
    long at = offset;
    if (channel != null) {
      if (offset + data.remaining() > reservedBytes) {
        throw new IllegalStateException("write up to " + (offset + data.remaining()) + " beyond the reservation of " + reservedBytes);
      }
      while (data.hasRemaining()) at += channel.write(data, at);
      return;
    }
    while (data.hasRemaining()) {
      int n = Math.min(data.remaining(), WRITE_FRAME_BYTES);
      ByteBuffer piece = data.slice(data.position(), n);
      session.write(staged.writeId(), at, piece);
      data.position(data.position() + n);
      at += n;
    }
  }

  /** Whether the bytes go straight into the file. */
  public boolean isLocal() {
    return channel != null;
  }

  /** Copies the first `bytes` into `target` (used when this tier is full). Both are local. */
  public void copyTo(StagedFile target, long bytes) throws IOException {
    for (long at = 0; at < bytes; ) {
      long n = channel.transferTo(at, bytes - at, target.channel.position(at));
      if (n <= 0) throw new EbbException("io_failed", "staged file ends at " + at + " of " + bytes);
      at += n;
    }
  }

  @Override
  public void close() {
    try {
      if (channel != null) channel.close();
    } catch (IOException ignored) {
      // Data went through write(2); close has nothing to add on these file systems.
    }
  }

  /** Throws the staged bytes away. */
  public void abort() {
    close();
    session.abortQuietly(staged.writeId());
  }
}
