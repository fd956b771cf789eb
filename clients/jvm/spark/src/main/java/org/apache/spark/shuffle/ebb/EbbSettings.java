package org.apache.spark.shuffle.ebb;

import java.util.Locale;
import org.apache.spark.SparkConf;
import org.ebb.client.ChunkCodec;
import org.ebb.client.EbbNode;

/** The `spark.shuffle.ebb.*` settings, and those of Spark's own that decide how map outputs are written. README has the table. */
final class EbbSettings {
  static final String PREFIX = "spark.shuffle.ebb.";
  static final String NODE = PREFIX + "node";
  static final String FALLBACK = PREFIX + "fallback";
  static final String IO_PLUGIN = "spark.shuffle.sort.io.plugin.class";
  static final String MANAGER = "spark.shuffle.manager";
  static final String DYNAMIC_ALLOCATION = "spark.dynamicAllocation.enabled";
  static final String SHUFFLE_TRACKING = "spark.dynamicAllocation.shuffleTracking.enabled";

  final String node;
  final boolean fallback;
  final int connectTimeoutMs;
  final long requestTimeoutMs;
  final long reconnectTimeoutMs;
  final boolean localFiles;
  final boolean checksum;
  final int chunkBytes;
  final int writerBufferBytes;
  final long fullTimeoutMs;
  final boolean mapping;
  final int mappingsMax;
  final long mappedBytesMax;
  final long inFlightBytesMax;
  final long heartbeatTtlMs;
  final int spillRecordsMax;
  /** "none", "lz4", "zstd", or another name: then map outputs are engine streams. */
  final String codecName;
  final int zstdLevel;

  EbbSettings(SparkConf conf) {
    node = conf.get(NODE, "").trim();
    fallback = conf.getBoolean(FALLBACK, false);
    connectTimeoutMs = (int) conf.getTimeAsMs(PREFIX + "connect.timeout", "10s");
    requestTimeoutMs = conf.getTimeAsMs(PREFIX + "request.timeout", "120s");
    reconnectTimeoutMs = conf.getTimeAsMs(PREFIX + "reconnect.timeout", "60s");
    localFiles = conf.getBoolean(PREFIX + "localFiles", true);
    checksum = conf.getBoolean(PREFIX + "checksum", true);
    chunkBytes = (int) bounded(conf, "chunkSize", "64k", 4 << 10, 4 << 20);
    writerBufferBytes = (int) bounded(conf, "writer.bufferSize", "4m", 256 << 10, 256 << 20);
    fullTimeoutMs = conf.getTimeAsMs(PREFIX + "writer.fullTimeout", "120s");
    mapping = conf.getBoolean(PREFIX + "reader.mapping", true);
    mappingsMax = conf.getInt(PREFIX + "reader.maxMappings", 16384);
    mappedBytesMax = conf.getSizeAsBytes(PREFIX + "reader.maxMappedBytes", "256g");
    inFlightBytesMax = conf.getSizeAsBytes(PREFIX + "reader.maxBytesInFlight", "48m");
    heartbeatTtlMs = conf.getTimeAsMs(PREFIX + "job.heartbeatTtl", "120s");
    spillRecordsMax = conf.getInt("spark.shuffle.spill.numElementsForceSpillThreshold", Integer.MAX_VALUE);
    codecName = conf.getBoolean("spark.shuffle.compress", true) ? shortCodec(conf.get("spark.io.compression.codec", "lz4")) : "none";
    zstdLevel = conf.getInt("spark.io.compression.zstd.level", 1);
    if (writerBufferBytes < chunkBytes * 3L) {
      throw new IllegalArgumentException(PREFIX + "writer.bufferSize must be at least three times " + PREFIX + "chunkSize");
    }
  }

  private static long bounded(SparkConf conf, String name, String otherwise, long least, long most) {
    long value = conf.getSizeAsBytes(PREFIX + name, otherwise);
    if (value < least || value > most) {
      throw new IllegalArgumentException(PREFIX + name + " = " + value + " bytes, must be " + least + " to " + most);
    }
    return value;
  }

  private static String shortCodec(String name) {
    return switch (name.toLowerCase(Locale.ROOT)) {
      case "lz4", "org.apache.spark.io.lz4compressioncodec" -> "lz4";
      case "zstd", "org.apache.spark.io.zstdcompressioncodec" -> "zstd";
      default -> name;
    };
  }

  /** Whether the codec can be had in chunks; otherwise map outputs are engine streams. */
  boolean hasChunkCodec() {
    return codecName.equals("lz4") || codecName.equals("zstd") || codecName.equals("none");
  }

  ChunkCodec newCodec() {
    return switch (codecName) {
      case "zstd" -> ChunkCodec.zstd(zstdLevel);
      case "none" -> ChunkCodec.none();
      default -> ChunkCodec.lz4(); // also for the spills of engine streams
    };
  }

  EbbNode.Options nodeOptions() {
    return new EbbNode.Options(connectTimeoutMs, requestTimeoutMs, reconnectTimeoutMs, localFiles);
  }
}
