package org.ebb.hadoop;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Objects;
import java.util.function.IntFunction;
import org.apache.hadoop.fs.ByteBufferPositionedReadable;
import org.apache.hadoop.fs.ByteBufferReadable;
import org.apache.hadoop.fs.CanUnbuffer;
import org.apache.hadoop.fs.FSExceptionMessages;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileRange;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.StreamCapabilities;
import org.ebb.client.EbbException;
import org.ebb.client.ObjectReader;

/**
 * Reads one version of a file, however often it is replaced meanwhile. Reads that have a position may be made by many
 * threads; what moves the stream's own position is for one.
 */
final class EbbInputStream extends FSInputStream
    implements ByteBufferReadable, ByteBufferPositionedReadable, CanUnbuffer, StreamCapabilities {
  private final ObjectReader reader;
  private final Path path;
  private final FileSystem.Statistics statistics;
  private final EbbOptions options;
  /** Bytes of the file from `bufferAt` on; null until the first small read. */
  private ByteBuffer buffer;
  private long bufferAt;
  private long position;
  private volatile boolean closed;

  EbbInputStream(ObjectReader reader, Path path, FileSystem.Statistics statistics, EbbOptions options) {
    this.reader = reader;
    this.path = path;
    this.statistics = statistics;
    this.options = options;
  }

  @Override
  public synchronized void seek(long to) throws IOException {
    check();
    if (to < 0) throw new EOFException(FSExceptionMessages.NEGATIVE_SEEK + " " + to);
    if (to > reader.sizeBytes()) throw new EOFException(FSExceptionMessages.CANNOT_SEEK_PAST_EOF + " " + to + " of " + reader.sizeBytes());
    position = to;
  }

  @Override
  public synchronized long getPos() {
    return position;
  }

  @Override
  public boolean seekToNewSource(long target) {
    return false;
  }

  @Override
  public synchronized int available() throws IOException {
    check();
    return (int) Math.min(Integer.MAX_VALUE, reader.sizeBytes() - position);
  }

  @Override
  public synchronized long skip(long bytes) throws IOException {
    check();
    long skipped = Math.max(0, Math.min(bytes, reader.sizeBytes() - position));
    position += skipped;
    return skipped;
  }

  @Override
  public synchronized int read() throws IOException {
    check();
    if (!fill()) return -1;
    int value = buffer.get((int) (position - bufferAt)) & 0xff;
    position++;
    statistics.incrementBytesRead(1);
    return value;
  }

  @Override
  public synchronized int read(byte[] target, int offset, int length) throws IOException {
    Objects.checkFromIndexSize(offset, length, target.length);
    return readNext(ByteBuffer.wrap(target, offset, length));
  }

  @Override
  public synchronized int read(ByteBuffer target) throws IOException {
    return readNext(target);
  }

  private int readNext(ByteBuffer target) throws IOException {
    check();
    if (!target.hasRemaining()) return 0;
    int got;
    if (!isBuffered() && target.remaining() >= bufferBytes()) {
      got = fetch(position, target);
    } else if (fill()) {
      int at = (int) (position - bufferAt);
      got = Math.min(target.remaining(), buffer.limit() - at);
      target.put(buffer.slice(at, got));
    } else {
      return -1;
    }
    if (got > 0) {
      position += got;
      statistics.incrementBytesRead(got);
    }
    return got;
  }

  private boolean isBuffered() {
    return buffer != null && position >= bufferAt && position < bufferAt + buffer.limit();
  }

  /** Has the byte at the position in the buffer, unless the file ends there. */
  private boolean fill() throws IOException {
    if (isBuffered()) return true;
    if (position >= reader.sizeBytes()) return false;
    if (buffer == null) buffer = ByteBuffer.allocate((int) Math.min(bufferBytes(), reader.sizeBytes()));
    buffer.clear().limit(0);
    ByteBuffer fresh = buffer.duplicate().clear();
    fetch(position, fresh);
    bufferAt = position;
    buffer.limit(fresh.position());
    return true;
  }

  /** A file is read again for next to nothing; what comes through the connection costs a call. */
  private int bufferBytes() {
    return reader.isLocal() ? options.readBufferBytes : options.readAheadBytes;
  }

  @Override
  public int read(long from, byte[] target, int offset, int length) throws IOException {
    validatePositionedReadArgs(from, target, offset, length);
    return read(from, ByteBuffer.wrap(target, offset, length));
  }

  @Override
  public int read(long from, ByteBuffer target) throws IOException {
    check();
    if (from < 0) throw new EOFException(FSExceptionMessages.NEGATIVE_SEEK + " " + from);
    int got = fetch(from, target);
    if (got > 0) statistics.incrementBytesRead(got);
    return got;
  }

  @Override
  public void readFully(long from, ByteBuffer target) throws IOException {
    if (target.remaining() > 0 && from + target.remaining() > reader.sizeBytes()) {
      check();
      throw new EOFException(FSExceptionMessages.EOF_IN_READ_FULLY);
    }
    read(from, target);
  }

  @Override
  public void readFully(long from, byte[] target, int offset, int length) throws IOException {
    validatePositionedReadArgs(from, target, offset, length);
    readFully(from, ByteBuffer.wrap(target, offset, length));
  }

  /** Since Hadoop 3.3.5. */
  @Override
  public void readVectored(List<? extends FileRange> ranges, IntFunction<ByteBuffer> allocate) throws IOException {
    check();
    VectoredRead.start(reader, ranges, allocate, statistics);
  }

  private int fetch(long from, ByteBuffer target) throws IOException {
    try {
      return reader.read(from, target);
    } catch (EbbException e) {
      throw Errors.translate(e, path);
    }
  }

  @Override
  public synchronized void unbuffer() {
    buffer = null;
    reader.unbuffer();
  }

  @Override
  public boolean hasCapability(String capability) {
    return switch (capability.toLowerCase(java.util.Locale.ROOT)) {
      case StreamCapabilities.UNBUFFER, StreamCapabilities.READBYTEBUFFER, StreamCapabilities.PREADBYTEBUFFER, "in:readvectored" -> true;
      default -> false;
    };
  }

  @Override
  public void close() {
    closed = true;
    reader.close();
  }

  private void check() throws IOException {
    if (closed) throw new IOException(path + ": " + FSExceptionMessages.STREAM_IS_CLOSED);
  }
}
