package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * One map output longer than an int can say and than two mappings are, and one partition of it that is, too. `-Debb.large.mib=4600` makes
 * the output longer than offsets of four bytes can say, `-Debb.large.local=false` sends it through the connection. Takes as much of
 * /dev/shm, and as much of the disk for what the writer spills.
 */
class LargeOutputTest {
  private static final long ROW_BYTES = 4096;
  private static final long OUTPUT_BYTES = Long.getLong("ebb.large.mib", 2150) << 20;
  private static final String LOCAL_FILES = System.getProperty("ebb.large.local", "true");
  @TempDir
  Path temp;

  /** All but one row in fifty have one key. */
  static Dataset<Row> rows(SparkSession spark) {
    return spark.range(0, OUTPUT_BYTES / ROW_BYTES, 1, 1).selectExpr("id", "if(id % 50 = 0, id, 7) as k", "repeat(md5(cast(id as string)), 128) as payload");
  }

  static List<String> digest(Dataset<Row> rows) {
    return SparkJobs.lines(rows.selectExpr("count(*)", "sum(k * id)", "sum(id % 1000 * crc32(payload))").collectAsList());
  }

  @Test
  @Timeout(300)
  void aMapOutputOfMoreThanTwoGiBIsReadBackWhole() throws Exception {
    RealNodeExtension.assumeThere();
    for (Path dir : List.of(Path.of("/dev/shm"), temp)) {
      assumeTrue(Files.getFileStore(dir).getUsableSpace() > 2 * OUTPUT_BYTES, "too little room in " + dir);
    }
    String[] settings = {"spark.shuffle.compress", "false", "spark.sql.adaptive.enabled", "false", "spark.shuffle.ebb.localFiles", LOCAL_FILES};
    try (RealNode node = RealNode.start(OUTPUT_BYTES / 2 * 3 + "")) {
      with(SparkJobs.ebbConf(SparkJobs.LOCAL, temp, node.url(), settings), spark -> {
        TaskLog log = TaskLog.of(spark);
        List<String> expected = digest(rows(spark));
        assertEquals(expected, digest(rows(spark).repartition(3, org.apache.spark.sql.functions.col("k"))));
        assertTrue(log.sum("bytesWritten") > OUTPUT_BYTES, "bytes written: " + log.sum("bytesWritten"));
        return null;
      });
      assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
    }
  }
}
