package org.apache.spark.shuffle.ebb;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.FakeNode;

/**
 * CPU seconds of `repartition(R)` from M maps, 2,000,000 rows of about 130 bytes, local mode, arms in turn after a warm-up:
 * vanilla as it comes, vanilla with bypassMergeThreshold=1, Ebb. `EBB_NODE` names a node; without it the test's own stands in
 * (its CPU is in the figure; a real daemon's is not).
 *
 * <p>Arguments: rounds, then M x R pairs: `3 200x200 1000x1000`.
 */
public final class GridBench {
  private GridBench() {}

  public static void main(String[] args) throws Exception {
    int rounds = Integer.parseInt(args[0]);
    long rows = Long.getLong("rows", 2_000_000);
    List<String> arms = Arrays.asList(System.getProperty("arms", "vanilla,tuned,ebb").split(","));
    FakeNode fake = System.getenv("EBB_NODE") == null ? FakeNode.start() : null;
    String url = fake == null ? System.getenv("EBB_NODE") : fake.url();
    var os = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    for (int cell = 1; cell < args.length; cell++) {
      int maps = Integer.parseInt(args[cell].split("x")[0]);
      int reducers = Integer.parseInt(args[cell].split("x")[1]);
      double[][] cpu = new double[arms.size()][rounds];
      for (int round = -1; round < rounds; round++) {
        for (int a = 0; a < arms.size(); a++) {
          SparkConf conf = new SparkConf(false).setMaster("local[2]").setAppName("grid").set("spark.ui.enabled", "false")
              .set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1").set("spark.sql.adaptive.enabled", "false")
              .set("spark.local.dir", System.getProperty("local.dir", "/tmp"));
          if (arms.get(a).equals("tuned")) conf.set("spark.shuffle.sort.bypassMergeThreshold", "1");
          if (arms.get(a).startsWith("ebb")) {
            conf.set("spark.shuffle.manager", EbbShuffleManager.class.getName()).set("spark.shuffle.ebb.node", url);
            if (arms.get(a).equals("ebb-remote")) conf.set("spark.shuffle.ebb.localFiles", "false");
          }
          SparkSession spark = SparkSession.builder().config(conf).getOrCreate();
          spark.range(0, 1000, 1, 2).repartition(3).count();
          long[] stage = new long[4];
          spark.sparkContext().addSparkListener(new org.apache.spark.scheduler.SparkListener() {
            @Override
            public void onTaskEnd(org.apache.spark.scheduler.SparkListenerTaskEnd end) {
              boolean map = end.taskMetrics().shuffleWriteMetrics().recordsWritten() > 1;
              stage[map ? 0 : 1] += end.taskMetrics().executorCpuTime() / 1000;
              stage[2] += end.taskMetrics().shuffleWriteMetrics().bytesWritten();
            }
          });
          long before = os.getProcessCpuTime();
          long wall = System.nanoTime();
          // foreach over the rows: a count would drop the columns before the shuffle.
          spark.range(0, rows, 1, maps).selectExpr("id", "id * 31 as a", "id % 1000 as b", "cast(id as string) as s", "repeat(md5(cast(id as string)), 2) as t")
              .repartition(reducers).queryExecution().toRdd().foreachPartition(new Drain());
          double seconds = (os.getProcessCpuTime() - before) / 1e9;
          double wallSeconds = (System.nanoTime() - wall) / 1e9;
          spark.sparkContext().listenerBus().waitUntilEmpty();
          if (round >= 0) cpu[a][round] = seconds;
          System.out.printf("%dx%d round %d %-8s cpu %.2f wall %.2f map-task %.2f reduce-task %.2f written %.1f MB%n", maps, reducers, round, arms.get(a),
              seconds, wallSeconds, stage[0] / 1e6, stage[1] / 1e6, stage[2] / 1e6);
          spark.stop();
          System.gc();
        }
      }
      List<String> out = new ArrayList<>();
      for (int a = 0; a < arms.size(); a++) {
        Arrays.sort(cpu[a]);
        out.add(String.format("%s %.2f", arms.get(a), cpu[a][rounds / 2]));
      }
      System.out.println("== " + args[cell] + " median CPU s: " + out);
    }
    if (fake != null) fake.close();
    System.exit(0);
  }

  static final class Drain extends scala.runtime.AbstractFunction1<scala.collection.Iterator<org.apache.spark.sql.catalyst.InternalRow>, scala.runtime.BoxedUnit>
      implements java.io.Serializable {
    @Override
    public scala.runtime.BoxedUnit apply(scala.collection.Iterator<org.apache.spark.sql.catalyst.InternalRow> rows) {
      long sum = 0;
      while (rows.hasNext()) sum += rows.next().getLong(0);
      if (sum == 42) System.out.println("never");
      return scala.runtime.BoxedUnit.UNIT;
    }
  }
}
