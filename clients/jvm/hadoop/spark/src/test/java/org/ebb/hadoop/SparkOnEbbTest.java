package org.ebb.hadoop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SaveMode;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.Trigger;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;

/**
 * Input, output, event logs and checkpoints of real Spark jobs on ebb://, with Spark's default committer; and the shuffle on the
 * same node where the plugin is on the class path too.
 */
@Timeout(240)
class SparkOnEbbTest {
  private static final int ROWS = 20_000;
  @TempDir
  static java.nio.file.Path temp;
  @RegisterExtension
  static final RealNodeExtension NODE = new RealNodeExtension("256MiB");
  static SparkSession spark;
  static int roots;
  String root;
  FileSystem fs;

  @BeforeAll
  static void start() throws Exception {
    for (String bucket : List.of("spark", "logs")) assertEquals(201, NODE.node().http("PUT", "/v1/buckets/" + bucket).statusCode());
    spark = session("ebb://logs/");
  }

  private static SparkSession session(String logs) {
    SparkSession.Builder builder = SparkSession.builder();
    if (SparkOnEbbTest.class.getResource("/org/apache/spark/shuffle/ebb/EbbShuffleManager.class") != null) {
      builder.config("spark.shuffle.manager", "org.apache.spark.shuffle.ebb.EbbShuffleManager").config("spark.shuffle.ebb.node", NODE.node().url());
    }
    return builder.master("local[2,2]").appName("on ebb").config("spark.ui.enabled", false)
        .config("spark.sql.shuffle.partitions", 2).config("spark.sql.warehouse.dir", temp.resolve("warehouse").toString())
        .config("spark.local.dir", temp.resolve("local").toString()).config("spark.driver.host", "127.0.0.1")
        .config("spark.eventLog.enabled", true).config("spark.eventLog.dir", logs)
        .config("spark.hadoop.fs.ebb.url", NODE.node().url()).config("spark.hadoop.fs.AbstractFileSystem.ebb.impl", "org.ebb.hadoop.EbbFs").getOrCreate();
  }

  @AfterAll
  static void stop() {
    if (spark != null) spark.stop();
  }

  @BeforeEach
  void root() throws Exception {
    root = "ebb://spark/" + ++roots;
    fs = new Path(root).getFileSystem(spark.sparkContext().hadoopConfiguration());
  }

  Dataset<Row> rows() {
    return spark.range(0, ROWS, 1, 4).selectExpr("id", "id % 7 as part", "concat('row ', id) as text");
  }

  static List<String> sorted(Dataset<Row> rows) {
    return rows.selectExpr("concat_ws('|', id, part, text) as line").as(Encoders.STRING()).collectAsList().stream().sorted().toList();
  }

  List<String> files(String under) throws IOException {
    List<String> files = new ArrayList<>();
    for (RemoteIterator<LocatedFileStatus> each = fs.listFiles(new Path(under), true); each.hasNext(); ) {
      files.add(each.next().getPath().toString().substring(under.length()));
    }
    return files;
  }

  @Test
  @Tag("every-line")
  void whatSparkWritesItReadsAgain() throws Exception {
    List<String> wanted = sorted(rows());
    for (String format : List.of("parquet", "json")) {
      String at = root + "/" + format;
      rows().write().format(format).partitionBy("part").save(at);
      assertEquals(wanted, sorted(spark.read().format(format).schema("id long, text string, part long").load(at)), format);
      List<String> files = files(at);
      assertTrue(files.remove("/_SUCCESS"), format);
      assertTrue(files.stream().allMatch(file -> file.matches("/part=\\d/part-.*")), files::toString);
      rows().limit(10).write().format(format).mode(SaveMode.Overwrite).save(at);
      assertEquals(10, spark.read().format(format).schema("id long, part long, text string").load(at).count(), format);
    }
    rows().select("text").write().text(root + "/text");
    assertEquals(ROWS, spark.sparkContext().textFile(root + "/text", 4).toJavaRDD().distinct().count());
  }

