package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.EbbNode;
import org.ebb.client.Messages;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.ebb.client.Session;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;

/** What the real node has lost is computed again: that, and nothing else. */
@Timeout(120)
class LossTest {
  @RegisterExtension
  static final RealNodeExtension NODE = new RealNodeExtension("64MiB");
  @TempDir
  Path temp;
  final RealNode node = NODE.node();

  SparkConf conf(String... settings) {
    return SparkJobs.ebbConf(LOCAL, temp, node.url(), settings);
  }

  interface Damage {
    void to(Path file) throws Exception;
  }

  /** Does something to the files of these maps' outputs behind the daemon's back, before anything has read them. */
  static void damage(int shuffleId, List<Integer> maps, Damage damage) throws Exception {
    EbbNode ours = EbbRuntime.ofDriver().node;
    try (EbbNode another = new EbbNode(ours.url(), "test", ours.jobId(), new EbbNode.Options(5000, 5000, 5000, true))) {
      Session session = another.session();
      for (Messages.MapOutputRow row : session.shuffleTable(ours.jobId(), shuffleId, 0).rows()) {
        if (row.winner() && maps.contains(row.mapIndex())) damage.to(session.file(row.location().tier(), row.location().path()));
      }
    }
  }

  /** Damages these of `count` map outputs. */
  void lose(int count, List<Integer> maps, Damage damage, String... settings) throws Exception {
    List<String> vanilla = with(SparkJobs.vanillaConf(LOCAL, temp), spark -> lines(SparkJobs.groupedSums(spark).collect()));
    with(conf(settings), spark -> {
      TaskLog log = TaskLog.of(spark);
      var sums = SparkJobs.groupedSums(spark, count);
      var shuffle = SparkJobs.shuffleOf(sums);
      SparkJobs.runMaps(spark, shuffle);
      for (int round = 1; round <= 2; round++) { // what was computed again can be lost again
        damage(shuffle.shuffleId(), maps, damage);
        assertEquals(vanilla, lines(sums.collect()));
        assertEquals(count + round * maps.size(), log.sum("maps"), "exactly what was lost is computed again");
        EbbRuntime.ofDriver().forget(shuffle.shuffleId()); // or the next round would read what is mapped
      }
      return null;
    });
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }

  /** One bit, where the data is. */
  static void flip(Path path) throws Exception {
    try (FileChannel file = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
      ByteBuffer one = ByteBuffer.allocate(1);
      file.read(one, 100);
      one.put(0, (byte) (one.get(0) ^ 1)).rewind();
      file.write(one, 100);
    }
  }

  @Test
  @Tag("every-line")
  void aDeletedFileRecomputesItsMapAlone() throws Exception {
    lose(8, List.of(3), Files::delete);
  }

  @Test
  void manyDeletedFilesRecomputeTheirMapsAlone() throws Exception {
    lose(8, List.of(0, 1, 2, 4, 6, 7), Files::delete);
  }

  @Test
  void aDeletedFileRecomputesItsMapAloneAlsoForReadersFarAway() throws Exception {
    // So many that the daemon does not keep the first one's file open.
    lose(300, List.of(0), Files::delete, "spark.shuffle.ebb.localFiles", "false");
  }

  @Test
  void aFlippedBitRecomputesItsMapAlone() throws Exception {
    lose(8, List.of(5), LossTest::flip);
  }

  @Test
  void aFlippedBitRecomputesItsMapAloneAlsoForReadersFarAway() throws Exception {
    lose(8, List.of(5), LossTest::flip, "spark.shuffle.ebb.localFiles", "false");
  }

  @Test
  void aJobThatTheNodeForgotIsOpenedAndComputedAgain() throws Exception {
    with(conf(), spark -> {
      var sums = SparkJobs.groupedSums(spark);
      List<String> first = lines(sums.collect());
      forgetJob(node);
      assertEquals(first, lines(sums.collect()), "map outputs that are gone");
      forgetJob(node);
      assertEquals(first, lines(SparkJobs.groupedSums(spark).collect()), "a shuffle that begins after the loss");
      return null;
    });
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }

  static void forgetJob(RealNode node) throws Exception {
    int status = node.http("DELETE", "/v1/jobs/" + EbbRuntime.ofDriver().node.jobId()).statusCode();
    assertEquals(2, status / 100, "status " + status);
  }
}
