package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.sorted;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import org.apache.spark.HashPartitioner;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.shuffle.ebb.SparkJobs.Work;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import scala.Tuple2;

/** Writers spill when Spark's memory manager gives them less than they ask for, and lose nothing by it. */
@Timeout(120)
class MemoryPressureTest extends WithFakeNode {
  private static final int ROWS = 300_000;
  private static final String KRYO = "org.apache.spark.serializer.KryoSerializer";
  /** Together some MB for the execution of two tasks: less than what they hold, compressed as it may be. */
  private static final String[] LITTLE_HEAP = {"spark.testing.memory", "9000000", "spark.testing.reservedMemory", "1"};
  private static final String[] LITTLE_OFF_HEAP = {"spark.memory.offHeap.enabled", "true", "spark.memory.offHeap.size", "3m"};
  /** Vanilla with all the memory it wants, Ebb with little. */
  void check(Work<List<String>> work, String[] memory, String... settings) throws Exception {
    List<String> vanilla = with(SparkJobs.vanillaConf(LOCAL, temp, settings), work);
    SparkConf little = conf(settings);
    for (int i = 0; i < memory.length; i += 2) little.set(memory[i], memory[i + 1]);
    with(little, spark -> {
      TaskLog log = TaskLog.of(spark);
      SparkJobs.assertSame(vanilla, work.in(spark));
      assertTrue(log.sum("memoryBytesSpilled") > 0, "map tasks spilled");
      assertTrue(log.sum("diskBytesSpilled") > 0, "to disk");
      assertEquals(List.of(), log.failures());
      return null;
    });
  }

  static JavaPairRDD<Integer, String> pairs(SparkSession spark) {
    return new JavaSparkContext(spark.sparkContext()).parallelize(SparkJobs.numbers(ROWS), 2)
        .mapToPair(i -> new Tuple2<>(i, "value-" + Integer.toHexString(i * 31) + "-" + (long) i * i));
  }

  /** Few lines that depend on every record and its partition. */
  static List<String> digest(JavaPairRDD<Integer, String> pairs) {
    return lines(pairs.mapPartitionsWithIndex((partition, records) -> {
      long count = 0;
      long sum = 0;
      while (records.hasNext()) {
        count++;
        sum += records.next().hashCode() * 31L;
      }
      return List.of(partition + ": " + count + " records, " + sum).iterator();
    }, false).collect());
  }

  static List<String> repartitioned(SparkSession spark) {
    return digest(pairs(spark).partitionBy(new HashPartitioner(11)));
  }

  /** 200 records of about 100 kB, which hardly compress: each is longer than a chunk. */
  static List<String> longRecords(SparkSession spark) {
    return digest(new JavaSparkContext(spark.sparkContext()).parallelize(SparkJobs.numbers(200), 2).mapToPair(i -> {
      StringBuilder text = new StringBuilder();
      java.util.Random random = new java.util.Random(i);
      while (text.length() < 100_000) text.append(Integer.toString(random.nextInt(), 36));
      return new Tuple2<>(i, text.toString());
    }).partitionBy(new HashPartitioner(3)));
  }

  static List<String> combined(SparkSession spark) {
    return digest(pairs(spark).reduceByKey((a, b) -> a + b, 11));
  }

  static List<String> rows(SparkSession spark) {
    return sorted(spark.range(0, ROWS, 1, 2).selectExpr("id", "id % 1000 as k", "md5(cast(id as string)) as m")
        .repartition(11, org.apache.spark.sql.functions.col("k"))
        .selectExpr("spark_partition_id() as p", "hash(id, k, m) as h").groupBy("p").agg(java.util.Map.of("h", "sum")));
  }

  @Test
  @Tag("every-line")
  void theSerializedWriterSpills() throws Exception {
    check(MemoryPressureTest::repartitioned, LITTLE_HEAP, "spark.serializer", KRYO);
  }

  @Test
  void theSerializedWriterSpillsRecordsThatAreLongerThanAChunk() throws Exception {
    check(MemoryPressureTest::longRecords, LITTLE_HEAP, "spark.serializer", KRYO);
  }

  @Test
  void theSerializedWriterSpillsFromMemoryOutsideTheHeap() throws Exception {
    check(MemoryPressureTest::repartitioned, LITTLE_OFF_HEAP, "spark.serializer", KRYO);
  }

  @Test
  @Tag("every-line")
  void theSerializedWriterSpillsRowsOfSql() throws Exception {
    check(MemoryPressureTest::rows, LITTLE_HEAP, "spark.sql.adaptive.enabled", "false");
    check(MemoryPressureTest::rows, LITTLE_OFF_HEAP, "spark.sql.adaptive.enabled", "false", "spark.io.encryption.enabled", "true");
  }

  @Test
  @Tag("every-line")
  void theSortedWriterSpillsStreams() throws Exception {
    check(MemoryPressureTest::repartitioned, LITTLE_HEAP);
  }

  @Test
  void theSortedWriterSpillsWhatItCombines() throws Exception {
    check(MemoryPressureTest::combined, LITTLE_HEAP, "spark.serializer", KRYO);
  }
}
