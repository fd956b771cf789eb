package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.numbers;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Iterator;
import java.util.List;
import java.util.function.Function;
import org.apache.spark.HashPartitioner;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import scala.Tuple2;

/** One task that reads hundreds of reduce partitions holds no more for it at its end than vanilla Spark does. */
@Timeout(120)
class ManyPartitionsTest extends WithFakeNode {
  private static final int PARTITIONS = 600;
  private static final int ROWS = 6000;
  /** What a collection leaves from one moment to the next. */
  private static final long NOISE_BYTES = 24 << 20;
  private static final String KRYO = "org.apache.spark.serializer.KryoSerializer";

  /** How many records there were, and what the heap holds more at the end of the task than at its beginning. */
  record Drained(long records, long bytes) {}

  static long heapBytes() {
    System.gc();
    return Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
  }

  static Drained drain(JavaRDD<?> onePartition) {
    var counts = onePartition.mapPartitions(records -> {
      long before = heapBytes();
      long count = 0;
      for (Iterator<?> all = records; all.hasNext(); all.next()) count++;
      return List.of(count, heapBytes() - before).iterator();
    }).collect();
    return new Drained(counts.get(0), counts.get(1));
  }

  void check(Function<SparkSession, JavaRDD<?>> work, long records, String... settings) throws Exception {
    Drained vanilla = with(SparkJobs.vanillaConf("local[1]", temp, settings), spark -> drain(work.apply(spark)));
    Drained ebb = with(conf(settings).setMaster("local[1]"), spark -> drain(work.apply(spark)));
    assertEquals(records, vanilla.records);
    assertEquals(records, ebb.records);
    assertTrue(ebb.bytes <= Math.max(0, vanilla.bytes) + NOISE_BYTES, ebb + ", and vanilla " + vanilla);
  }

  static JavaPairRDD<Integer, Integer> pairs(SparkSession spark, int partitions) {
    return new JavaSparkContext(spark.sparkContext()).parallelize(numbers(ROWS), 2).mapToPair(i -> new Tuple2<>(i, i)).partitionBy(new HashPartitioner(partitions));
  }

  static JavaRDD<?> coalesced(SparkSession spark) {
    return pairs(spark, PARTITIONS).map(pair -> pair).coalesce(1);
  }

  @Test
  @Tag("every-line")
  void partitionsThatAreReadOneAfterTheOtherTakeTheMemoryOfOne() throws Exception {
    check(ManyPartitionsTest::coalesced, ROWS);
    check(ManyPartitionsTest::coalesced, ROWS, "spark.serializer", KRYO);
  }

  @Test
  void theRowsOfSqlDoToo() throws Exception {
    check(spark -> spark.range(0, ROWS, 1, 2).repartition(PARTITIONS, org.apache.spark.sql.functions.col("id")).coalesce(1).toJavaRDD(), ROWS);
  }

  @Test
  void partitionsOfWhichOnlyTheFirstRecordIsReadHoldWhatTheyShow() throws Exception {
    for (String serializer : List.of("org.apache.spark.serializer.JavaSerializer", KRYO)) {
      check(spark -> pairs(spark, PARTITIONS).mapPartitions(records -> List.of(records.next()).iterator()).coalesce(1), PARTITIONS, "spark.serializer", serializer);
    }
  }

  @Test
  void aShuffleThatIsReadAnewForEachRecordOfAnotherHoldsOneReading() throws Exception {
    check(spark -> pairs(spark, 1).filter(pair -> pair._1() < PARTITIONS).map(Tuple2::_1)
        .cartesian(pairs(spark, 1).filter(pair -> pair._1() < 3)).map(pair -> pair), 3L * PARTITIONS, "spark.serializer", KRYO);
  }

  @Test
  void unitedShufflesAndZippedOnesHoldWhatIsBeingRead() throws Exception {
    check(spark -> pairs(spark, PARTITIONS).union(pairs(spark, PARTITIONS / 2)).map(pair -> pair).coalesce(1), 2L * ROWS, "spark.serializer", KRYO);
    check(spark -> pairs(spark, PARTITIONS).<Tuple2<Integer, Integer>, Integer>zipPartitions(pairs(spark, PARTITIONS).map(pair -> pair), (a, b) -> {
      List<Integer> sums = new java.util.ArrayList<>();
      while (a.hasNext() && b.hasNext()) sums.add(a.next()._2() + b.next()._2());
      return sums.iterator();
    }).coalesce(1), ROWS, "spark.serializer", KRYO);
  }
}
