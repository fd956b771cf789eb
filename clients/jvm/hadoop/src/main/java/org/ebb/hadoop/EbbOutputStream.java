package org.ebb.hadoop;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.channels.ClosedChannelException;
import org.apache.hadoop.fs.Abortable;
import org.apache.hadoop.fs.CommonPathCapabilities;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.StreamCapabilities;
import org.ebb.client.EbbException;
import org.ebb.client.Messages;
import org.ebb.client.ObjectWriter;

/**
 * Writes one file, which is there when {@link #close} returns, and not before: it replaces what was there in one step, or
 * refuses to. No part of it can be made visible or durable earlier, so this stream is not Syncable.
 */
final class EbbOutputStream extends OutputStream implements StreamCapabilities, Abortable {
  private final ObjectWriter writer;
  private final Messages.Condition condition;
  private final Path path;
  private final FileSystem.Statistics statistics;
  private boolean closed;

  EbbOutputStream(ObjectWriter writer, Messages.Condition condition, Path path, FileSystem.Statistics statistics) {
    this.writer = writer;
    this.condition = condition;
    this.path = path;
    this.statistics = statistics;
  }

  @Override
  public void write(int value) throws IOException {
    run(() -> writer.write(value));
    statistics.incrementBytesWritten(1);
  }

  @Override
  public void write(byte[] source, int offset, int length) throws IOException {
    java.util.Objects.checkFromIndexSize(offset, length, source.length);
    run(() -> writer.write(source, offset, length));
    statistics.incrementBytesWritten(length);
  }

  /** Shows nothing to anybody; on a closed stream it is an error, as everywhere. */
  @Override
  public void flush() throws IOException {
    if (closed) throw new ClosedChannelException();
  }

  @Override
  public void close() throws IOException {
    if (closed) return;
    try {
      run(() -> writer.commit(condition));
    } finally {
      closed = true;
      writer.close();
    }
  }

  /** Throws all away: what was under this name stays. */
  @Override
  public AbortableResult abort() {
    boolean wasClosed = closed;
    closed = true;
    writer.close();
    return new AbortableResult() {
      @Override
      public boolean alreadyClosed() {
        return wasClosed;
      }

      @Override
      public IOException anyCleanupException() {
        return null;
      }
    };
  }

  @Override
  public boolean hasCapability(String capability) {
    return CommonPathCapabilities.ABORTABLE_STREAM.equalsIgnoreCase(capability);
  }

  private interface Work {
    void run() throws IOException;
  }

  private void run(Work work) throws IOException {
    if (closed) throw new ClosedChannelException();
    try {
      work.run();
    } catch (EbbException e) {
      throw Errors.translate(e, path);
    }
  }
}
