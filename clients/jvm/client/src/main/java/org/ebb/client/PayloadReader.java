package org.ebb.client;

import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/** Reads primitives, little-endian; a short or over-long payload is `request_invalid`. */
public final class PayloadReader {
  private final ByteBuffer buffer;

  public PayloadReader(ByteBuffer payload) {
    this.buffer = payload.duplicate().order(ByteOrder.LITTLE_ENDIAN);
  }

  public int u8() throws EbbException {
    return need(1).get() & 0xff;
  }

  public int u16() throws EbbException {
    return need(2).getShort() & 0xffff;
  }

  public long u32() throws EbbException {
    return need(4).getInt() & 0xffffffffL;
  }

  /** A u32 that must fit a Java int, such as a count. */
  public int count() throws EbbException {
    long value = u32();
    if (value > Integer.MAX_VALUE) throw new EbbException("request_invalid", "count " + value + " in frame");
    return (int) value;
  }

  public long u64() throws EbbException {
    long value = need(8).getLong();
    if (value < 0 || value >= 1L << 53) throw new EbbException("request_invalid", "number beyond 2^53 in frame");
    return value;
  }

  public boolean bool() throws EbbException {
    return u8() != 0;
  }

  public String str() throws EbbException {
    byte[] bytes = new byte[u16()];
    need(bytes.length).get(bytes);
    return new String(bytes, StandardCharsets.UTF_8);
  }

  /** A view into the frame. */
  public ByteBuffer bytes() throws EbbException {
    int length = count();
    ByteBuffer view = need(length).slice(buffer.position(), length);
    buffer.position(buffer.position() + length);
    return view;
  }

  public boolean isAtEnd() {
    return !buffer.hasRemaining();
  }

  public void end() throws EbbException {
    if (buffer.hasRemaining()) throw new EbbException("request_invalid", buffer.remaining() + " bytes left over in frame");
  }

  private ByteBuffer need(int bytes) throws EbbException {
    if (buffer.remaining() < bytes) throw new EbbException("request_invalid", "frame ends too early", new BufferUnderflowException());
    return buffer;
  }
}
