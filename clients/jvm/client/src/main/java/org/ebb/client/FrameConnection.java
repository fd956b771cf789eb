package org.ebb.client;

import java.io.ByteArrayOutputStream;
import java.io.Closeable;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.net.StandardSocketOptions;
import java.net.URI;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Locale;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * One multiplexed connection that speaks frames: many threads send, one thread reads and matches answers by id.
 *
 * <p>The socket is non-blocking, and this is why: Java closes a channel under a thread that is interrupted inside a blocking
 * call, engines interrupt the tasks they kill, and the staged writes of every other task hang on this connection. A sender
 * writes what the socket takes at once and leaves the rest to the reader thread.
 *
 * <p>I1: each request gets exactly one outcome: its answer, or `node_unreachable` when the connection ends.
 * I2: a call that times out ends the connection, since its buffers may still be in the queue.
 */
public final class FrameConnection implements Closeable {
  /** Called on the reader thread: must not block. */
  public interface Listener {
    void onPush(int op, ByteBuffer payload);

    void onClosed(EbbException why);
  }

  private static final int FRAME_PAYLOAD_BYTES_MAX = 16 * 1024 * 1024 + 64 * 1024;
  private static final int FLAG_ERROR = 1;
  private static final int HANDSHAKE_BYTES_MAX = 16 * 1024;

  private final SocketChannel channel;
  private final Selector selector;
  private final SelectionKey key;
  private final Listener listener;
  private final String name;
  private final AtomicInteger nextId = new AtomicInteger();
  private final ConcurrentHashMap<Integer, CompletableFuture<ByteBuffer>> pending = new ConcurrentHashMap<>();
  private final ArrayDeque<ByteBuffer> unsent = new ArrayDeque<>();
  private final Object writeLock = new Object();
  private volatile EbbException closedBy;
  /** The node's Unix socket, when it told us over TCP where it is; else ''. */
  private final String socketHint;

  private FrameConnection(SocketChannel channel, String name, Listener listener, String socketHint, byte[] early) throws IOException {
    this.channel = channel;
    this.name = name;
    this.listener = listener;
    this.socketHint = socketHint;
    channel.configureBlocking(false);
    this.selector = Selector.open();
    this.key = channel.register(selector, SelectionKey.OP_READ);
    Thread reader = new Thread(() -> readLoop(early), "ebb-frames " + name);
    reader.setDaemon(true);
    reader.start();
  }

  /** Connects to `unix:///path` or `http://host:port`. @throws EbbException `node_unreachable`, `version_unsupported` */
  public static FrameConnection open(String url, Listener listener, int timeoutMs) throws EbbException {
    SocketChannel channel = null;
    try {
      URI uri = URI.create(url);
      String scheme = uri.getScheme() == null ? "" : uri.getScheme().toLowerCase(Locale.ROOT);
      SocketAddress address;
      if (scheme.equals("unix")) {
        channel = SocketChannel.open(StandardProtocolFamily.UNIX);
        address = UnixDomainSocketAddress.of(uri.getPath());
        channel.connect(address);
      } else if (scheme.equals("http")) {
        channel = SocketChannel.open();
        channel.socket().connect(new InetSocketAddress(uri.getHost(), uri.getPort() < 0 ? 80 : uri.getPort()), timeoutMs);
        channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
      } else {
        throw new EbbException("config_invalid", "node URL '" + url + "': use unix:///path/ebb.sock or http://host:port");
      }
      ByteArrayOutputStream early = new ByteArrayOutputStream();
      String head = upgrade(channel, uri.getAuthority() == null ? "ebb" : uri.getAuthority(), early, timeoutMs);
      return new FrameConnection(channel, url, listener, header(head, "x-ebb-socket"), early.toByteArray());
    } catch (EbbException e) {
      closeQuietly(channel);
      throw e;
    } catch (IOException | IllegalArgumentException | UnsupportedOperationException e) {
      closeQuietly(channel);
      throw new EbbException("node_unreachable", "no Ebb node answers at " + url + " (" + e + ")", e);
    }
  }

