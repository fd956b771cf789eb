package org.apache.spark.shuffle.ebb;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.Serializable;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.RealNode;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import scala.Tuple2;

/** The same jobs against the real daemon, in local mode and with real executors; a killed executor, a killed daemon. */
@Timeout(240)
class RealNodeTest {
  static RealNode node;
  @TempDir
  Path temp;

  @BeforeAll
  static void start() throws Exception {
    assumeTrue(RealNode.repository() != null, "no daemon to run in this checkout");
    node = RealNode.start("256MiB");
  }

  @AfterAll
  static void stop() throws Exception {
    if (node != null) node.close();
  }

  SparkConf conf(String master, String... settings) {
    SparkConf conf = new SparkConf(false).setMaster(master).setAppName("ebb real node test").set("spark.ui.enabled", "false")
        .set("spark.shuffle.manager", EbbShuffleManager.class.getName())
        .set("spark.shuffle.sort.io.plugin.class", EbbShuffleDataIO.class.getName())
        .set("spark.shuffle.ebb.node", node.url())
        .set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
        .set("spark.sql.shuffle.partitions", "7").set("spark.sql.autoBroadcastJoinThreshold", "-1")
        .set("spark.local.dir", temp.toString()).set("spark.sql.warehouse.dir", temp.toString());
    for (int i = 0; i < settings.length; i += 2) conf.set(settings[i], settings[i + 1]);
    return conf;
  }

  static <T> T with(SparkConf conf, EbbShuffleTest.Work<T> work) throws Exception {
    SparkSession spark = SparkSession.builder().config(conf).getOrCreate();
    try {
      return work.in(spark);
    } finally {
      spark.stop();
      SparkSession.clearActiveSession();
      SparkSession.clearDefaultSession();
    }
  }

  @Test
  void resultsAreVanillas() throws Exception {
    List<String> sql = with(conf("local[2]").remove("spark.shuffle.manager").remove("spark.shuffle.sort.io.plugin.class"), EbbShuffleTest::sqlResults);
    List<String> rdd = with(conf("local[2]").remove("spark.shuffle.manager").remove("spark.shuffle.sort.io.plugin.class"), EbbShuffleTest::rddResults);
    for (String[] settings : new String[][] {
        {}, {"spark.shuffle.ebb.node", node.httpUrl()}, {"spark.shuffle.ebb.node", node.httpUrl(), "spark.shuffle.ebb.localFiles", "false"}}) {
      EbbShuffleTest.assertSame(sql, with(conf("local[2]", settings), EbbShuffleTest::sqlResults));
      EbbShuffleTest.assertSame(rdd, with(conf("local[2]", settings), EbbShuffleTest::rddResults));
      assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty(), "mappings are gone after stop");
    }
  }

  @Test
  void aKilledDaemonBetweenMapAndReduceCostsNoRecomputation() throws Exception {
    with(conf("local[2]"), spark -> {
      Counted job = new Counted(spark);
      List<String> first = job.reduce();
      node.kill();
      Thread starter = new Thread(() -> {
        try {
          node.start();
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      starter.start();
      assertEquals(first, job.reduce());
      starter.join();
      assertEquals(0, job.failures.get());
      assertEquals(8, job.mapTasks.get());
      return null;
    });
  }

  @Test
  void aKilledExecutorCostsNoMapAndNoStage() throws Exception {
    String home = sparkHome();
    assumeTrue(home != null, "no Spark distribution: set SPARK_HOME");
    assumeTrue(System.getProperty("java.class.path").contains("spark-core_2.12-3.5.9"), "the distribution is 3.5.9 with Scala 2.12");
    String classes = Path.of("target/classes").toAbsolutePath() + ":" + Path.of("target/test-classes").toAbsolutePath();
    SparkConf conf = conf("local-cluster[2,1,1024]", "spark.executor.memory", "1g", "spark.executorEnv.SPARK_SCALA_VERSION", "2.12", "spark.driver.extraClassPath", classes,
        "spark.executor.extraClassPath", classes);
    // Workers in this process take the distribution from SPARK_HOME, or, in a test, from here.
    System.setProperty("spark.testing", "true");
    System.setProperty("spark.test.home", home);
    try {
      killAnExecutor(conf);
    } finally {
      System.clearProperty("spark.testing");
      System.clearProperty("spark.test.home");
    }
  }

  void killAnExecutor(SparkConf conf) throws Exception {
    with(conf, spark -> {
      Counted job = new Counted(spark);
      List<String> first = job.reduce();
      List<ProcessHandle> executors = executors();
      assertEquals(2, executors.size());
      executors.get(0).destroyForcibly();
      List<String> second = job.reduce();
      spark.sparkContext().listenerBus().waitUntilEmpty();
      assertEquals(first, second);
      assertEquals(8, job.mapTasks.get(), "no map was computed again");
      assertEquals(0, job.fetchFailures.get());
      return null;
    });
  }

  /** By their command lines, which are too long for ProcessHandle.Info. */
  static List<ProcessHandle> executors() {
    return ProcessHandle.current().descendants().filter(p -> {
      try {
        return Files.readString(Path.of("/proc/" + p.pid() + "/cmdline")).contains("CoarseGrainedExecutorBackend");
      } catch (java.io.IOException e) {
        return false;
      }
    }).toList();
  }

  static String sparkHome() throws Exception {
    if (System.getenv("SPARK_HOME") != null) return System.getenv("SPARK_HOME");
    Path at = Path.of("").toAbsolutePath();
    while (at != null && !Files.isDirectory(at.resolve(".ebb/venv/lib"))) at = at.getParent();
    if (at == null) return null;
    Path lib = at.resolve(".ebb/venv/lib");
    try (Stream<Path> found = Files.find(lib, 3, (p, a) -> p.endsWith("site-packages/pyspark"))) {
      return found.findFirst().map(Path::toString).orElse(null);
    }
  }

  /** A shuffle whose map tasks are counted by a listener; `reduce` may run again and again. */
  static final class Counted implements Serializable {
    final transient AtomicInteger mapTasks = new AtomicInteger();
    final transient AtomicInteger failures = new AtomicInteger();
    final transient AtomicInteger fetchFailures = new AtomicInteger();
    final transient org.apache.spark.api.java.JavaPairRDD<Integer, Long> sums;
    final transient SparkSession spark;

    Counted(SparkSession spark) {
      this.spark = spark;
      spark.sparkContext().addSparkListener(new SparkListener() {
        @Override
        public void onTaskEnd(SparkListenerTaskEnd end) {
          if (end.taskType().equals("ShuffleMapTask") && end.reason().toString().equals("Success")) mapTasks.incrementAndGet();
          if (!end.reason().toString().equals("Success")) failures.incrementAndGet();
          if (end.reason().toString().startsWith("FetchFailed")) fetchFailures.incrementAndGet();
        }
      });
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      List<Integer> numbers = new ArrayList<>();
      for (int i = 0; i < 20000; i++) numbers.add(i);
      sums = sc.parallelize(numbers, 8).mapToPair(i -> new Tuple2<>(i % 100, (long) i)).groupByKey(6).mapValues(values -> {
        long sum = 0;
        for (long v : values) sum += v;
        return sum;
      });
    }

    List<String> reduce() throws Exception {
      List<String> lines = EbbShuffleTest.lines(sums.collect());
      spark.sparkContext().listenerBus().waitUntilEmpty();
      return lines;
    }
  }
}
