package org.apache.spark.shuffle.ebb;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaRDDLike;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.util.Utils$;
import scala.Tuple2;

/** What tests of whole Spark jobs share: settings, sessions, the jobs themselves, and comparison with vanilla Spark. */
final class SparkJobs {
  private SparkJobs() {}

  static final String LOCAL = "local[2,4]";

  interface Work<T> {
    T in(SparkSession spark) throws Exception;
  }

  /** Vanilla Spark, everything it writes under `temp`. `settings` are names and values in turn. */
  static SparkConf vanillaConf(String master, Path temp, String... settings) {
    SparkConf conf = new SparkConf(false).setMaster(master).setAppName("ebb test")
        .set("spark.ui.enabled", "false")
        .set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
        .set("spark.sql.shuffle.partitions", "7")
        .set("spark.sql.autoBroadcastJoinThreshold", "-1")
        .set("spark.local.dir", temp.toString())
        .set("spark.sql.warehouse.dir", temp.toString());
    return set(conf, settings);
  }

  /** The same through the Ebb node at `url`. */
  static SparkConf ebbConf(String master, Path temp, String url, String... settings) {
    SparkConf conf = vanillaConf(master, temp).set("spark.shuffle.manager", EbbShuffleManager.class.getName()).set("spark.shuffle.ebb.node", url);
    return set(conf, settings);
  }

  private static SparkConf set(SparkConf conf, String... settings) {
    for (int i = 0; i < settings.length; i += 2) conf.set(settings[i], settings[i + 1]);
    return conf;
  }

  static <T> T with(SparkConf conf, Work<T> work) throws Exception {
    try {
      SparkSession spark = SparkSession.builder().config(conf).getOrCreate();
      try {
        return work.in(spark);
      } finally {
        spark.stop();
        SparkSession.clearActiveSession();
        SparkSession.clearDefaultSession();
      }
    } finally {
      Utils$.MODULE$.clearLocalRootDirs(); // or the next session would use this one's, and make them again
    }
  }

  private static List<String> vanillaSql;
  private static List<String> vanillaRdd;

  /** What vanilla Spark makes of {@link #sqlResults}; asked once. */
  static synchronized List<String> vanillaSql(Path temp) throws Exception {
    if (vanillaSql == null) vanillaSql = with(vanillaConf(LOCAL, temp), SparkJobs::sqlResults);
    return vanillaSql;
  }

  static synchronized List<String> vanillaRdd(Path temp) throws Exception {
    if (vanillaRdd == null) vanillaRdd = with(vanillaConf(LOCAL, temp), SparkJobs::rddResults);
    return vanillaRdd;
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
    var pairs = sc.parallelize(numbers(30000), 5).mapToPair(i -> new Tuple2<>("key-" + i % 501, (long) i));
    List<String> all = new ArrayList<>();
    all.addAll(lines(pairs.reduceByKey(Long::sum, 9).collect()));
    all.addAll(lines(pairs.groupByKey(6).mapValues(SparkJobs::sum).collect()));
    all.addAll(lines(pairs.aggregateByKey(0L, 4, (a, v) -> a + v, Long::sum).collect()));
    List<String> keys = new ArrayList<>();
    for (var pair : pairs.distinct(5).sortByKey(true, 4).collect()) keys.add(pair._1());
    all.addAll(keys);
    all.addAll(lines(pairs.join(pairs.mapValues(v -> v % 3).distinct(3), 8).mapValues(v -> v._1() * 10 + v._2()).reduceByKey(Long::sum).collect()));
    all.add("" + sc.parallelize(numbers(30000), 3).repartition(13).map(i -> (long) i * i).reduce(Long::sum));
    return all;
  }

  /** The sums of 20,000 numbers in 100 groups: 8 maps, 6 reduce tasks, no map-side combine. Collect it again and again. */
  static JavaPairRDD<Integer, Long> groupedSums(SparkSession spark) {
    return groupedSums(spark, 8);
  }

  static JavaPairRDD<Integer, Long> groupedSums(SparkSession spark, int maps) {
    return new JavaSparkContext(spark.sparkContext()).parallelize(numbers(20000), maps).mapToPair(i -> new Tuple2<>(i % 100, (long) i)).groupByKey(6)
        .mapValues(SparkJobs::sum);
  }

  static List<Integer> numbers(int count) {
    List<Integer> numbers = new ArrayList<>();
    for (int i = 0; i < count; i++) numbers.add(i);
    return numbers;
  }

  static long sum(Iterable<Long> values) {
    long sum = 0;
    for (long v : values) sum += v;
    return sum;
  }

  static List<String> sorted(Dataset<Row> rows) {
    return lines(rows.collectAsList());
  }

  static List<String> lines(List<?> of) {
    List<String> all = new ArrayList<>();
    for (Object o : of) all.add(o.toString());
    Collections.sort(all);
    return all;
  }

  /** Names the first difference: whole lists are too long to read. */
  static void assertSame(List<String> expected, List<String> actual) {
    for (int i = 0; i < Math.min(expected.size(), actual.size()); i++) assertEquals(expected.get(i), actual.get(i), "line " + i);
    assertEquals(expected.size(), actual.size());
  }

  /** The last shuffle before `rdd`. */
  static ShuffleDependency<?, ?, ?> shuffleOf(JavaRDDLike<?, ?> rdd) {
    RDD<?> at = rdd.rdd();
    while (!(at.dependencies().head() instanceof ShuffleDependency<?, ?, ?>)) at = at.dependencies().head().rdd();
    return (ShuffleDependency<?, ?, ?>) at.dependencies().head();
  }

  /** Runs the map tasks of a shuffle and nothing else, as adaptive execution does. */
  static void runMaps(SparkSession spark, ShuffleDependency<?, ?, ?> shuffle) throws Exception {
    spark.sparkContext().submitMapStage(shuffle).get();
  }
}
