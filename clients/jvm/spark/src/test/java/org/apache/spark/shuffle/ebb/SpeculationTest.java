package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.ObjectOutputStream;
import java.io.Serializable;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.spark.SparkConf;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.util.TaskCompletionListener;
import org.ebb.client.Messages;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;
import scala.Tuple2;

/** Two attempts at one map on two executors, against the real node: one that is killed leaves nothing, and of two that commit Spark reads one. */
@Timeout(180)
class SpeculationTest {
  private static final int MAPS = 6;
  private static final int SLOW_MAP = 2;
  @RegisterExtension
  final RealNodeExtension own = new RealNodeExtension("64MiB");
  @TempDir
  Path temp;

  /** A second attempt is begun as soon as any other task is done. */
  SparkConf eager(SparkConf conf) {
    return conf.set("spark.speculation", "true").set("spark.speculation.interval", "20ms").set("spark.speculation.quantile", "0.1")
        .set("spark.speculation.multiplier", "1.01").set("spark.speculation.minTaskRuntime", "1ms");
  }

  /** How the two attempts at the slow map meet. */
  enum Meeting {
    NONE,
    /** The first stands still while it writes its last partition, until it is killed. */
    KILLED,
    /** The first commits while the second runs; then the second commits; only then do both report. */
    BOTH_COMMIT
  }

  /** Signs are files, for attempts in two processes. */
  record Signs(String dir) implements Serializable {
    void give(String sign) {
      try {
        Files.writeString(Path.of(dir, sign), sign);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }

    void await(String sign) {
      try {
        while (!Files.exists(Path.of(dir, sign))) Thread.sleep(1);
      } catch (InterruptedException e) {
        throw new IllegalStateException(e);
      }
    }
  }

  /** Java's serialization, and with it the sorted writer, comes to these one by one, when it writes. */
  static final class Value implements Serializable {
    private static final long serialVersionUID = 1;
    final long n;
    final transient Signs stop;

    Value(long n, Signs stop) {
      this.n = n;
      this.stop = stop;
    }

    private void writeObject(ObjectOutputStream out) throws IOException {
      out.defaultWriteObject();
      if (stop != null) stop.await("never");
    }
  }

  /** The records of one map, and the meeting. */
  static final class Attempt implements Iterator<Tuple2<Integer, Value>> {
    private static final int KEYS = 100;
    private final TaskContext task = TaskContext.get();
    private final Iterator<Integer> numbers;
    private final Meeting meeting;
    private final Signs signs;
    private final boolean isSlow;
    private boolean met;

    Attempt(Iterator<Integer> numbers, Meeting meeting, Signs signs) {
      this.numbers = numbers;
      this.meeting = meeting;
      this.signs = signs;
      this.isSlow = task.partitionId() == SLOW_MAP;
    }

    @Override
    public boolean hasNext() {
      if (numbers.hasNext()) return true;
      if (isSlow && meeting == Meeting.BOTH_COMMIT && !met) meet();
      met = true;
      return false;
    }

    @Override
    public Tuple2<Integer, Value> next() {
      int n = numbers.next();
      int key = n % KEYS;
      boolean stops = isSlow && meeting == Meeting.KILLED && task.attemptNumber() == 0 && key == KEYS - 1; // in the last partition
      return new Tuple2<>(key, new Value(n, stops ? signs : null));
    }

    private void meet() {
      boolean first = task.attemptNumber() == 0;
      // Completion listeners run after the commit, and before Spark hears of it.
      task.addTaskCompletionListener((TaskCompletionListener) ended -> {
        signs.give(first ? "first committed" : "second committed");
        if (first) signs.await("second committed");
      });
      if (!first) signs.give("second began");
      signs.await(first ? "second began" : "first committed");
    }
  }

  static JavaPairRDD<Integer, Long> sums(SparkSession spark, Meeting meeting, Path dir) {
    Signs signs = new Signs(dir.toString());
    return new JavaSparkContext(spark.sparkContext()).parallelize(SparkJobs.numbers(120_000), MAPS)
        .mapPartitionsToPair(numbers -> new Attempt(numbers, meeting, signs)).groupByKey(5).mapValues(values -> {
          long sum = 0;
          for (Value value : values) sum += value.n;
          return sum;
        });
  }

  /** `calls` are what the node must have been asked for, all in all. */
  void speculate(Meeting meeting, Map<String, Integer> calls) throws Exception {
    List<String> vanilla = with(SparkJobs.vanillaConf(SparkJobs.LOCAL, temp), spark -> lines(sums(spark, Meeting.NONE, temp).collect()));
    try (SparkCluster cluster = new SparkCluster(temp, 2)) {
      // So small a buffer that a map stages long before its end.
      SparkConf conf = SparkJobs.ebbConf(cluster.url(), temp, own.node().url(), "spark.shuffle.ebb.writer.bufferSize", "256k", "spark.shuffle.compress", "false");
      with(eager(cluster.configure(conf)), spark -> {
        TaskLog log = TaskLog.of(spark);
        var sums = sums(spark, meeting, temp);
        assertEquals(vanilla, lines(sums.collect()));
        assertTrue(log.sum("speculative") > 0, "a second attempt was made");
        assertEquals(0, log.fetchFailures());
        for (var call : calls.entrySet()) assertEquals(call.getValue(), (int) own.node().metric("ebb_frames_total{op=\"" + call.getKey() + "\"}"), call.getKey());
        assertEquals(calls.get("mapCommit"), assertOutputsForAllMaps(SparkJobs.shuffleOf(sums).shuffleId()), "what committed stands");
        return null;
      });
    }
    assertEquals(RealNode.NOTHING_HELD, own.node().awaitNothingHeld());
  }

  /** Returns how many outputs there are. */
  static int assertOutputsForAllMaps(int shuffleId) throws Exception {
    EbbRuntime runtime = EbbRuntime.ofDriver();
    List<Messages.MapOutputRow> rows = runtime.node.session().shuffleTable(runtime.node.jobId(), shuffleId, 0).rows();
    Set<Integer> maps = new HashSet<>();
    for (Messages.MapOutputRow row : rows) maps.add(row.mapIndex());
    assertEquals(MAPS, maps.size());
    return rows.size();
  }

  @Test
  void anAttemptThatIsKilledAmidItsWriteLeavesNothing() throws Exception {
    speculate(Meeting.KILLED, Map.of("mapStage", MAPS + 1, "abort", 1, "mapCommit", MAPS));
  }

  @Test
  @Tag("every-line")
  void ofTwoAttemptsThatCommitSparkReadsTheOneItNames() throws Exception {
    speculate(Meeting.BOTH_COMMIT, Map.of("mapStage", MAPS + 1, "mapCommit", MAPS + 1));
  }
}
