package org.ebb.hadoop;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Stands between a client and the node's TCP port, and passes bytes on. Fault model: once {@link #loseAnswerTo} was called,
 * the next call of that kind reaches the node; then its answer, and the connection, are lost. {@link #loseCallOf}: the same,
 * but the call never arrives.
 */
final class CuttingProxy implements AutoCloseable {
  private static final int HEADER_BYTES = 12;
  private final ServerSocket server;
  private final URI node;
  private volatile int op;
  private volatile boolean arrives;
  final AtomicInteger cuts = new AtomicInteger();

  CuttingProxy(String nodeUrl) throws IOException {
    node = URI.create(nodeUrl);
    server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    start(() -> {
      while (true) serve(server.accept());
    });
  }

  String url() {
    return "http://127.0.0.1:" + server.getLocalPort();
  }

  void loseAnswerTo(int wanted) {
    arrives = true;
    op = wanted;
  }

  void loseCallOf(int wanted) {
    arrives = false;
    op = wanted;
  }

  private interface Work {
    void run() throws IOException;
  }

  private static void start(Work work) {
    Thread thread = new Thread(() -> {
      try {
        work.run();
      } catch (IOException e) {
        // A side has closed, or the test has ended.
      }
    }, "cutting-proxy");
    thread.setDaemon(true);
    thread.start();
  }

  private void serve(Socket client) throws IOException {
    Socket upstream = new Socket(node.getHost(), node.getPort());
    client.setTcpNoDelay(true);
    upstream.setTcpNoDelay(true);
    boolean[] isCut = {false};
    start(() -> {
      try (client; upstream) {
        InputStream from = upstream.getInputStream();
        byte[] piece = new byte[65536];
        for (int got = from.read(piece); got > 0; got = from.read(piece)) {
          synchronized (isCut) {
            if (isCut[0]) return; // the node has answered: that is lost, and the connection
          }
          client.getOutputStream().write(piece, 0, got);
        }
      }
    });
    start(() -> {
      try (client; upstream) {
        DataInputStream from = new DataInputStream(client.getInputStream());
        OutputStream to = upstream.getOutputStream();
        int line = 0;
        // The upgrade ends with an empty line; frames follow.
        while (line < 4) {
          int b = from.read();
          if (b < 0) return;
          to.write(b);
          line = b == "\r\n\r\n".charAt(line) ? line + 1 : 0;
        }
        byte[] header = new byte[HEADER_BYTES];
        while (true) {
          from.readFully(header);
          ByteBuffer fields = ByteBuffer.wrap(header).order(ByteOrder.LITTLE_ENDIAN);
          byte[] payload = from.readNBytes(fields.getInt(0));
          if (op != 0 && fields.getShort(8) == op) {
            op = 0;
            cuts.incrementAndGet();
            if (!arrives) return;
            synchronized (isCut) {
              isCut[0] = true;
            }
          }
          to.write(header);
          to.write(payload);
        }
      }
    });
  }

  @Override
  public void close() throws IOException {
    server.close();
  }
}
