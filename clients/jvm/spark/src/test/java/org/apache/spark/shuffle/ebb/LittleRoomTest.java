package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.List;
import org.apache.spark.HashPartitioner;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import scala.Tuple2;

/** Shuffles that are larger than the real node's tiers: they go down to where there is room, and are read from there. */
@Timeout(120)
class LittleRoomTest {
  private static final String KRYO = "org.apache.spark.serializer.KryoSerializer";
  private static final String ON_DISK = "ebb_tier_blobs{tier=\"disk\"}";
  private static final String TO_REMOTE = "ebb_spill_bytes_total{from=\"disk\",to=\"remote\"}";
  @TempDir
  Path temp;

  @BeforeEach
  void needsADaemon() {
    RealNodeExtension.assumeThere();
  }

  /** About 40 MB that do not compress, from 4 maps. */
  static List<String> shuffle(SparkSession spark) {
    var pairs = new JavaSparkContext(spark.sparkContext()).parallelize(SparkJobs.numbers(40_000), 4).mapToPair(i -> {
      byte[] noise = new byte[1000];
      new java.util.Random(i).nextBytes(noise);
      return new Tuple2<>(i, noise);
    });
    return lines(pairs.partitionBy(new HashPartitioner(5)).mapPartitionsWithIndex((partition, records) -> {
      long count = 0;
      long sum = 0;
      while (records.hasNext()) {
        count++;
        sum += java.util.Arrays.hashCode(records.next()._2());
      }
      return List.of(partition + ": " + count + " records, " + sum).iterator();
    }, false).collect());
  }

  /** `sign` is a metric that says that the tier was needed. */
  void check(String memory, String disk, String sign, String... settings) throws Exception {
    List<String> vanilla = with(SparkJobs.vanillaConf(LOCAL, temp), LittleRoomTest::shuffle);
    try (RealNode node = RealNode.start(memory, "--disk-limit", disk)) {
      with(SparkJobs.ebbConf(LOCAL, temp, node.url(), settings), spark -> {
        TaskLog log = TaskLog.of(spark);
        assertEquals(vanilla, shuffle(spark));
        assertEquals(List.of(), log.failures());
        assertTrue(node.metric(sign) > 0, sign);
        return null;
      });
      assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
    }
  }

  @Test
  void serializedOutputsGoToDisk() throws Exception {
    check("8MiB", "1GiB", ON_DISK, "spark.serializer", KRYO);
    check("8MiB", "1GiB", ON_DISK, "spark.serializer", KRYO, "spark.shuffle.ebb.localFiles", "false");
  }

  @Test
  void sortedOutputsGoToDisk() throws Exception {
    check("8MiB", "1GiB", ON_DISK);
  }

  @Test
  void sortedOutputsThatComeThroughTheConnectionGoToDisk() throws Exception {
    check("8MiB", "1GiB", ON_DISK, "spark.shuffle.ebb.localFiles", "false");
  }

  @Test
  void outputsThatNoLocalTierHasRoomForAreReadFromTheRemoteTier() throws Exception {
    check("8MiB", "24MiB", TO_REMOTE, "spark.serializer", KRYO);
    check("8MiB", "24MiB", TO_REMOTE, "spark.serializer", KRYO, "spark.shuffle.ebb.localFiles", "false");
  }
}
