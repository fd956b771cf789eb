package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.LOCAL;
import static org.apache.spark.shuffle.ebb.SparkJobs.assertSame;
import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaSparkContext;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;
import scala.Tuple2;

/** The same jobs against the real daemon, in local mode and with real executors; a killed executor, a killed daemon. */
@Timeout(240)
class RealNodeTest {
  @RegisterExtension
  static final RealNodeExtension NODE = new RealNodeExtension("256MiB");
  @TempDir
  Path temp;
  final RealNode node = NODE.node();

  SparkConf conf(String... settings) {
    return SparkJobs.ebbConf(LOCAL, temp, node.url(), settings);
  }

  void check(String... settings) throws Exception {
    assertSame(SparkJobs.vanillaSql(temp), with(conf(settings), SparkJobs::sqlResults));
    assertSame(SparkJobs.vanillaRdd(temp), with(conf(settings), SparkJobs::rddResults));
    assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty(), "mappings are gone after stop");
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }

  @Test
  @Tag("every-line")
  void resultsAreVanillasThroughFiles() throws Exception {
    check();
  }

  @Test
  void resultsAreVanillasThroughFilesThatAreFoundByHttp() throws Exception {
    check("spark.shuffle.ebb.node", node.httpUrl());
  }

  @Test
  void resultsAreVanillasThroughTheConnection() throws Exception {
    check("spark.shuffle.ebb.node", node.httpUrl(), "spark.shuffle.ebb.localFiles", "false");
  }

  @Test
  void aShuffleWithoutPartitionsIsEmpty() throws Exception {
    with(conf(), spark -> {
      var sc = new JavaSparkContext(spark.sparkContext());
      assertEquals(List.of(), sc.<Integer>emptyRDD().mapToPair(i -> new Tuple2<>(i, i)).reduceByKey(Integer::sum).collect());
      assertEquals(List.of(), sc.parallelize(List.<Integer>of(), 3).mapToPair(i -> new Tuple2<>(i, i)).groupByKey(4).collect());
      return null;
    });
  }

  @Test
  void aKilledDaemonBetweenMapAndReduceCostsNoRecomputation() throws Exception {
    with(conf(), spark -> {
      TaskLog log = TaskLog.of(spark);
      var sums = SparkJobs.groupedSums(spark);
      List<String> first = lines(sums.collect());
      node.kill();
      Thread starter = new Thread(() -> {
        try {
          node.start();
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      starter.start();
      assertEquals(first, lines(sums.collect()));
      starter.join();
      assertEquals(List.of(), log.failures());
      assertEquals(8, log.sum("maps"));
      return null;
    });
  }

  @Test
  void idleExecutorsAreReleasedUnderDynamicAllocationAndTheirMapOutputsStay() throws Exception {
    try (SparkCluster cluster = new SparkCluster(temp, 2)) {
      SparkConf conf = cluster.configure(SparkJobs.ebbConf(cluster.url(), temp, node.url())).set("spark.dynamicAllocation.enabled", "true")
          .set("spark.dynamicAllocation.minExecutors", "0").set("spark.dynamicAllocation.initialExecutors", "2")
          .set("spark.dynamicAllocation.executorIdleTimeout", "1s");
      with(conf, spark -> {
        TaskLog log = TaskLog.of(spark);
        var sums = SparkJobs.groupedSums(spark);
        List<String> first = lines(sums.collect());
        for (ProcessHandle executor : SparkCluster.executors()) executor.onExit().get(60, TimeUnit.SECONDS);
        assertEquals(first, lines(sums.collect()));
        assertEquals(8, log.sum("maps"), "no map was computed again");
        assertEquals(0, log.fetchFailures());
        return null;
      });
    }
  }

  @Test
  @Tag("every-line")
  void aKilledExecutorCostsNoMapAndNoStage() throws Exception {
    try (SparkCluster cluster = new SparkCluster(temp, 2)) {
      with(cluster.configure(SparkJobs.ebbConf(cluster.url(), temp, node.url())), spark -> {
        TaskLog log = TaskLog.of(spark);
        var sums = SparkJobs.groupedSums(spark);
        List<String> first = lines(sums.collect());
        List<ProcessHandle> executors = SparkCluster.executors();
        assertEquals(2, executors.size());
        executors.get(0).destroyForcibly();
        assertEquals(first, lines(sums.collect()));
        assertEquals(8, log.sum("maps"), "no map was computed again");
        assertEquals(0, log.fetchFailures());
        return null;
      });
    }
  }
}
