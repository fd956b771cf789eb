package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.lang.reflect.Field;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.unsafe.Platform;
import org.ebb.client.EbbException;
import org.ebb.client.IndexBlock;
import org.ebb.client.Messages;
import org.ebb.client.Session;

/**
 * One map output, open for reading by this executor: its file mapped (or open for positional reads, or far away), its index
 * block checked once and read in place.
 *
 * <p>Reference-counted: the cache holds one reference, each copy out of it one for its duration. The last to go unmaps.
 * I1: bytes leave only by {@link #copy}, so nobody holds an address after the mapping is gone.
 * I2: nothing is read beyond the length of the file as it was when it was opened.
 */
final class OpenOutput {
  private static final long SEGMENT_BYTES = 1L << 30;
  private static final boolean LITTLE = ByteOrder.nativeOrder() == ByteOrder.LITTLE_ENDIAN;

  final MapOutput owner;
  final Messages.MapOutputRow row;
  final IndexBlock.Header header;
  /** Whose lease keeps the file: null once the lease is gone. */
  volatile Session session;
  /** Runs after the last reference is gone. */
  volatile Runnable whenClosed;

  private final MappedByteBuffer[] segments; // null: not mapped
  private final long[] addresses;
  private final FileChannel channel; // null: mapped or remote
  private final Object indexBase;
  private final long indexAt;
  private final int width;
  private final long crcAt;
  private final AtomicInteger references = new AtomicInteger(1);

  private OpenOutput(MapOutput owner, Messages.MapOutputRow row, Session session, MappedByteBuffer[] segments, FileChannel channel, byte[] index)
      throws EbbException {
    this.owner = owner;
    this.row = row;
    this.session = session;
    this.segments = segments;
    this.channel = channel;
    long indexFrom = row.location().length() - row.indexBytes();
    if (segments == null) {
      this.addresses = null;
      this.header = IndexBlock.check(ByteBuffer.wrap(index));
      this.indexBase = index;
      this.indexAt = Platform.BYTE_ARRAY_OFFSET;
    } else {
      addresses = new long[segments.length];
      for (int i = 0; i < segments.length; i++) addresses[i] = addressOf(segments[i]);
      int segment = (int) (indexFrom / SEGMENT_BYTES);
      int within = (int) (indexFrom % SEGMENT_BYTES);
      if (within + (long) row.indexBytes() <= segments[segment].capacity()) {
        this.header = IndexBlock.check(segments[segment].slice(within, row.indexBytes()));
        this.indexBase = null;
        this.indexAt = addresses[segment] + within;
      } else { // the block lies across two segments
        byte[] copy = new byte[row.indexBytes()];
        copyMapped(indexFrom, copy, 0, copy.length);
        this.header = IndexBlock.check(ByteBuffer.wrap(copy));
        this.indexBase = copy;
        this.indexAt = Platform.BYTE_ARRAY_OFFSET;
      }
    }
    this.width = header.offsetWidth();
    this.crcAt = indexAt + (header.partitions() + 1L) * width;
    if (header.dataBytes() != indexFrom || header.mapIndex() != row.mapIndex() || header.attemptId() != row.attemptId()
        || header.shuffleId() != owner.shuffleId) {
      throw new EbbException("data_corrupt", "the index block belongs to another map output: " + header + ", wanted " + row);
    }
  }

  /** @throws java.nio.file.NoSuchFileException when the file has moved since the row was read. */
  static OpenOutput openLocal(MapOutput owner, Messages.MapOutputRow row, Session session, boolean mapping) throws IOException {
    Messages.Extent at = row.location();
    checkRow(row);
    Path path = session.file(at.tier(), at.path());
    FileChannel channel = session.openFile(at.tier(), at.path(), StandardOpenOption.READ);
    MappedByteBuffer[] segments = null;
    try {
      if (channel.size() < at.offset() + at.length()) {
        throw new EbbException("data_corrupt", "file " + path + " has " + channel.size() + " bytes, " + (at.offset() + at.length()) + " expected");
      }
      if (!mapping) {
        byte[] index = new byte[row.indexBytes()];
        readFully(channel, at.offset() + at.length() - row.indexBytes(), index, 0, index.length);
        return new OpenOutput(owner, row, session, null, channel, index);
      }
      segments = new MappedByteBuffer[(int) ((at.length() + SEGMENT_BYTES - 1) / SEGMENT_BYTES)];
      for (int i = 0; i < segments.length; i++) {
        long from = i * SEGMENT_BYTES;
        segments[i] = channel.map(FileChannel.MapMode.READ_ONLY, at.offset() + from, Math.min(SEGMENT_BYTES, at.length() - from));
      }
      OpenOutput open = new OpenOutput(owner, row, session, segments, null, null);
      channel.close();
      return open;
    } catch (IOException | RuntimeException | Error e) {
      channel.close();
      if (segments != null) for (MappedByteBuffer segment : segments) if (segment != null) unmap(segment);
      throw e;
    }
  }

  static OpenOutput openRemote(MapOutput owner, Messages.MapOutputRow row, Session session) throws EbbException {
    checkRow(row);
    byte[] index = new byte[row.indexBytes()];
    remoteRead(session, row, row.location().length() - row.indexBytes(), index, 0, index.length);
    return new OpenOutput(owner, row, session, null, null, index);
  }

