package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.numbers;
import static org.apache.spark.shuffle.ebb.SparkJobs.shuffleOf;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;
import scala.Tuple2;

/**
 * Shuffles that are computed again, in later attempts, later jobs, or after they were removed: what Spark has unregistered never
 * stands again, and what it computes again is taken.
 */
@Timeout(120)
class RecomputedTest {
  private static final int ROWS = 4000;
  @RegisterExtension
  static final RealNodeExtension NODE = new RealNodeExtension("64MiB");
  @TempDir
  Path temp;
  final RealNode node = NODE.node();

  SparkConf conf(String... settings) {
    return SparkJobs.ebbConf(LOCAL, temp, node.url(), settings);
  }

  /** Its second shuffle is INDETERMINATE: a map task that is run again distributes its rows in another way. */
  static JavaRDD<Integer> scattered(SparkSession spark) {
    return new JavaSparkContext(spark.sparkContext()).parallelize(numbers(ROWS), 4).repartition(4).mapPartitions(rows -> {
      List<Integer> all = new ArrayList<>();
      rows.forEachRemaining(all::add);
      Collections.shuffle(all, new Random());
      return all.iterator();
    }).repartition(4);
  }

  /** Deletes the file of one map's output; this process forgets what it has mapped. */
  static void loseOne(int shuffleId) throws Exception {
    LossTest.damage(shuffleId, List.of(1), Files::delete);
    EbbRuntime.ofDriver().forget(shuffleId);
  }

  static void assertAllRowsOnce(JavaRDD<Integer> rows, String when) {
    List<Integer> all = new ArrayList<>(rows.collect());
    Collections.sort(all);
    assertEquals(numbers(ROWS), all, when);
  }

  @Test
  @Tag("every-line")
  void anIndeterminateShuffleThatLosesOutputsInJobAfterJobIsReplacedAsAWhole() throws Exception {
    with(conf(), spark -> {
      JavaRDD<Integer> y = scattered(spark);
      JavaPairRDD<Integer, Iterable<Integer>> z = y.mapToPair(i -> new Tuple2<>(i, i)).groupByKey(4);
      JavaRDD<Integer> rows = z.flatMap(pair -> pair._2().iterator());
      assertAllRowsOnce(rows, "at first");
      int ofY = shuffleOf(y).shuffleId();
      int ofZ = shuffleOf(z).shuffleId();
      for (int lost : new int[] {ofY, ofZ, ofY, ofZ, ofZ, ofY}) {
        loseOne(lost);
        if (lost == ofY) assertAllRowsOnce(y, "from y, which had lost an output");
        assertAllRowsOnce(rows, "from z, when shuffle " + lost + " had lost an output");
      }
      return null;
    });
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }

  @Test
  void anOutputThatWasComputedAgainInAnEarlierJobIsComputedAgainInALaterOne() throws Exception {
    with(conf(), spark -> {
      TaskLog log = TaskLog.of(spark);
      var sums = SparkJobs.groupedSums(spark);
      List<String> first = lines(sums.collect());
      int shuffle = shuffleOf(sums).shuffleId();
      for (int job = 1; job <= 3; job++) {
        loseOne(shuffle);
        assertEquals(first, lines(sums.collect()));
        assertEquals(8 + job, log.sum("maps"), "the lost one alone");
      }
      return null;
    });
  }

  @Test
  @Tag("every-line")
  void aCleanedShuffleThatIsUsedAgainIsComputedAgain() throws Exception {
    with(conf(), spark -> {
      TaskLog log = TaskLog.of(spark);
      var sums = SparkJobs.groupedSums(spark);
      List<String> first = lines(sums.collect());
      for (int round = 2; round <= 3; round++) {
        sums.rdd().cleanShuffleDependencies(true);
        assertEquals(first, lines(sums.collect()));
        assertEquals(8 * round, log.sum("maps"));
      }
      assertEquals(List.of(), log.failures());
      sums.rdd().cleanShuffleDependencies(true);
      LossTest.forgetJob(node);
      assertEquals(first, lines(sums.collect()), "cleaned, and the node forgot the job");
      return null;
    });
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }

  /** Spark 4 does so at the end of a query, when it is told to: its MapOutputTracker goes on to name the outputs. */
  @Test
  @Tag("every-line")
  void aShuffleThatIsRemovedWhileSparkStillNamesItsOutputsIsComputedAgain() throws Exception {
    with(conf(), spark -> {
      TaskLog log = TaskLog.of(spark);
      var sums = SparkJobs.groupedSums(spark);
      List<String> first = lines(sums.collect());
      spark.sparkContext().shuffleDriverComponents().removeShuffle(shuffleOf(sums).shuffleId(), true);
      assertEquals(first, lines(sums.collect()));
      assertEquals(16, log.sum("maps"));
      return null;
    });
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }
}
