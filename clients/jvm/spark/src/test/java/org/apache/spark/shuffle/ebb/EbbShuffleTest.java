package org.apache.spark.shuffle.ebb;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.FakeNode;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import scala.Tuple2;

/** Whole Spark jobs in local mode against the fake node: right results under every setting, and under faults. */
@Timeout(180)
class EbbShuffleTest {
  @TempDir
  Path temp;
  FakeNode node;

  @BeforeEach
  void startNode() throws Exception {
    node = new FakeNode(Files.createTempDirectory(Path.of("/dev/shm"), "ebbt"));
  }

  @AfterEach
  void stopNode() throws Exception {
    node.close();
  }

  SparkConf conf(String... settings) {
    SparkConf conf = new SparkConf(false).setMaster("local[2,4]").setAppName("ebb test")
        .set("spark.shuffle.manager", EbbShuffleManager.class.getName())
        .set("spark.shuffle.ebb.node", node.url())
        .set("spark.ui.enabled", "false")
        .set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
        .set("spark.sql.shuffle.partitions", "7")
        .set("spark.local.dir", temp.toString())
        .set("spark.sql.autoBroadcastJoinThreshold", "-1")
        .set("spark.sql.warehouse.dir", temp.toString());
    for (int i = 0; i < settings.length; i += 2) conf.set(settings[i], settings[i + 1]);
    return conf;
  }

  interface Work<T> {
    T in(SparkSession spark) throws Exception;
  }

  <T> T with(SparkConf conf, Work<T> work) throws Exception {
    SparkSession spark = SparkSession.builder().config(conf).getOrCreate();
    try {
      return work.in(spark);
    } finally {
      spark.stop();
      SparkSession.clearActiveSession();
      SparkSession.clearDefaultSession();
    }
  }

  static List<String> sorted(Dataset<Row> rows) {
    List<String> all = new ArrayList<>();
    for (Row row : rows.collectAsList()) all.add(row.toString());
    Collections.sort(all);
    return all;
  }

  /** Joins, group-bys, distinct, sort, windows, repartition. */
  static List<String> sqlResults(SparkSession spark) {
    spark.range(0, 20000, 1, 6).selectExpr("id", "id % 97 as k", "concat('name-', id % 1000) as name", "id * 3 as d")
        .createOrReplaceTempView("a");
    spark.range(0, 5000, 1, 3).selectExpr("id as k2", "id % 97 as k", "repeat('x', cast(id % 50 as int)) as pad").createOrReplaceTempView("b");
    List<String> all = new ArrayList<>();
    all.addAll(sorted(spark.sql("select a.k, count(*) c, sum(d) s, max(pad) m from a join b on a.k = b.k group by a.k")));
    all.addAll(sorted(spark.sql("select distinct name from a where id < 5000")));
    all.addAll(sorted(spark.sql("select k, count(distinct name) from a group by k")));
    all.addAll(sorted(spark.sql("select id, row_number() over (partition by k order by id desc) r from a where id < 3000")));
    List<String> order = new ArrayList<>();
    for (Row row : spark.sql("select id, name from a order by name, id desc limit 200").collectAsList()) order.add(row.toString());
    all.addAll(order);
    all.add("" + spark.table("a").repartition(11).selectExpr("sum(hash(id, name, d))", "count(*)").collectAsList());
    all.addAll(sorted(spark.sql("select a.id, b.k2 from a left join b on a.id = b.k2 and b.k2 % 7 = 0 where a.id < 2000")));
    return all;
  }

  static List<String> rddResults(SparkSession spark) {
    JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
    List<Integer> numbers = new ArrayList<>();
    for (int i = 0; i < 30000; i++) numbers.add(i);
    var pairs = sc.parallelize(numbers, 5).mapToPair(i -> new Tuple2<>("key-" + i % 501, (long) i));
    List<String> all = new ArrayList<>();
    all.addAll(lines(pairs.reduceByKey(Long::sum, 9).collect()));
    all.addAll(lines(pairs.groupByKey(6).mapValues(values -> {
      long sum = 0;
      for (long v : values) sum += v;
      return sum;
    }).collect()));
    all.addAll(lines(pairs.aggregateByKey(0L, 4, (a, v) -> a + v, Long::sum).collect()));
    List<String> keys = new ArrayList<>();
    for (var pair : pairs.distinct(5).sortByKey(true, 4).collect()) keys.add(pair._1());
    all.addAll(keys);
    all.addAll(lines(pairs.join(pairs.mapValues(v -> v % 3).distinct(3), 8).mapValues(v -> v._1() * 10 + v._2()).reduceByKey(Long::sum).collect()));
    all.add("" + sc.parallelize(numbers, 3).repartition(13).map(i -> (long) i * i).reduce(Long::sum));
    return all;
  }

