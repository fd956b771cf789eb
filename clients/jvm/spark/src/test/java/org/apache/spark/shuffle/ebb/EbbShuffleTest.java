package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.assertSame;
import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.numbers;
import static org.apache.spark.shuffle.ebb.SparkJobs.sorted;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.spark.HashPartitioner;
import org.apache.spark.Partitioner;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.shuffle.ebb.SparkJobs.Work;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import scala.Tuple2;

/** Whole Spark jobs in local mode against the fake node: right results under every setting, and under faults. */
@Timeout(180)
class EbbShuffleTest extends WithFakeNode {
  void checkSql(SparkConf conf) throws Exception {
    assertSame(SparkJobs.vanillaSql(temp), with(conf, SparkJobs::sqlResults));
    assertTrue(node.callsByOp.containsKey(32), "map outputs were committed");
    assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty(), "mappings are gone after stop");
    assertEquals(0, node.shuffleCount());
    assertTrue(node.jobs.isEmpty());
  }

  void checkRdd(SparkConf conf) throws Exception {
    assertSame(SparkJobs.vanillaRdd(temp), with(conf, SparkJobs::rddResults));
    assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty(), "mappings are gone after stop");
  }

  @ParameterizedTest
  @ValueSource(strings = {"lz4", "zstd", "snappy", "lzf", "none"})
  void sqlGivesVanillasResultsWithEachCodec(String codec) throws Exception {
    checkSql(codec.equals("none") ? conf("spark.shuffle.compress", "false") : conf("spark.io.compression.codec", codec));
  }

  @ParameterizedTest
  @ValueSource(strings = {"lz4", "zstd", "snappy", "none"})
  void rddsGiveVanillasResultsWithEachCodec(String codec) throws Exception {
    checkRdd(codec.equals("none") ? conf("spark.shuffle.compress", "false") : conf("spark.io.compression.codec", codec));
  }

  @Test
  void rddsGiveVanillasResultsWithKryo() throws Exception {
    checkRdd(conf("spark.serializer", "org.apache.spark.serializer.KryoSerializer"));
  }

  @Test
  @Tag("every-line")
  void resultsAreRightWithEncryption() throws Exception {
    checkSql(conf("spark.io.encryption.enabled", "true"));
    checkRdd(conf("spark.io.encryption.enabled", "true", "spark.serializer", "org.apache.spark.serializer.KryoSerializer"));
  }

  @Test
  void resultsAreRightWithoutAdaptiveExecution() throws Exception {
    checkSql(conf("spark.sql.adaptive.enabled", "false", "spark.sql.shuffle.partitions", "210"));
  }

  @Test
  void resultsAreRightWithSkewSplitsAndLocalReaders() throws Exception {
    checkSql(conf("spark.sql.adaptive.skewJoin.skewedPartitionFactor", "1", "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes", "4k",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes", "8k", "spark.sql.adaptive.coalescePartitions.minPartitionSize", "1k",
        "spark.sql.autoBroadcastJoinThreshold", "-1", "spark.sql.adaptive.autoBroadcastJoinThreshold", "10m"));
  }

  @Test
  void resultsAreRightWhenEverySpillThresholdIsTiny() throws Exception {
    String[] tiny = {"spark.shuffle.spill.numElementsForceSpillThreshold", "1000"};
    checkSql(conf(tiny));
    checkRdd(conf(tiny));
    checkSql(conf("spark.shuffle.spill.numElementsForceSpillThreshold", "1500", "spark.io.encryption.enabled", "true"));
    checkSql(conf("spark.shuffle.spill.numElementsForceSpillThreshold", "1500", "spark.io.compression.codec", "snappy"));
    checkRdd(conf("spark.shuffle.spill.numElementsForceSpillThreshold", "1500", "spark.serializer", "org.apache.spark.serializer.KryoSerializer"));
  }

  @Test
  void resultsAreRightWithPositionalReads() throws Exception {
    checkSql(conf("spark.shuffle.ebb.reader.mapping", "false"));
  }

  @Test
  void resultsAreRightWithFewMappings() throws Exception {
    checkSql(conf("spark.shuffle.ebb.reader.maxMappings", "2"));
  }

  @Test
  void resultsAreRightWhenTheDirectoriesCannotBeSeen() throws Exception {
    node.hideDirectories = true;
    checkSql(conf());
    checkRdd(conf());
    assertTrue(node.callsByOp.containsKey(17) && node.callsByOp.containsKey(12), "bytes went through frames");
  }

  @Test
  void resultsAreRightWithSmallBuffersAndLongPartitions() throws Exception {
    checkSql(conf("spark.shuffle.ebb.writer.bufferSize", "256k", "spark.shuffle.ebb.chunkSize", "4k", "spark.sql.shuffle.partitions", "1",
        "spark.shuffle.compress", "false"));
    checkLong(conf("spark.shuffle.ebb.writer.bufferSize", "256k", "spark.shuffle.compress", "false"));
    checkLong(conf("spark.shuffle.ebb.writer.bufferSize", "256k"));
  }

  /** Rows longer than a chunk, partitions longer than a run, outputs longer than the buffer. */
  void checkLong(SparkConf conf) throws Exception {
    Work<List<String>> work = spark -> sorted(spark.range(0, 60, 1, 3)
        .selectExpr("id", "id % 2 as k", "array_join(transform(sequence(0, 20000), x -> cast(hash(x, id) as string)), '') as long")
        .repartition(2, org.apache.spark.sql.functions.col("k")).selectExpr("id", "md5(long)", "length(long)"));
    List<String> expected = with(SparkJobs.vanillaConf(LOCAL, temp), work);
    assertEquals(60, expected.size());
    node.refuseExtends = 2;
    assertEquals(expected, with(conf, work));
    node.refuseExtends = 0;
  }

  @Test
  void aCorruptByteRecomputesOnlyThatMap() throws Exception {
    with(conf("spark.sql.adaptive.enabled", "false"), spark -> {
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      var computed = sc.sc().longAccumulator();
      var grouped = sc.parallelize(numbers(10000), 8).mapPartitionsToPair(it -> {
        computed.add(1);
        List<Tuple2<Integer, Integer>> out = new ArrayList<>();
        it.forEachRemaining(i -> out.add(new Tuple2<>(i % 100, i)));
        return out.iterator();
      }).groupByKey(4).mapValues(values -> {
        long sum = 0;
        for (int v : values) sum += v;
        return sum;
      });
      List<String> first = lines(grouped.collect());
      assertEquals(8, computed.value());
      for (var row : node.rows()) if (row.mapIndex() == 3) node.corrupt(row, row.location().length() / 3);
      assertEquals(first, lines(grouped.collect()));
      assertEquals(9, computed.value(), "one map was computed again");
      for (var row : node.rows()) if (row.mapIndex() == 5) node.drop(row);
      SparkEnv.get().shuffleManager().stop(); // forget what is mapped here
      assertEquals(first, lines(grouped.collect()));
      assertEquals(10, computed.value(), "one map was computed again");
      return null;
    });
  }

  @Test
  void ofOutputsThatAreReadTogetherFromFarAwayTheLostOneIsComputedAgain() throws Exception {
    node.hideDirectories = true;
    with(conf(), spark -> {
      TaskLog log = TaskLog.of(spark);
      var sums = SparkJobs.groupedSums(spark);
      List<String> first = lines(sums.collect());
      for (var row : node.rows()) if (row.mapIndex() == 5) node.drop(row);
      assertEquals(first, lines(sums.collect()));
      assertEquals(9, log.sum("maps"), "one map was computed again");
      return null;
    });
  }

  @Test
  void revokedBlobsAreGivenBackAndReadFromTheirNewPlace() throws Exception {
    with(conf(), spark -> {
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      var pairs = sc.parallelize(numbers(10000), 8).mapToPair(i -> new Tuple2<>(i % 100, i)).groupByKey(4).mapValues(v -> v.iterator().next() % 100);
      List<String> first = lines(pairs.collect());
      var old = node.spillAll();
      for (int i = 0; i < 200 && !node.released.containsAll(old); i++) Thread.sleep(10);
      assertTrue(node.released.containsAll(old), "all blobs were given back");
      assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty());
      assertEquals(first, lines(pairs.collect()));
      return null;
    });
  }

  @Test
  void aRestartedNodeBetweenMapAndReduceCostsNothing() throws Exception {
    with(conf(), spark -> {
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      var computed = sc.sc().longAccumulator();
      var pairs = sc.parallelize(numbers(10000), 8).mapToPair(i -> {
        computed.add(1);
        return new Tuple2<>(i % 100, i);
      }).groupByKey(4).mapValues(v -> v.iterator().next() % 100);
      List<String> first = lines(pairs.collect());
      node.stop();
      Thread starter = new Thread(() -> {
        try {
          Thread.sleep(700);
          node.restart();
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      starter.start();
      assertEquals(first, lines(pairs.collect()));
      starter.join();
      node.loseNextCommitAnswer = true;
      assertEquals(first, lines(pairs.repartition(3).collect()));
      assertEquals(10000, computed.value());
      return null;
    });
  }

  @Test
  void aFullNodeIsWaitedFor() throws Exception {
    node.refuseStages = 5;
    checkSql(conf());
    assertEquals(0, node.refuseStages);
    node.refusal = "busy";
    node.refuseStages = 5;
    checkRdd(conf());
  }

  /** Few long records in the first partitions, many short ones in the last. */
  static final class LongOnesFirst extends Partitioner {
    @Override
    public int numPartitions() {
      return 8;
    }

    @Override
    public int getPartition(Object key) {
      int i = (Integer) key;
      return i < 64 ? i / 16 : 7;
    }
  }

  @Test
  void aSkewedOutputIsNotReservedManyTimesItsSize() throws Exception {
    with(conf("spark.shuffle.compress", "false", "spark.serializer", "org.apache.spark.serializer.KryoSerializer"), spark -> {
      TaskLog log = TaskLog.of(spark);
      long records = new JavaSparkContext(spark.sparkContext()).parallelize(numbers(200_000), 1).mapToPair(i -> new Tuple2<>(i, new byte[i < 64 ? 200_000 : 4]))
          .partitionBy(new LongOnesFirst()).count();
      assertEquals(200_000, records);
      assertTrue(Collections.max(node.reserved) < 2 * log.sum("bytesWritten"), node.reserved + " for " + log.sum("bytesWritten"));
      return null;
    });
  }

  @Test
  void aNodeThatStaysFullFailsTheJobWithAClearMessage() throws Exception {
    with(conf("spark.shuffle.ebb.writer.fullTimeout", "200ms"), spark -> {
      node.refuseStages = 1_000_000;
      try {
        spark.range(100).repartition(3).count();
      } catch (Exception e) {
        assertTrue(e.toString().contains("had no room"), e.toString());
        return null;
      }
      throw new AssertionError("the job succeeded");
    });
  }

  @Test
  void withoutANodeTheErrorSaysWhatToDoAndNothingElse() throws Exception {
    node.close();
    SparkConf conf = conf("spark.shuffle.ebb.connect.timeout", "500ms");
    try {
      with(conf, spark -> null);
    } catch (IllegalStateException e) {
      assertTrue(e.getMessage().contains(node.url()) && e.getMessage().contains("spark.shuffle.ebb.fallback"), e.getMessage());
      assertEquals(e.getMessage(), printed(e));
      return;
    }
    throw new AssertionError("the application started");
  }

  /** The text that Spark's log and py4j, and so PySpark, show. */
  static String printed(Throwable error) {
    java.io.StringWriter text = new java.io.StringWriter();
    error.printStackTrace(new java.io.PrintWriter(text));
    return text.toString().trim();
  }

  @Test
  void aSettingThatIsNotAllowedIsNamedAndNothingElseIsPrinted() throws Exception {
    try {
      with(conf("spark.shuffle.ebb.chunkSize", "1"), spark -> null);
    } catch (IllegalStateException e) {
      assertEquals("spark.shuffle.ebb.chunkSize = 1 bytes, must be 4096 to 4194304", printed(e));
      return;
    }
    throw new AssertionError("the application started");
  }

  @Test
  void withoutANodeFallbackUsesSparksOwnShuffle() throws Exception {
    node.close();
    // `ebb spark-conf` says it so; without a node Spark would refuse to start with it.
    SparkConf conf = conf("spark.shuffle.ebb.fallback", "true", "spark.shuffle.ebb.connect.timeout", "500ms",
        "spark.dynamicAllocation.enabled", "true", "spark.dynamicAllocation.shuffleTracking.enabled", "false");
    assertSame(SparkJobs.vanillaSql(temp), with(conf, spark -> {
      assertFalse(spark.sparkContext().shuffleDriverComponents().supportsReliableStorage());
      assertTrue(spark.sparkContext().conf().getBoolean("spark.dynamicAllocation.shuffleTracking.enabled", false));
      return SparkJobs.sqlResults(spark);
    }));
  }

  /** Left to a thread that goes on reading when its task is over. */
  static volatile Iterator<Tuple2<Integer, String>> left;

  @Test
  void aThreadThatReadsBeyondTheEndOfItsTaskDisturbsNoOther() throws Exception {
    // One reduce task after another, which so use the same buffers; some chunks each.
    with(conf("spark.serializer", "org.apache.spark.serializer.KryoSerializer").setMaster("local[1]"), spark -> {
      var pairs = new JavaSparkContext(spark.sparkContext()).parallelize(numbers(40_000), 2).mapToPair(i -> new Tuple2<>(i, "value-" + i * 31L))
          .partitionBy(new HashPartitioner(1));
      List<Integer> first = pairs.mapPartitions(records -> {
        left = records;
        return List.of(records.next()._1()).iterator();
      }).collect();
      assertEquals(1, first.size());
      long sum = pairs.mapPartitions(records -> {
        long read = records.next()._1();
        Thread straggler = new Thread(() -> {
          try {
            while (left.hasNext()) left.next();
          } catch (IllegalStateException e) {
            // its task is over
          }
        });
        straggler.start();
        straggler.join();
        while (records.hasNext()) {
          var record = records.next();
          assertEquals("value-" + record._1() * 31L, record._2());
          read += record._1();
        }
        return List.of(read).iterator();
      }).reduce(Long::sum);
      assertEquals(40_000L * 39_999 / 2, sum);
      return null;
    });
  }

  @Test
  @Tag("every-line")
  @Tag("newest")
  void metricsAreSparksOwn() throws Exception {
    Work<Map<String, Long>> work = spark -> {
      TaskLog log = TaskLog.of(spark);
      spark.range(0, 10000, 1, 4).repartition(5).selectExpr("sum(id)").collectAsList();
      Map<String, Long> sums = new TreeMap<>();
      for (String what : List.of("recordsWritten", "recordsRead", "blocksRead", "bytesWritten", "bytesRead")) sums.put(what, log.sum(what));
      return sums;
    };
    String[] asPlanned = {"spark.sql.adaptive.enabled", "false"};
    Map<String, Long> vanilla = with(SparkJobs.vanillaConf(LOCAL, temp, asPlanned), work);
    Map<String, Long> ebb = with(conf(asPlanned), work);
    for (String same : List.of("recordsWritten", "recordsRead", "blocksRead")) assertEquals(vanilla.get(same), ebb.get(same), same);
    assertEquals(ebb.get("bytesWritten"), ebb.get("bytesRead"));
  }
}