  private static String upgrade(SocketChannel channel, String host, ByteArrayOutputStream early, int timeoutMs) throws IOException {
    String request = "GET /v1/frames HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: ebb-frames/1\r\n\r\n";
    ByteBuffer out = ByteBuffer.wrap(request.getBytes(StandardCharsets.US_ASCII));
    while (out.hasRemaining()) channel.write(out);
    // A selector gives the wait a limit; a blocking read on a channel has none.
    channel.configureBlocking(false);
    StringBuilder head = new StringBuilder();
    ByteBuffer in = ByteBuffer.allocate(4096);
    long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(timeoutMs);
    try (Selector selector = Selector.open()) {
      channel.register(selector, SelectionKey.OP_READ);
      while (true) {
        long leftMs = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime());
        if (leftMs <= 0) throw new IOException("no answer to the upgrade within " + timeoutMs + " ms");
        selector.select(leftMs);
        selector.selectedKeys().clear();
        if (Thread.currentThread().isInterrupted()) throw new IOException("interrupted while connecting");
        int got = channel.read(in.clear());
        if (got < 0) throw new IOException("connection closed during the upgrade: " + firstLine(head.toString()));
        for (int i = 0; i < got; i++) {
          head.append((char) (in.get(i) & 0xff));
          if (endsWithBlankLine(head)) {
            early.write(in.array(), i + 1, got - i - 1);
            break;
          }
        }
        if (endsWithBlankLine(head)) break;
        if (head.length() > HANDSHAKE_BYTES_MAX) throw new IOException("the upgrade's answer is too long");
      }
    }
    channel.configureBlocking(true);
    // A node that is starting or stopping says so with these: it is not there yet, or no more.
    if (head.toString().startsWith("HTTP/1.1 429") || head.toString().startsWith("HTTP/1.1 5")) {
      throw new IOException("the node takes no connections now: " + firstLine(head.toString()));
    }
    if (!head.toString().startsWith("HTTP/1.1 101")) {
      throw new EbbException("version_unsupported", "the server does not speak ebb-frames/1: " + firstLine(head.toString()));
    }
    return head.toString();
  }

  private static boolean endsWithBlankLine(StringBuilder head) {
    int n = head.length();
    return n >= 4 && head.charAt(n - 1) == '\n' && head.charAt(n - 2) == '\r' && head.charAt(n - 3) == '\n' && head.charAt(n - 4) == '\r';
  }

  private static String firstLine(String head) {
    int end = head.indexOf('\r');
    return end < 0 ? head : head.substring(0, end);
  }

  private static String header(String head, String wanted) {
    for (String line : head.split("\r\n")) {
      int colon = line.indexOf(':');
      if (colon > 0 && line.substring(0, colon).trim().equalsIgnoreCase(wanted)) return line.substring(colon + 1).trim();
    }
    return "";
  }

  public String socketHint() {
    return socketHint;
  }

  public boolean isOpen() {
    return closedBy == null;
  }

  public PayloadReader call(int op, PayloadWriter payload, long timeoutMs) throws EbbException {
    return await(send(op, payload, null), op, timeoutMs);
  }

  /** Sends a request whose payload ends with `tail`, which must stay untouched until the answer is there. */
  public CompletableFuture<ByteBuffer> send(int op, PayloadWriter payload, ByteBuffer tail) throws EbbException {
    int id = nextId.incrementAndGet();
    if (id == 0) id = nextId.incrementAndGet(); // 0 marks pushes
    CompletableFuture<ByteBuffer> answer = new CompletableFuture<>();
    pending.put(id, answer);
    ByteBuffer head = payload.frame(id, op, 0, tail == null ? 0 : tail.remaining());
    try {
      synchronized (writeLock) {
        if (closedBy != null) throw closedBy;
        if (!unsent.isEmpty()) {
          unsent.add(head);
          if (tail != null) unsent.add(tail);
        } else {
          if (tail == null) channel.write(head);
          else channel.write(new ByteBuffer[] {head, tail});
          if (head.hasRemaining()) unsent.add(head);
          if (tail != null && tail.hasRemaining()) unsent.add(tail);
          if (!unsent.isEmpty()) {
            key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
            selector.wakeup();
          }
        }
      }
    } catch (IOException e) {
      pending.remove(id);
      EbbException why = unreachable("sending failed", e);
      shutdown(why);
      throw why;
    }
    // Closed between put and now: shutdown may have missed this entry.
    if (closedBy != null && pending.remove(id) != null) throw unreachable("connection closed", closedBy);
    return answer;
  }

  /** Waits for an answer. An interrupt is reported as `aborted`, and stays set. */
  public PayloadReader await(CompletableFuture<ByteBuffer> answer, int op, long timeoutMs) throws EbbException {
    try {
      return new PayloadReader(answer.get(timeoutMs, TimeUnit.MILLISECONDS));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new EbbException("aborted", "interrupted while waiting for " + name, e);
    } catch (TimeoutException e) {
      EbbException why = unreachable("no answer to op " + op + " within " + timeoutMs + " ms", e);
      shutdown(why);
      throw why;
    } catch (ExecutionException e) {
      EbbException cause = (EbbException) e.getCause();
      throw new EbbException(cause.code, stripCode(cause), cause.details, cause);
    }
  }

  private static String stripCode(EbbException e) {
    String message = e.getMessage();
    return message.startsWith(e.code + ": ") ? message.substring(e.code.length() + 2) : message;
  }

  private EbbException unreachable(String what, Throwable cause) {
    return new EbbException("node_unreachable", what + " (" + name + ")", cause);
  }

  private void readLoop(byte[] early) {
    EbbException why;
    try {
      Assembler frames = new Assembler();
      if (early.length > 0) frames.take(ByteBuffer.wrap(early));
      ByteBuffer in = ByteBuffer.allocateDirect(256 * 1024);
      while (true) {
        selector.select();
        selector.selectedKeys().clear();
        if (closedBy != null) break;
        while (true) {
          int got = frames.wantsDirectly() ? frames.readInto(channel) : channel.read(in.clear());
          if (got < 0) throw new IOException("closed by the node");
          if (got == 0) break;
          if (!frames.wantsDirectly() && in.position() > 0) frames.take(in.flip());
          in.clear();
        }
        flushUnsent();
      }
      why = closedBy;
    } catch (IOException | RuntimeException e) {
      why = e instanceof EbbException known ? known : unreachable("connection lost: " + e.getMessage(), e);
    }
    shutdown(why);
    try {
      selector.close();
    } catch (IOException ignored) {
      // nothing is left to be done with it
    }
  }

  private void flushUnsent() throws IOException {
    synchronized (writeLock) {
      while (!unsent.isEmpty()) {
        channel.write(unsent.toArray(new ByteBuffer[0]));
        while (!unsent.isEmpty() && !unsent.peek().hasRemaining()) unsent.poll();
        if (!unsent.isEmpty()) return; // the socket is full; OP_WRITE stays on
      }
      key.interestOps(SelectionKey.OP_READ);
    }
  }

  private void dispatch(int id, int op, int flags, ByteBuffer payload) throws EbbException {
    if (id == 0) {
      listener.onPush(op, payload);
      return;
    }
    CompletableFuture<ByteBuffer> answer = pending.remove(id);
    if (answer == null) return; // its caller gave up
    if ((flags & FLAG_ERROR) == 0) answer.complete(payload);
    else answer.completeExceptionally(Messages.decodeError(new PayloadReader(payload)));
  }

  /** Cuts the byte stream into frames; the rest of a large payload is read straight into its own array. */
  private final class Assembler {
    private final ByteBuffer header = ByteBuffer.allocate(PayloadWriter.HEADER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    private ByteBuffer payload;

    boolean wantsDirectly() {
      return payload != null && payload.remaining() >= 64 * 1024;
    }

    int readInto(SocketChannel from) throws IOException {
      int got = from.read(payload);
      if (got > 0 && !payload.hasRemaining()) finish();
      return got;
    }

    void take(ByteBuffer chunk) throws EbbException {
      while (true) {
        if (payload == null) {
          move(chunk, header);
          if (header.hasRemaining()) return;
          int length = header.getInt(0);
          if (length < 0 || length > FRAME_PAYLOAD_BYTES_MAX) throw new EbbException("request_invalid", "frame of " + length + " bytes");
          payload = ByteBuffer.allocate(length);
        }
        move(chunk, payload);
        if (payload.hasRemaining()) return;
        finish();
      }
    }

    private void finish() throws EbbException {
      ByteBuffer whole = payload.flip();
      int id = header.getInt(4);
      int op = header.getShort(8) & 0xffff;
      int flags = header.getShort(10) & 0xffff;
      payload = null;
      header.clear();
      dispatch(id, op, flags, whole);
    }

    private void move(ByteBuffer from, ByteBuffer to) {
      int n = Math.min(from.remaining(), to.remaining());
      if (n == 0) return;
      to.put(to.position(), from, from.position(), n);
      to.position(to.position() + n);
      from.position(from.position() + n);
    }
  }

  private void shutdown(EbbException why) {
    synchronized (writeLock) {
      if (closedBy != null) return;
      closedBy = why;
      unsent.clear();
    }
    closeQuietly(channel);
    selector.wakeup();
    for (Integer id : pending.keySet()) {
      CompletableFuture<ByteBuffer> answer = pending.remove(id);
      if (answer != null) answer.completeExceptionally(why);
    }
    listener.onClosed(why);
  }

  @Override
  public void close() {
    shutdown(new EbbException("node_unreachable", "this client closed the connection"));
  }

  private static void closeQuietly(SocketChannel channel) {
    try {
      if (channel != null) channel.close();
    } catch (IOException ignored) {
      // closing is all we wanted
    }
  }
}