  @Test
  void ofAttemptsThatFailNothingIsSeen() throws Exception {
    rows().map((MapFunction<Row, String>) row -> {
      // The first attempt at each task ends amid its file.
      if (TaskContext.get().attemptNumber() == 0 && row.getLong(0) % 5000 == 4000) throw new IllegalStateException("meant to fail");
      return row.getString(2);
    }, Encoders.STRING()).write().text(root + "/retried");
    assertEquals(ROWS, spark.read().text(root + "/retried").distinct().count());
    assertEquals(ROWS, spark.read().text(root + "/retried").count());

    assertThrows(Exception.class, () -> rows().map((MapFunction<Row, String>) row -> {
      if (row.getLong(0) == ROWS - 1) throw new IllegalStateException("meant to fail");
      return row.getString(2);
    }, Encoders.STRING()).write().text(root + "/failed"));
    assertEquals(List.of(), fs.exists(new Path(root + "/failed")) ? files(root + "/failed") : List.of());
  }

  @Test
  void aStreamGoesOnFromItsCheckpoint() throws Exception {
    for (int round = 0; round < 3; round++) {
      try (FSDataOutputStream out = fs.create(new Path(root + "/in/file-" + round))) {
        out.write(("a " + round + "\nb " + round + "\n").getBytes(StandardCharsets.UTF_8));
      }
      spark.readStream().text(root + "/in").writeStream().format("parquet").option("checkpointLocation", root + "/checkpoint")
          .trigger(Trigger.AvailableNow()).start(root + "/out").awaitTermination();
      assertEquals(2 * (round + 1), spark.read().parquet(root + "/out").distinct().count());
      assertEquals(2 * (round + 1), spark.read().parquet(root + "/out").count());
    }
    List<String> offsets = Stream.of(fs.listStatus(new Path(root + "/checkpoint/offsets"))).map(status -> status.getPath().getName()).toList();
    assertEquals(List.of("0", "1", "2"), offsets);
  }

  @Test
  @Tag("every-line")
  void theEventLogIsWholeWhenTheApplicationHasEnded() throws Exception {
    spark.range(10).count();
    String id = spark.sparkContext().applicationId();
    FileSystem logs = new Path("ebb://logs/").getFileSystem(spark.sparkContext().hadoopConfiguration());
    assertEquals(0, visible(logs, id).size(), "it is seen at its end, and not before");
    spark.stop();
    spark = session("ebb://logs/");
    List<FileStatus> found = visible(logs, id);
    assertEquals(1, found.size(), found::toString);
    // Spark 4 writes rolling logs: a directory with files.
    StringBuilder log = new StringBuilder();
    for (RemoteIterator<LocatedFileStatus> each = logs.listFiles(found.get(0).getPath(), true); each.hasNext(); ) {
      LocatedFileStatus file = each.next();
      if (file.getLen() == 0) continue;
      assertFalse(file.getPath().getName().endsWith(".inprogress"), file::toString);
      try (FSDataInputStream in = logs.open(file.getPath())) {
        log.append(new String(in.readAllBytes(), StandardCharsets.ISO_8859_1));
      }
    }
    assertTrue(log.length() > 0);
    if (!found.get(0).isDirectory()) assertTrue(log.toString().contains("SparkListenerApplicationEnd"), log::toString);
  }

  /** Logs of the application that have bytes. */
  private static List<FileStatus> visible(FileSystem logs, String id) throws IOException {
    List<FileStatus> found = new ArrayList<>();
    for (FileStatus status : logs.listStatus(new Path("/"))) {
      if (!status.getPath().getName().contains(id)) continue;
      boolean hasBytes = false;
      for (RemoteIterator<LocatedFileStatus> each = logs.listFiles(status.getPath(), true); each.hasNext(); ) hasBytes |= each.next().getLen() > 0;
      if (hasBytes) found.add(status);
    }
    return found;
  }
}
