package org.ebb.client;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.FileChannel;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads one version of an object from any position: its files where we see them, `read` frames where we do not. Many threads.
 *
 * <p>I1: bytes are given out only if the lease on their files held until they were read; else they are read again.
 * I2: all bytes are of the version that was opened. When the node forgot the lease and the object was replaced, reading fails.
 */
public final class ObjectReader implements Closeable {
  /** A part of the object that is wanted: `target` has room for exactly its bytes. */
  public record Piece(long position, ByteBuffer target) {}

  private static final int ATTEMPTS = 5;
  /** Objects joined of many parts have many files. */
  private static final int FILES_MAX = 16;

  private final EbbNode node;
  private final Messages.ObjectRef object;
  private final String etag;
  private final long sizeBytes;
  private Lease lease;
  private volatile boolean closed;

  private ObjectReader(EbbNode node, Messages.ObjectRef object, Lease lease) {
    this.node = node;
    this.object = object;
    this.lease = lease;
    this.etag = lease.opened.etag();
    this.sizeBytes = lease.opened.sizeBytes();
  }

  /** @throws EbbException `not_found`, `bucket_not_found`, `data_lost` */
  public static ObjectReader open(EbbNode node, Messages.ObjectRef object) throws EbbException {
    return new ObjectReader(node, object, take(node, object));
  }

  private static Lease take(EbbNode node, Messages.ObjectRef object) throws EbbException {
    return node.retrying(session -> new Lease(session, session.open(object)));
  }

  public long sizeBytes() {
    return sizeBytes;
  }

  public String etag() {
    return etag;
  }

  /** Whether the bytes come straight from files: then a read costs no call to the node. */
  public synchronized boolean isLocal() {
    return lease == null || lease.isLocal();
  }

  /** Fills `target` as far as the object goes; returns the number of bytes, -1 at its end. */
  public int read(long position, ByteBuffer target) throws IOException {
    if (!target.hasRemaining()) return 0;
    if (position >= sizeBytes) return -1;
    int bytes = (int) Math.min(target.remaining(), sizeBytes - position);
    readFully(List.of(new Piece(position, target.slice(target.position(), bytes))));
    target.position(target.position() + bytes);
    return bytes;
  }

  /** Fills all pieces, which must lie within the object: through the connection with as few calls as there can be. */
  public void readFully(List<Piece> pieces) throws IOException {
    for (int attempt = 1; ; attempt++) {
      Lease now = current();
      try {
        for (Piece piece : pieces) piece.target.rewind();
        now.read(pieces);
        if (now.session.isOpen()) return;
        if (attempt == ATTEMPTS) throw new EbbException("node_unreachable", "the node at " + node.url() + " went away " + attempt + " times amid a read");
      } catch (IOException e) {
        if (attempt == ATTEMPTS || closed || Thread.currentThread().isInterrupted()) throw e;
        if (e instanceof EbbException known && known.is("aborted")) throw e;
      } finally {
        now.done();
      }
      drop(now);
    }
  }

  /** The lease, with a hold on it. */
  private synchronized Lease current() throws IOException {
    if (closed) throw new ClosedChannelException();
    if (lease == null) {
      Lease fresh = take(node, object);
      if (!fresh.opened.etag().equals(etag)) {
        fresh.done();
        throw new EbbException("precondition_failed", object.bucket() + "/" + object.key() + " was replaced while it was read");
      }
      lease = fresh;
    }
    lease.hold();
    return lease;
  }

  /** What failed is opened anew at the next read. */
  private synchronized void drop(Lease failed) {
    if (lease != failed) return;
    lease = null;
    failed.done();
  }

  /** Gives the files back; the next read opens them again. */
  public synchronized void unbuffer() {
    if (lease != null) drop(lease);
  }

  @Override
  public synchronized void close() {
    closed = true;
    unbuffer();
  }

