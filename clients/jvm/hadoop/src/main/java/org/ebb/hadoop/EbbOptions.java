package org.ebb.hadoop;

import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.apache.hadoop.conf.Configuration;
import org.ebb.client.EbbNode;
import org.ebb.client.Messages;
import org.ebb.client.ObjectWriter;

/** The settings `fs.ebb.*`, and the connection they name: one per node and process, which file systems share and never close. */
final class EbbOptions {
  static final String PREFIX = "fs.ebb.";
  private static final String DEFAULT_URL = "http://127.0.0.1:9700";
  private static final Map<Object, EbbNode> NODES = new ConcurrentHashMap<>();

  final long blockBytes;
  final int readBufferBytes;
  final int readAheadBytes;
  final int listPage;
  private final Configuration conf;

  EbbOptions(Configuration conf) {
    this.conf = conf;
    blockBytes = bytes("block.size", 128L << 20, 1 << 20, 1L << 40);
    readBufferBytes = (int) bytes("read.buffer.size", 64 << 10, 1, 64 << 20);
    readAheadBytes = (int) bytes("read.ahead.size", 1 << 20, 1, 64 << 20);
    listPage = (int) bytes("list.page", 1000, 1, 10_000);
  }

  EbbNode node() {
    String url = url();
    var options = new EbbNode.Options((int) timeMs("connect.timeout", "10s"), timeMs("request.timeout", "120s"),
        timeMs("reconnect.timeout", "60s"), conf.getBoolean(PREFIX + "local.files", true));
    record Key(String url, EbbNode.Options options) {}
    return NODES.computeIfAbsent(new Key(url, options), key -> new EbbNode(url, "ebb-hadoop/0.1.0", "", options));
  }

  private String url() {
    String socket = conf.getTrimmed(PREFIX + "socket", "");
    if (!socket.isEmpty()) return socket.startsWith("unix://") ? socket : "unix://" + socket;
    String fromEnvironment = System.getenv("EBB_NODE");
    return conf.getTrimmed(PREFIX + "url", fromEnvironment == null || fromEnvironment.isBlank() ? DEFAULT_URL : fromEnvironment.trim());
  }

  ObjectWriter.Options writer() {
    return new ObjectWriter.Options((int) bytes("write.buffer.size", 1 << 20, 4096, 64 << 20), timeMs("write.full.timeout", "120s"),
        timeMs("write.keepalive", "60s"), ack(), "application/octet-stream");
  }

  private Messages.Ack ack() {
    String name = conf.getTrimmed(PREFIX + "ack", "bucket");
    return switch (name) {
      case "bucket" -> Messages.Ack.BY_BUCKET;
      case "memory", "disk", "remote" -> Messages.Ack.valueOf(name.toUpperCase(Locale.ROOT));
      default -> throw new IllegalArgumentException(PREFIX + "ack is '" + name + "': use memory, disk, remote or bucket");
    };
  }

  private long bytes(String name, long otherwise, long min, long max) {
    long value = conf.getLongBytes(PREFIX + name, otherwise);
    if (value < min || value > max) throw new IllegalArgumentException(PREFIX + name + " is " + value + ": use " + min + " to " + max);
    return value;
  }

  private long timeMs(String name, String otherwise) {
    return conf.getTimeDuration(PREFIX + name, otherwise, TimeUnit.MILLISECONDS);
  }
}
