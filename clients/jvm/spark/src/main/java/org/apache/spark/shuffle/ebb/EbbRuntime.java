package org.apache.spark.shuffle.ebb;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.ebb.client.ChunkCodec;
import org.ebb.client.EbbNode;

/**
 * What one JVM holds for one job on the node, which is one life of a driver: the connection, the map outputs it has open for
 * reading, and the buffers that writers and readers use again and again. The driver components and the shuffle manager share it.
 */
final class EbbRuntime {
  private static final ConcurrentHashMap<String, EbbRuntime> BY_JOB = new ConcurrentHashMap<>();
  private static final int POOL_MAX = 64;

  final EbbSettings settings;
  final EbbNode node;
  final OpenOutputs outputs;
  private final ConcurrentHashMap<Integer, ShuffleReads> reads = new ConcurrentHashMap<>();
  private final ConcurrentLinkedDeque<WriterBuffers> writerPool = new ConcurrentLinkedDeque<>();
  private final ConcurrentLinkedDeque<ReaderBuffers> readerPool = new ConcurrentLinkedDeque<>();
  private final AtomicInteger writersPooled = new AtomicInteger();
  private final AtomicInteger readersPooled = new AtomicInteger();
  private volatile boolean closed;

  private EbbRuntime(EbbSettings settings, String jobId, String who) {
    this.settings = settings;
    this.node = new EbbNode(settings.node, "ebb-spark/0.1.0 " + who, jobId, settings.nodeOptions());
    this.outputs = new OpenOutputs(this);
    node.setListener(outputs);
  }

  /** The runtime of this job in this JVM, made on first use. */
  static EbbRuntime of(String jobId) {
    EbbRuntime known = BY_JOB.get(jobId);
    if (known != null) return known;
    SparkEnv env = SparkEnv.get();
    return of(jobId, env.conf(), env.executorId().equals("driver") ? "driver" : "executor-" + env.executorId());
  }

  static EbbRuntime of(String jobId, SparkConf conf, String who) {
    return BY_JOB.computeIfAbsent(jobId, id -> {
      EbbSettings settings = new EbbSettings(conf);
      if (settings.node.isEmpty()) throw new IllegalArgumentException(missingNode());
      return new EbbRuntime(settings, id, who);
    });
  }

  /** The driver that runs in this JVM. */
  static EbbRuntime ofDriver() {
    return of(EbbDriver.of(SparkEnv.get().conf()).jobId());
  }

  static String missingNode() {
    return EbbSettings.NODE + " is not set. Give the URL of the Ebb node, such as unix:///run/ebb/ebb.sock or http://127.0.0.1:9700"
        + " (`npx ebb spark-conf` prints all settings).";
  }

  ShuffleReads reads(int shuffleId) {
    return reads.computeIfAbsent(shuffleId, id -> new ShuffleReads(this, id));
  }

  Iterable<ShuffleReads> allReads() {
    return reads.values();
  }

  void forget(int shuffleId) {
    ShuffleReads gone = reads.remove(shuffleId);
    if (gone != null) gone.close();
  }

  void close() {
    if (closed) return;
    closed = true;
    BY_JOB.remove(node.jobId(), this);
    List<Integer> open = new ArrayList<>(reads.keySet());
    for (int shuffleId : open) forget(shuffleId);
    for (WriterBuffers b; (b = writerPool.poll()) != null; ) b.close();
    for (ReaderBuffers b; (b = readerPool.poll()) != null; ) b.close();
    node.close();
  }

  /** What a writer needs besides the records: an output buffer outside the heap, a chunk, a compressor. */
  static final class WriterBuffers {
    final ByteBuffer out;
    final byte[] raw;
    final ChunkCodec codec;
    private byte[][] open = new byte[0][];

    WriterBuffers(EbbSettings settings) {
      out = ByteBuffer.allocateDirect(settings.writerBufferBytes).order(java.nio.ByteOrder.LITTLE_ENDIAN);
      raw = new byte[settings.chunkBytes];
      codec = settings.newCodec();
    }

    /** Chunks that are filled side by side, as long as earlier writers made them; at least so many. */
    byte[][] openChunks(int count) {
      int known = open.length;
      if (known < count) {
        open = java.util.Arrays.copyOf(open, count);
        java.util.Arrays.fill(open, known, count, new byte[0]);
      }
      return open;
    }

    void close() {
      codec.close();
      OpenOutput.unmap(out);
    }
  }

  /**
   * What a reader needs: stored bytes, and a chunk of them as it was. They are as long as what was read needed, and serve one reader
   * after another: a task may have thousands of readers, one after the other or all of them begun.
   */
  static final class ReaderBuffers {
    private static final int BYTES_MIN = 4096;
    byte[] stored = new byte[0];
    byte[] raw = new byte[0];
    final ChunkCodec.Decoder decoder = new ChunkCodec.Decoder();

    /** At least `bytes`, and so much more that what grows little by little is not allocated again each time. */
    static byte[] sized(int bytes, int usualMost) {
      int rounded = Math.max(BYTES_MIN, Integer.highestOneBit(Math.max(1, bytes - 1)) << 1);
      return new byte[Math.max(bytes, Math.min(usualMost, rounded))];
    }

    void close() {
      decoder.close();
    }

    void closeUnlessInUse() {
      try {
        decoder.close();
      } catch (IllegalStateException e) {
        // Its thread is amid a chunk. What it holds outside the heap is lost: rarer than worth a watch.
      }
    }
  }

  WriterBuffers takeWriterBuffers() {
    WriterBuffers pooled = writerPool.poll();
    if (pooled == null) return new WriterBuffers(settings);
    writersPooled.decrementAndGet();
    return pooled;
  }

  void giveBack(WriterBuffers buffers) {
    if (closed || writersPooled.incrementAndGet() > POOL_MAX) {
      if (!closed) writersPooled.decrementAndGet();
      buffers.close();
      return;
    }
    buffers.out.clear();
    writerPool.push(buffers);
  }

  ReaderBuffers takeReaderBuffers() {
    ReaderBuffers pooled = readerPool.poll();
    if (pooled == null) return new ReaderBuffers();
    readersPooled.decrementAndGet();
    return pooled;
  }

  void giveBack(ReaderBuffers buffers) {
    boolean grown = buffers.stored.length > 4 << 20 || buffers.raw.length > 4 << 20;
    if (closed || grown || readersPooled.incrementAndGet() > POOL_MAX) {
      if (!closed && !grown) readersPooled.decrementAndGet();
      buffers.close();
      return;
    }
    readerPool.push(buffers);
  }
}