  /** A lease with its open files, counted: the last holder returns it. */
  private static final class Lease {
    private final Session session;
    private final Messages.Opened opened;
    private final long[] starts;
    private final Map<Integer, FileChannel> files = new LinkedHashMap<>(4, 0.75f, true);
    private int holders = 1;

    Lease(Session session, Messages.Opened opened) {
      this.session = session;
      this.opened = opened;
      this.starts = new long[opened.extents().size() + 1];
      for (int i = 0; i < opened.extents().size(); i++) starts[i + 1] = starts[i] + opened.extents().get(i).length();
    }

    boolean isLocal() {
      for (Messages.Extent extent : opened.extents()) if (!isLocal(extent)) return false;
      return true;
    }

    private boolean isLocal(Messages.Extent extent) {
      return session.isLocal() && extent.tier() < 2 && !extent.path().isEmpty();
    }

    synchronized void hold() {
      holders++;
    }

    synchronized void done() {
      if (--holders > 0) return;
      for (FileChannel file : files.values()) closeQuietly(file);
      files.clear();
      session.releaseQuietly(opened.leaseId());
    }

    void read(List<Piece> pieces) throws IOException {
      List<Messages.ReadRange> ranges = new ArrayList<>();
      List<ByteBuffer> targets = new ArrayList<>();
      long rangeBytes = 0;
      for (Piece piece : pieces) {
        long position = piece.position;
        ByteBuffer left = piece.target;
        for (int at = extentAt(position); left.hasRemaining(); at = extentAt(position)) {
          Messages.Extent extent = opened.extents().get(at);
          long offset = position - starts[at];
          int bytes = (int) Math.min(left.remaining(), extent.length() - offset);
          if (!isLocal(extent)) bytes = Math.min(bytes, Messages.READ_BYTES_MAX);
          ByteBuffer target = left.slice(left.position(), bytes);
          if (isLocal(extent)) {
            readFile(at, extent, extent.offset() + offset, target);
          } else {
            if (rangeBytes + bytes > Messages.READ_BYTES_MAX) {
              fetch(ranges, targets);
              rangeBytes = 0;
            }
            ranges.add(new Messages.ReadRange(extent.blobId(), extent.offset() + offset, bytes));
            targets.add(target);
            rangeBytes += bytes;
          }
          left.position(left.position() + bytes);
          position += bytes;
        }
      }
      fetch(ranges, targets);
    }

    private int extentAt(long position) {
      int at = java.util.Arrays.binarySearch(starts, position);
      if (at < 0) return -at - 2;
      while (at < starts.length - 1 && starts[at + 1] == position) at++; // extents of no bytes
      return at;
    }

    private void readFile(int at, Messages.Extent extent, long from, ByteBuffer target) throws IOException {
      FileChannel file = file(at, extent);
      long position = from;
      while (target.hasRemaining()) {
        int got = file.read(target, position);
        if (got < 0) throw new EbbException("data_corrupt", "the file of blob " + extent.blobId() + " ends at " + position);
        position += got;
      }
    }

    private synchronized FileChannel file(int at, Messages.Extent extent) throws IOException {
      FileChannel open = files.get(at);
      // An interrupt closes the channel under all its readers.
      if (open != null && open.isOpen()) return open;
      FileChannel fresh = session.openFile(extent.tier(), extent.path(), StandardOpenOption.READ);
      files.put(at, fresh);
      if (files.size() > FILES_MAX) {
        var eldest = files.entrySet().iterator();
        closeQuietly(eldest.next().getValue());
        eldest.remove();
      }
      return fresh;
    }

    private void fetch(List<Messages.ReadRange> ranges, List<ByteBuffer> targets) throws EbbException {
      if (ranges.isEmpty()) return;
      ByteBuffer data = session.read(ranges);
      for (ByteBuffer target : targets) {
        target.put(data.slice(data.position(), target.remaining()));
        data.position(data.position() + target.limit());
      }
      ranges.clear();
      targets.clear();
    }

    private static void closeQuietly(FileChannel file) {
      try {
        file.close();
      } catch (IOException ignored) {
        // It was only read.
      }
    }
  }
}
