package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import org.apache.spark.deploy.master.Master;
import org.apache.spark.deploy.worker.Worker;
import org.apache.spark.rpc.RpcEnv;
import scala.Option;

/**
 * A standalone cluster in this process, with executors in processes of their own: what `local-cluster` is, but each worker
 * has a loopback address for itself, because Spark never runs two attempts at a task on one host; and no Spark distribution is
 * needed, because executors get the class path of this process.
 */
final class SparkCluster implements AutoCloseable {
  private static final int EXECUTOR_MB = 640;
  /** Between the end of an application and the end of its executors' processes. */
  private static final long EXECUTORS_END_S = 30;
  private static final String TESTING = "spark.testing";
  private static final String TEST_HOME = "spark.test.home";

  private final List<RpcEnv> environments = new ArrayList<>();
  private final Path home;
  private final String url;

  /** `workers` of one core each, everything they write under `base`. */
  SparkCluster(Path base, int workers) throws IOException {
    home = base.resolve("spark-home");
    Files.createDirectories(home.resolve("jars")); // empty: a worker only looks whether it is there
    SparkConf conf = new SparkConf(false).set("spark.master.rest.enabled", "false");
    // A worker takes its Spark home from the environment, which cannot be set here, or, in a test, from these.
    System.setProperty(TESTING, "true");
    System.setProperty(TEST_HOME, home.toString());
    try {
      RpcEnv master = Master.startRpcEnvAndEndpoint("127.0.0.1", 0, 0, conf)._1();
      environments.add(master);
      url = master.address().toSparkURL();
      for (int i = 0; i < workers; i++) {
        environments.add(Worker.startRpcEnvAndEndpoint("127.0.0." + (i + 2), 0, 0, 1, EXECUTOR_MB, new String[] {url},
            base.resolve("work-" + i).toString(), Option.apply(i), conf, Option.empty()));
      }
    } finally {
      System.clearProperty(TESTING);
      System.clearProperty(TEST_HOME);
    }
  }

  String url() {
    return url;
  }

  /** What executors need besides the application's own settings. */
  SparkConf configure(SparkConf conf) {
    String version = scala.util.Properties.versionNumberString();
    return conf.set("spark.executor.memory", EXECUTOR_MB + "m")
        .set("spark.executor.extraClassPath", System.getProperty("java.class.path"))
        .set("spark.executor.extraJavaOptions", "-Djava.io.tmpdir=" + home)
        .set("spark.executorEnv.SPARK_SCALA_VERSION", version.substring(0, version.lastIndexOf('.')));
  }

  /** By their command lines, which are too long for ProcessHandle.Info. */
  static List<ProcessHandle> executors() {
    return ProcessHandle.current().descendants().filter(process -> {
      try {
        return Files.readString(Path.of("/proc/" + process.pid() + "/cmdline")).contains("CoarseGrainedExecutorBackend");
      } catch (IOException e) {
        return false; // ended meanwhile
      }
    }).toList();
  }

  /** Returns when no executor runs any more, so that their directories can be deleted. */
  @Override
  public void close() throws Exception {
    List<ProcessHandle> running = executors();
    for (int i = environments.size() - 1; i >= 0; i--) environments.get(i).shutdown();
    for (RpcEnv environment : environments) environment.awaitTermination();
    for (ProcessHandle executor : running) executor.onExit().get(EXECUTORS_END_S, TimeUnit.SECONDS);
  }
}
