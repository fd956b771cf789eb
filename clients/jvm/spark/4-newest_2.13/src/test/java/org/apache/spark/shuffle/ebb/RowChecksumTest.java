package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.SparkEnv;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Spark 4.1 and later learn from a checksum over a map's rows whether a second attempt gave the same ones (SPARK-51756). */
@Timeout(60)
@Tag("newest")
class RowChecksumTest extends WithFakeNode {
  /** Of the only shuffle, map by map. */
  static long[] checksums(SparkSession spark) {
    var rows = spark.range(0, 10000, 1, 6).selectExpr("id % 100 as k", "concat('name-', id) as name").repartition(5, org.apache.spark.sql.functions.col("k"));
    rows.collectAsList();
    MapOutputTrackerMaster tracker = (MapOutputTrackerMaster) SparkEnv.get().mapOutputTracker();
    MapStatus[] statuses = tracker.shuffleStatuses().head()._2().mapStatuses();
    long[] checksums = new long[statuses.length];
    for (int map = 0; map < statuses.length; map++) checksums[map] = statuses[map].checksumValue();
    return checksums;
  }

  @Test
  void mapStatusesCarryTheChecksumsThatVanillasCarry() throws Exception {
    long[] vanilla = with(SparkJobs.vanillaConf(LOCAL, temp), RowChecksumTest::checksums);
    assertTrue(Arrays.stream(vanilla).allMatch(checksum -> checksum != 0));
    assertArrayEquals(vanilla, with(conf(), RowChecksumTest::checksums));
    assertArrayEquals(vanilla, with(conf("spark.io.encryption.enabled", "true"), RowChecksumTest::checksums));
  }
}
