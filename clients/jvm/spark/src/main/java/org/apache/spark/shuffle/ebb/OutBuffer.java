package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import org.apache.spark.unsafe.Platform;

/** A buffer outside the heap that empties itself somewhere when it is full. */
abstract class OutBuffer {
  final ByteBuffer buffer;

  OutBuffer(ByteBuffer buffer) {
    this.buffer = buffer;
    buffer.clear();
  }

  /** The buffer with at least `bytes` free. */
  final ByteBuffer room(int bytes) throws IOException {
    if (buffer.remaining() < bytes) {
      drain();
      if (buffer.remaining() < bytes) throw new IllegalArgumentException(bytes + " bytes do not fit a buffer of " + buffer.capacity());
    }
    return buffer;
  }

  final void put(byte[] from, int at, int bytes) throws IOException {
    int done = 0;
    while (done < bytes) {
      if (!buffer.hasRemaining()) drain();
      int n = Math.min(buffer.remaining(), bytes - done);
      buffer.put(from, at + done, n);
      done += n;
    }
  }

  final void putMemory(Object base, long offset, int bytes) throws IOException {
    for (int done = 0; done < bytes; ) {
      if (!buffer.hasRemaining()) drain();
      int n = Math.min(buffer.remaining(), bytes - done);
      Platform.copyMemory(base, offset + done, null, OpenOutput.addressOf(buffer) + buffer.position(), n);
      buffer.position(buffer.position() + n);
      done += n;
    }
  }

  /** Hands the bytes before the position on, and clears the buffer. */
  abstract void drain() throws IOException;

  /** What is written here is put there. */
  static class Stream extends OutputStream {
    private final OutBuffer target;

    Stream(OutBuffer target) {
      this.target = target;
    }

    @Override
    public final void write(int b) throws IOException {
      target.room(1).put((byte) b);
    }

    @Override
    public final void write(byte[] from, int at, int bytes) throws IOException {
      target.put(from, at, bytes);
    }
  }
}
