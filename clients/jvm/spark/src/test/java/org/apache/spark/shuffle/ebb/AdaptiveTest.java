package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.sorted;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Adaptive execution chooses each of its ways to read a shuffle on Ebb's map statuses too, and the rows are vanilla's. */
@Timeout(120)
@Tag("every-line")
@Tag("newest")
class AdaptiveTest extends WithFakeNode {
  record Outcome(List<String> rows, String plan) {}

  interface Query {
    Dataset<Row> on(SparkSession spark);
  }

  /** Runs on vanilla and on Ebb; the rows must be equal. Returns what Ebb's final plan says. */
  String planOf(Query query, String... settings) throws Exception {
    Outcome vanilla = with(SparkJobs.vanillaConf(LOCAL, temp, settings), spark -> run(spark, query));
    SparkConf conf = conf(settings);
    Outcome ebb = with(conf, spark -> run(spark, query));
    assertFalse(vanilla.rows.isEmpty());
    SparkJobs.assertSame(vanilla.rows, ebb.rows);
    assertTrue(ebb.plan.contains("isFinalPlan=true"), ebb.plan);
    assertEquals(reads(vanilla.plan), reads(ebb.plan), "vanilla reads its shuffles in the same way");
    return ebb.plan;
  }

  static Outcome run(SparkSession spark, Query query) {
    Dataset<Row> rows = query.on(spark);
    List<String> all = sorted(rows);
    return new Outcome(all, rows.queryExecution().executedPlan().toString());
  }

  static List<String> reads(String plan) {
    String finalPlan = plan.contains("== Initial Plan ==") ? plan.substring(0, plan.indexOf("== Initial Plan ==")) : plan;
    return finalPlan.lines().filter(line -> line.contains("AQEShuffleRead")).map(line -> line.substring(line.indexOf("AQEShuffleRead"))).toList();
  }

  @Test
  void smallPartitionsAreCoalesced() throws Exception {
    String plan = planOf(spark -> spark.range(0, 20000, 1, 5).selectExpr("id % 500 as k", "id").groupBy("k").count(),
        "spark.sql.shuffle.partitions", "50", "spark.sql.adaptive.advisoryPartitionSizeInBytes", "1m");
    assertEquals(List.of("AQEShuffleRead coalesced"), reads(plan), plan);
  }

  @Test
  void aSkewedPartitionIsSplitByMaps() throws Exception {
    String plan = planOf(spark -> {
      // Nine rows in ten have one key.
      var left = spark.range(0, 40000, 1, 8).selectExpr("if(id % 10 = 0, id % 200, 7) as k", "id as l", "md5(cast(id as string)) as pad");
      var right = spark.range(0, 200, 1, 2).selectExpr("id as k", "id * 2 as r");
      return left.join(right, "k").selectExpr("count(*)", "sum(l)", "sum(r)", "sum(hash(k, l, pad, r))");
    }, "spark.sql.adaptive.skewJoin.skewedPartitionFactor", "2", "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes", "16k",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes", "16k", "spark.sql.adaptive.coalescePartitions.minPartitionSize", "1k");
    assertTrue(plan.contains("skew=true"), plan);
    assertTrue(reads(plan).stream().anyMatch(read -> read.contains("skewed")), plan);
  }

  @Test
  void aJoinThatBecomesABroadcastReadsItsShuffleMapByMap() throws Exception {
    String plan = planOf(spark -> {
      var left = spark.range(0, 20000, 1, 4).selectExpr("id % 1000 as k", "id as l");
      var right = spark.range(0, 1000, 1, 2).selectExpr("id as k", "id * 2 as r").where("k < 20");
      return left.join(right, "k");
    }, "spark.sql.adaptive.autoBroadcastJoinThreshold", "10m");
    assertTrue(plan.contains("BroadcastHashJoin"), plan);
    assertTrue(reads(plan).contains("AQEShuffleRead local"), plan);
  }
}
