package org.apache.spark.shuffle.ebb;

import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.sql.SparkSession;

/** What Spark reports of the tasks of one application. */
final class TaskLog extends SparkListener {
  private final SparkSession spark;
  private final ConcurrentHashMap<String, Long> sums = new ConcurrentHashMap<>();
  private final ConcurrentLinkedQueue<String> failures = new ConcurrentLinkedQueue<>();

  private TaskLog(SparkSession spark) {
    this.spark = spark;
  }

  static TaskLog of(SparkSession spark) {
    TaskLog log = new TaskLog(spark);
    spark.sparkContext().addSparkListener(log);
    return log;
  }

  @Override
  public void onTaskEnd(SparkListenerTaskEnd end) {
    String reason = end.reason().toString();
    if (!reason.equals("Success")) failures.add(reason);
    else if (end.taskType().equals("ShuffleMapTask")) add("maps", 1);
    if (end.taskInfo().speculative()) add("speculative", 1);
    var task = end.taskMetrics();
    if (task == null) return;
    add("recordsWritten", task.shuffleWriteMetrics().recordsWritten());
    add("bytesWritten", task.shuffleWriteMetrics().bytesWritten());
    add("recordsRead", task.shuffleReadMetrics().recordsRead());
    add("bytesRead", task.shuffleReadMetrics().totalBytesRead());
    add("blocksRead", task.shuffleReadMetrics().totalBlocksFetched());
    add("localBlocksRead", task.shuffleReadMetrics().localBlocksFetched());
    if (!end.taskType().equals("ShuffleMapTask")) return;
    add("memoryBytesSpilled", task.memoryBytesSpilled());
    add("diskBytesSpilled", task.diskBytesSpilled());
  }

  private void add(String what, long more) {
    sums.merge(what, more, Long::sum);
  }

  /** `maps` are those that succeeded, `speculative` the copies that ended, spilled bytes those of map tasks. */
  long sum(String what) throws Exception {
    settle();
    return sums.getOrDefault(what, 0L);
  }

  /** Why tasks ended other than by success. */
  List<String> failures() throws Exception {
    settle();
    return List.copyOf(failures);
  }

  long fetchFailures() throws Exception {
    return failures().stream().filter(reason -> reason.startsWith("FetchFailed")).count();
  }

  private void settle() throws Exception {
    if (!spark.sparkContext().isStopped()) spark.sparkContext().listenerBus().waitUntilEmpty();
  }
}
