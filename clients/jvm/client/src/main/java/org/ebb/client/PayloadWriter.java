package org.ebb.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/** Appends primitives, little-endian, behind room for a frame header. */
public final class PayloadWriter {
  static final int HEADER_BYTES = 12;
  private ByteBuffer buffer;

  public PayloadWriter() {
    this(116);
  }

  public PayloadWriter(int initialBytes) {
    buffer = ByteBuffer.allocate(HEADER_BYTES + initialBytes).order(ByteOrder.LITTLE_ENDIAN);
    buffer.position(HEADER_BYTES);
  }

  public PayloadWriter u8(int value) {
    room(1).put((byte) value);
    return this;
  }

  public PayloadWriter u16(int value) {
    room(2).putShort((short) value);
    return this;
  }

  public PayloadWriter u32(long value) {
    room(4).putInt((int) value);
    return this;
  }

  public PayloadWriter u64(long value) {
    if (value < 0 || value >= 1L << 53) throw new IllegalArgumentException("u64 out of range: " + value);
    room(8).putLong(value);
    return this;
  }

  public PayloadWriter bool(boolean value) {
    return u8(value ? 1 : 0);
  }

  public PayloadWriter str(String value) {
    byte[] bytes = value.getBytes(StandardCharsets.UTF_8);
    if (bytes.length > 0xffff) throw new IllegalArgumentException("string of " + bytes.length + " bytes, at most 65535");
    u16(bytes.length);
    room(bytes.length).put(bytes);
    return this;
  }

  public PayloadWriter bytes(byte[] value) {
    u32(value.length);
    room(value.length).put(value);
    return this;
  }

  public int payloadBytes() {
    return buffer.position() - HEADER_BYTES;
  }

  /** The payload alone, for tests. */
  public byte[] payload() {
    byte[] copy = new byte[payloadBytes()];
    System.arraycopy(buffer.array(), HEADER_BYTES, copy, 0, copy.length);
    return copy;
  }

  /** The whole frame, ready to be written; `extraBytes` of payload follow from elsewhere. */
  ByteBuffer frame(int requestId, int op, int flags, int extraBytes) {
    buffer.putInt(0, payloadBytes() + extraBytes).putInt(4, requestId).putShort(8, (short) op).putShort(10, (short) flags);
    return buffer.duplicate().flip();
  }

  private ByteBuffer room(int bytes) {
    if (buffer.remaining() < bytes) {
      ByteBuffer grown = ByteBuffer.allocate(Math.max(buffer.capacity() * 2, buffer.position() + bytes)).order(ByteOrder.LITTLE_ENDIAN);
      grown.put(buffer.flip());
      buffer = grown;
    }
    return buffer;
  }
}