  /** With an index block that was read together with others. */
  static OpenOutput openRemote(MapOutput owner, Messages.MapOutputRow row, Session session, byte[] index) throws EbbException {
    return new OpenOutput(owner, row, session, null, null, index);
  }

  static void checkRow(Messages.MapOutputRow row) throws EbbException {
    if (row.indexBytes() < IndexBlock.TRAILER_BYTES || row.indexBytes() > row.location().length()) {
      throw new EbbException("data_corrupt", "row with an index of " + row.indexBytes() + " of " + row.location().length() + " bytes");
    }
  }

  boolean isLocal() {
    return segments != null || channel != null;
  }

  boolean tryAcquire() {
    while (true) {
      int now = references.get();
      if (now == 0) return false;
      if (references.compareAndSet(now, now + 1)) return true;
    }
  }

  void release() {
    if (references.decrementAndGet() > 0) return;
    if (segments != null) for (MappedByteBuffer segment : segments) unmap(segment);
    try {
      if (channel != null) channel.close();
    } catch (IOException ignored) {
      // read only
    }
    Runnable then = whenClosed;
    if (then != null) then.run();
  }

  boolean isReleased() {
    return references.get() == 0;
  }

  long mappedBytes() {
    return segments == null ? 0 : row.location().length();
  }

  /** Where a partition starts; `partitions` gives the end of the data. Hold a reference. */
  long offset(int partition) {
    if (width == 4) {
      int value = Platform.getInt(indexBase, indexAt + partition * 4L);
      return (LITTLE ? value : Integer.reverseBytes(value)) & 0xffffffffL;
    }
    long value = Platform.getLong(indexBase, indexAt + partition * 8L);
    return LITTLE ? value : Long.reverseBytes(value);
  }

  int crc(int partition) {
    int value = Platform.getInt(indexBase, crcAt + partition * 4L);
    return LITTLE ? value : Integer.reverseBytes(value);
  }

  /** Copies data bytes out. Hold a reference. */
  void copy(long from, byte[] to, int at, int bytes) throws IOException {
    if (from < 0 || from + bytes > row.location().length()) throw new IllegalArgumentException("copy beyond the map output");
    if (segments != null) copyMapped(from, to, at, bytes);
    else if (channel != null) readFully(channel, row.location().offset() + from, to, at, bytes);
    else {
      Session now = session;
      if (now == null) throw new EbbException("node_unreachable", "the lease is gone");
      remoteRead(now, row, from, to, at, bytes);
    }
  }

  private void copyMapped(long from, byte[] to, int at, int bytes) {
    while (bytes > 0) {
      int segment = (int) (from / SEGMENT_BYTES);
      int within = (int) (from % SEGMENT_BYTES);
      int n = (int) Math.min(bytes, SEGMENT_BYTES - within);
      Platform.copyMemory(null, addresses[segment] + within, to, Platform.BYTE_ARRAY_OFFSET + at, n);
      from += n;
      at += n;
      bytes -= n;
    }
  }

  private static void readFully(FileChannel channel, long from, byte[] to, int at, int bytes) throws IOException {
    ByteBuffer into = ByteBuffer.wrap(to, at, bytes);
    while (into.hasRemaining()) {
      int n = channel.read(into, from + bytes - into.remaining());
      if (n < 0) throw new EbbException("data_corrupt", "file ends early");
    }
  }

  private static void remoteRead(Session session, Messages.MapOutputRow row, long from, byte[] to, int at, int bytes) throws EbbException {
    while (bytes > 0) {
      int n = Math.min(bytes, Messages.READ_BYTES_MAX);
      ByteBuffer data = session.read(List.of(new Messages.ReadRange(row.location().blobId(), row.location().offset() + from, n)));
      if (data.remaining() != n) throw new EbbException("length_mismatch", data.remaining() + " bytes came, " + n + " asked for");
      data.get(to, at, n);
      from += n;
      at += n;
      bytes -= n;
    }
  }

  // The JDK unmaps when the collector finds the buffer; a slot that the node waits for cannot wait for that.
  private static final sun.misc.Unsafe UNSAFE = unsafe();
  private static final long ADDRESS = addressField();

  static void unmap(ByteBuffer direct) {
    UNSAFE.invokeCleaner(direct);
  }

  static long addressOf(ByteBuffer direct) {
    return UNSAFE.getLong(direct, ADDRESS);
  }

  private static sun.misc.Unsafe unsafe() {
    try {
      Field field = sun.misc.Unsafe.class.getDeclaredField("theUnsafe");
      field.setAccessible(true);
      return (sun.misc.Unsafe) field.get(null);
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException("this JVM has no sun.misc.Unsafe", e);
    }
  }

  @SuppressWarnings("deprecation")
  private static long addressField() {
    try {
      return UNSAFE.objectFieldOffset(Buffer.class.getDeclaredField("address"));
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException("java.nio.Buffer has no address", e);
    }
  }

  /** For tests: how many mappings of files under `dir` this process has. */
  static List<String> mappingsUnder(Path dir) throws IOException {
    List<String> found = new ArrayList<>();
    for (String line : java.nio.file.Files.readAllLines(Path.of("/proc/self/maps"))) if (line.contains(dir.toString())) found.add(line);
    return found;
  }
}
