package org.apache.spark.shuffle.ebb;

import java.io.BufferedInputStream;
import java.io.Closeable;
import java.io.EOFException;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.apache.spark.serializer.SerializerManager;
import org.ebb.client.ChunkCodec;

/**
 * Records that did not fit memory: chunk framing, partition after partition, in one of Spark's local directories (encrypted
 * as a whole when Spark's I/O encryption is on). Read back once, front to back, so one buffered stream is enough.
 */
final class SpillFile {
  final File file;
  final long[] lengths;
  private final SerializerManager serializerManager;
  long fileBytes;

  SpillFile(File file, int partitions, SerializerManager serializerManager) {
    this.file = file;
    this.lengths = new long[partitions];
    this.serializerManager = serializerManager;
  }

  Writer writer(ByteBuffer buffer) throws IOException {
    return new Writer(buffer);
  }

  Reader reader() throws IOException {
    return new Reader();
  }

  void delete() {
    file.delete();
  }

  final class Writer extends OutBuffer implements Closeable {
    private final FileOutputStream plain;
    private final OutputStream encrypted; // null: straight through the channel
    private final byte[] copy;
    private long drained;
    private long partitionStart;

    private Writer(ByteBuffer buffer) throws IOException {
      super(buffer);
      plain = new FileOutputStream(file);
      encrypted = serializerManager.encryptionEnabled() ? serializerManager.wrapForEncryption(plain) : null;
      copy = encrypted == null ? null : new byte[64 * 1024];
    }

    void begin() {
      partitionStart = drained + buffer.position();
    }

    void end(int partition) {
      lengths[partition] = drained + buffer.position() - partitionStart;
    }

    @Override
    void drain() throws IOException {
      buffer.flip();
      drained += buffer.remaining();
      if (encrypted == null) {
        while (buffer.hasRemaining()) plain.getChannel().write(buffer);
      } else {
        while (buffer.hasRemaining()) {
          int n = Math.min(copy.length, buffer.remaining());
          buffer.get(copy, 0, n);
          encrypted.write(copy, 0, n);
        }
      }
      buffer.clear();
    }

    @Override
    public void close() throws IOException {
      try {
        drain();
        if (encrypted != null) encrypted.close();
      } finally {
        plain.close();
      }
      fileBytes = file.length();
    }
  }

  final class Reader implements Closeable {
    private final InputStream in;
    private final byte[] copy = new byte[32 * 1024];
    private final ByteBuffer header = ByteBuffer.allocate(ChunkCodec.HEADER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    private ChunkCodec.Decoder decoder;
    private byte[] stored = new byte[0];
    private byte[] raw = new byte[0];

    private Reader() throws IOException {
      InputStream plain = new FileInputStream(file);
      in = new BufferedInputStream(serializerManager.encryptionEnabled() ? serializerManager.wrapForEncryption(plain) : plain, 256 * 1024);
    }

    /** Stored bytes as they are: chunks may be joined end to end. */
    void copyTo(OutBuffer target, long bytes) throws IOException {
      for (long left = bytes; left > 0; ) {
        int n = in.read(copy, 0, (int) Math.min(left, copy.length));
        if (n < 0) throw new EOFException("spill file " + file + " ends " + left + " bytes early");
        target.put(copy, 0, n);
        left -= n;
      }
    }

    void decodeTo(OutputStream target, long bytes) throws IOException {
      if (decoder == null) decoder = new ChunkCodec.Decoder();
      for (long left = bytes; left > 0; ) {
        readFully(header.array(), ChunkCodec.HEADER_BYTES);
        int rawBytes = header.getInt(0);
        int storedBytes = header.getInt(4);
        if (stored.length < storedBytes) stored = new byte[storedBytes];
        if (raw.length < rawBytes) raw = new byte[rawBytes];
        readFully(stored, storedBytes);
        decoder.decode(header.get(8), stored, 0, storedBytes, raw, 0, rawBytes);
        target.write(raw, 0, rawBytes);
        left -= ChunkCodec.HEADER_BYTES + storedBytes;
      }
    }

    private void readFully(byte[] into, int bytes) throws IOException {
      if (in.readNBytes(into, 0, bytes) != bytes) throw new EOFException("spill file " + file + " ends early");
    }

    @Override
    public void close() throws IOException {
      if (decoder != null) decoder.close();
      in.close();
    }
  }
}