  static List<String> lines(List<?> of) {
    List<String> all = new ArrayList<>();
    for (Object o : of) all.add(o.toString());
    Collections.sort(all);
    return all;
  }

  static List<String> vanillaSql;
  static List<String> vanillaRdd;

  /** Names the first difference: whole lists are too long to read. */
  static void assertSame(List<String> expected, List<String> actual) {
    for (int i = 0; i < Math.min(expected.size(), actual.size()); i++) assertEquals(expected.get(i), actual.get(i), "line " + i);
    assertEquals(expected.size(), actual.size());
  }

  void checkSql(SparkConf conf) throws Exception {
    if (vanillaSql == null) vanillaSql = with(conf().remove("spark.shuffle.manager"), EbbShuffleTest::sqlResults);
    assertSame(vanillaSql, with(conf, EbbShuffleTest::sqlResults));
    assertTrue(node.callsByOp.containsKey(32), "map outputs were committed");
    assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty(), "mappings are gone after stop");
    assertEquals(0, node.shuffleCount());
    assertTrue(node.jobs.isEmpty());
  }

  void checkRdd(SparkConf conf) throws Exception {
    if (vanillaRdd == null) vanillaRdd = with(conf().remove("spark.shuffle.manager"), EbbShuffleTest::rddResults);
    assertSame(vanillaRdd, with(conf, EbbShuffleTest::rddResults));
    assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty(), "mappings are gone after stop");
  }

  @ParameterizedTest
  @ValueSource(strings = {"lz4", "zstd", "snappy", "lzf", "none"})
  void sqlGivesVanillasResultsWithEachCodec(String codec) throws Exception {
    checkSql(codec.equals("none") ? conf("spark.shuffle.compress", "false") : conf("spark.io.compression.codec", codec));
  }

  @ParameterizedTest
  @ValueSource(strings = {"lz4", "zstd", "snappy", "none"})
  void rddsGiveVanillasResultsWithEachCodec(String codec) throws Exception {
    checkRdd(codec.equals("none") ? conf("spark.shuffle.compress", "false") : conf("spark.io.compression.codec", codec));
  }

  @Test
  void rddsGiveVanillasResultsWithKryo() throws Exception {
    checkRdd(conf("spark.serializer", "org.apache.spark.serializer.KryoSerializer"));
  }

  @Test
  void resultsAreRightWithEncryption() throws Exception {
    checkSql(conf("spark.io.encryption.enabled", "true"));
    checkRdd(conf("spark.io.encryption.enabled", "true", "spark.serializer", "org.apache.spark.serializer.KryoSerializer"));
  }

  @Test
  void resultsAreRightWithoutAdaptiveExecution() throws Exception {
    checkSql(conf("spark.sql.adaptive.enabled", "false", "spark.sql.shuffle.partitions", "300"));
  }

  @Test
  void resultsAreRightWithSkewSplitsAndLocalReaders() throws Exception {
    checkSql(conf("spark.sql.adaptive.skewJoin.skewedPartitionFactor", "1", "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes", "4k",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes", "8k", "spark.sql.adaptive.coalescePartitions.minPartitionSize", "1k",
        "spark.sql.autoBroadcastJoinThreshold", "-1", "spark.sql.adaptive.autoBroadcastJoinThreshold", "10m"));
  }

  @Test
  void resultsAreRightWhenEverySpillThresholdIsTiny() throws Exception {
    String[] tiny = {"spark.shuffle.spill.numElementsForceSpillThreshold", "500"};
    checkSql(conf(tiny));
    checkRdd(conf(tiny));
    checkSql(conf("spark.shuffle.spill.numElementsForceSpillThreshold", "700", "spark.io.encryption.enabled", "true"));
    checkSql(conf("spark.shuffle.spill.numElementsForceSpillThreshold", "700", "spark.io.compression.codec", "snappy"));
    checkRdd(conf("spark.shuffle.spill.numElementsForceSpillThreshold", "700", "spark.serializer", "org.apache.spark.serializer.KryoSerializer"));
  }

  @Test
  void resultsAreRightWithPositionalReads() throws Exception {
    checkSql(conf("spark.shuffle.ebb.reader.mapping", "false"));
  }

  @Test
  void resultsAreRightWithFewMappings() throws Exception {
    checkSql(conf("spark.shuffle.ebb.reader.maxMappings", "2"));
  }

  @Test
  void resultsAreRightWhenTheDirectoriesCannotBeSeen() throws Exception {
    node.hideDirectories = true;
    checkSql(conf());
    checkRdd(conf());
    assertTrue(node.callsByOp.containsKey(17) && node.callsByOp.containsKey(12), "bytes went through frames");
  }

  @Test
  void resultsAreRightWithSmallBuffersAndLongPartitions() throws Exception {
    checkSql(conf("spark.shuffle.ebb.writer.bufferSize", "256k", "spark.shuffle.ebb.chunkSize", "4k", "spark.sql.shuffle.partitions", "1",
        "spark.shuffle.compress", "false"));
    checkLong(conf("spark.shuffle.ebb.writer.bufferSize", "256k", "spark.shuffle.compress", "false"));
    checkLong(conf("spark.shuffle.ebb.writer.bufferSize", "256k"));
  }

  /** Rows longer than a chunk, partitions longer than a run, outputs longer than the buffer. */
  void checkLong(SparkConf conf) throws Exception {
    Work<List<String>> work = spark -> sorted(spark.range(0, 60, 1, 3)
        .selectExpr("id", "id % 2 as k", "array_join(transform(sequence(0, 20000), x -> cast(hash(x, id) as string)), '') as long")
        .repartition(2, org.apache.spark.sql.functions.col("k")).selectExpr("id", "md5(long)", "length(long)"));
    List<String> expected = with(conf().remove("spark.shuffle.manager"), work);
    assertEquals(60, expected.size());
    node.refuseExtends = 2;
    assertEquals(expected, with(conf, work));
    node.refuseExtends = 0;
  }

  @Test
  void aCorruptByteRecomputesOnlyThatMap() throws Exception {
    with(conf("spark.sql.adaptive.enabled", "false"), spark -> {
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      var computed = sc.sc().longAccumulator();
      List<Integer> numbers = new ArrayList<>();
      for (int i = 0; i < 10000; i++) numbers.add(i);
      var grouped = sc.parallelize(numbers, 8).mapPartitionsToPair(it -> {
        computed.add(1);
        List<Tuple2<Integer, Integer>> out = new ArrayList<>();
        it.forEachRemaining(i -> out.add(new Tuple2<>(i % 100, i)));
        return out.iterator();
      }).groupByKey(4).mapValues(values -> {
        long sum = 0;
        for (int v : values) sum += v;
        return sum;
      });
      List<String> first = lines(grouped.collect());
      assertEquals(8, computed.value());
      for (var row : node.rows()) if (row.mapIndex() == 3) node.corrupt(row, row.location().length() / 3);
      assertEquals(first, lines(grouped.collect()));
      assertEquals(9, computed.value(), "one map was computed again");
      for (var row : node.rows()) if (row.mapIndex() == 5) node.drop(row);
      SparkEnv.get().shuffleManager().stop(); // forget what is mapped here
      assertEquals(first, lines(grouped.collect()));
      assertEquals(10, computed.value(), "one map was computed again");
      return null;
    });
  }

  @Test
  void revokedBlobsAreGivenBackAndReadFromTheirNewPlace() throws Exception {
    with(conf(), spark -> {
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      List<Integer> numbers = new ArrayList<>();
      for (int i = 0; i < 10000; i++) numbers.add(i);
      var pairs = sc.parallelize(numbers, 8).mapToPair(i -> new Tuple2<>(i % 100, i)).groupByKey(4).mapValues(v -> v.iterator().next() % 100);
      List<String> first = lines(pairs.collect());
      var old = node.spillAll();
      for (int i = 0; i < 200 && !node.released.containsAll(old); i++) Thread.sleep(10);
      assertTrue(node.released.containsAll(old), "all blobs were given back");
      assertTrue(OpenOutput.mappingsUnder(node.memoryDir()).isEmpty());
      assertEquals(first, lines(pairs.collect()));
      return null;
    });
  }

  @Test
  void aRestartedNodeBetweenMapAndReduceCostsNothing() throws Exception {
    with(conf(), spark -> {
      JavaSparkContext sc = new JavaSparkContext(spark.sparkContext());
      var computed = sc.sc().longAccumulator();
      List<Integer> numbers = new ArrayList<>();
      for (int i = 0; i < 10000; i++) numbers.add(i);
      var pairs = sc.parallelize(numbers, 8).mapToPair(i -> {
        computed.add(1);
        return new Tuple2<>(i % 100, i);
      }).groupByKey(4).mapValues(v -> v.iterator().next() % 100);
      List<String> first = lines(pairs.collect());
      node.stop();
      Thread starter = new Thread(() -> {
        try {
          Thread.sleep(700);
          node.start();
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      starter.start();
      assertEquals(first, lines(pairs.collect()));
      starter.join();
      node.loseNextCommitAnswer = true;
      assertEquals(first, lines(pairs.repartition(3).collect()));
      assertEquals(10000, computed.value());
      return null;
    });
  }

  @Test
  void anAttemptThatLostReportsTheWinnersOutput() throws Exception {
    node.rivals = true;
    checkSql(conf());
    checkRdd(conf());
  }

  @Test
  void aFullNodeIsWaitedFor() throws Exception {
    node.refuseStages = 5;
    checkSql(conf());
    assertEquals(0, node.refuseStages);
    node.refusal = "busy";
    node.refuseStages = 5;
    checkRdd(conf());
  }

  @Test
  void aNodeThatStaysFullFailsTheJobWithAClearMessage() throws Exception {
    with(conf("spark.shuffle.ebb.writer.fullTimeout", "200ms"), spark -> {
      node.refuseStages = 1_000_000;
      try {
        spark.range(100).repartition(3).count();
      } catch (Exception e) {
        assertTrue(e.toString().contains("had no room"), e.toString());
        return null;
      }
      throw new AssertionError("the job succeeded");
    });
  }

  @Test
  void withoutANodeTheErrorSaysWhatToDo() throws Exception {
    node.close();
    SparkConf conf = conf("spark.shuffle.ebb.connect.timeout", "500ms");
    try {
      with(conf, spark -> null);
    } catch (IllegalStateException e) {
      assertTrue(e.getMessage().contains(node.url()) && e.getMessage().contains("spark.shuffle.ebb.fallback"), e.getMessage());
      return;
    }
    throw new AssertionError("the application started");
  }

  @Test
  void withoutANodeFallbackUsesSparksOwnShuffle() throws Exception {
    node.close();
    SparkConf conf = conf("spark.shuffle.ebb.fallback", "true", "spark.shuffle.ebb.connect.timeout", "500ms");
    if (vanillaSql == null) vanillaSql = with(conf().remove("spark.shuffle.manager"), EbbShuffleTest::sqlResults);
    assertEquals(vanillaSql, with(conf, spark -> {
      assertFalse(spark.sparkContext().shuffleDriverComponents().supportsReliableStorage());
      return sqlResults(spark);
    }));
  }

  @Test
  void metricsAreSparksOwn() throws Exception {
    Work<Map<String, Long>> work = spark -> {
      var totals = new java.util.concurrent.ConcurrentHashMap<String, Long>();
      spark.sparkContext().addSparkListener(new org.apache.spark.scheduler.SparkListener() {
        @Override
        public void onTaskEnd(org.apache.spark.scheduler.SparkListenerTaskEnd end) {
          var m = end.taskMetrics();
          totals.merge("recordsWritten", m.shuffleWriteMetrics().recordsWritten(), Long::sum);
          totals.merge("recordsRead", m.shuffleReadMetrics().recordsRead(), Long::sum);
          totals.merge("written", m.shuffleWriteMetrics().bytesWritten(), Long::sum);
          totals.merge("read", m.shuffleReadMetrics().totalBytesRead(), Long::sum);
          totals.merge("blocks", m.shuffleReadMetrics().totalBlocksFetched(), Long::sum);
        }
      });
      spark.range(0, 10000, 1, 4).repartition(5).selectExpr("sum(id)").collectAsList();
      spark.sparkContext().listenerBus().waitUntilEmpty();
      return totals;
    };
    Map<String, Long> vanilla = with(conf("spark.sql.adaptive.enabled", "false").remove("spark.shuffle.manager"), work);
    Map<String, Long> ebb = with(conf("spark.sql.adaptive.enabled", "false"), work);
    for (String same : List.of("recordsWritten", "recordsRead", "blocks")) assertEquals(vanilla.get(same), ebb.get(same), same);
    assertEquals(ebb.get("written"), ebb.get("read"));
  }
}
