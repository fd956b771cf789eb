package org.apache.spark.shuffle.ebb;

import static org.apache.spark.shuffle.ebb.SparkJobs.lines;
import static org.apache.spark.shuffle.ebb.SparkJobs.with;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.BufferedReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;
import scala.Tuple2;

/** Drivers that have one application id, as attempts of a YARN application have, and applications of masters that start together. */
@Timeout(120)
class DriverLivesTest {
  @RegisterExtension
  static final RealNodeExtension NODE = new RealNodeExtension("64MiB");
  @TempDir
  Path temp;
  final RealNode node = NODE.node();

  static SparkConf conf(String temp, String url) {
    return SparkJobs.ebbConf(FixedIdMaster.URL, Path.of(temp), url, "spark.shuffle.ebb.job.heartbeatTtl", "1s");
  }

  /** Jobs of equal shape for every `factor`, with other values. */
  static JavaPairRDD<Integer, Long> sums(SparkSession spark, long factor) {
    return new JavaSparkContext(spark.sparkContext()).parallelize(SparkJobs.numbers(20_000), 8).mapToPair(i -> new Tuple2<>(i % 100, i * factor))
        .groupByKey(6).mapValues(SparkJobs::sum);
  }

  /** A driver in a process of its own: says when its maps are computed, and its results once it is told to read them. */
  public static final class Driver {
    public static void main(String[] args) throws Exception {
      with(conf(args[0], args[1]), spark -> {
        TaskLog log = TaskLog.of(spark);
        var sums = sums(spark, 1);
        SparkJobs.runMaps(spark, SparkJobs.shuffleOf(sums));
        System.out.println("MAPPED");
        System.in.read();
        for (String line : lines(sums.collect())) System.out.println("= " + line);
        System.out.println("MAPS " + log.sum("maps"));
        return null;
      });
    }
  }

  Process startDriver() throws Exception {
    List<String> command = new ArrayList<>(List.of(ProcessHandle.current().info().command().orElseThrow(), "-Xmx512m"));
    for (String argument : java.lang.management.ManagementFactory.getRuntimeMXBean().getInputArguments()) if (argument.startsWith("--add-")) command.add(argument);
    command.addAll(List.of("-cp", System.getProperty("java.class.path"), Driver.class.getName(), temp.toString(), node.url()));
    return new ProcessBuilder(command).redirectError(temp.resolve("driver.log").toFile()).start();
  }

  static String readUntil(BufferedReader from, String prefix, List<String> results) throws Exception {
    for (String line; (line = from.readLine()) != null; ) {
      if (line.startsWith("= ")) results.add(line.substring(2));
      if (line.startsWith(prefix)) return line;
    }
    throw new AssertionError("the driver ended without " + prefix);
  }

  List<String> vanilla(long factor) throws Exception {
    return with(SparkJobs.vanillaConf(SparkJobs.LOCAL, temp), spark -> lines(sums(spark, factor).collect()));
  }

  void runSecond() throws Exception {
    List<String> expected = vanilla(2);
    with(conf(temp.toString(), node.url()), spark -> {
      assertEquals(FixedIdMaster.APP_ID, spark.sparkContext().applicationId());
      assertTrue(EbbRuntime.ofDriver().node.jobId().startsWith(FixedIdMaster.APP_ID + "."));
      assertEquals(expected, lines(sums(spark, 2).collect()));
      return null;
    });
  }

  @Test
  void driversWithOneApplicationIdShareNothingAndTheEndOfOneLeavesTheOther() throws Exception {
    Process first = startDriver();
    try (BufferedReader out = new BufferedReader(new java.io.InputStreamReader(first.getInputStream(), StandardCharsets.UTF_8))) {
      List<String> results = new ArrayList<>();
      readUntil(out, "MAPPED", results);
      runSecond();
      first.getOutputStream().write('\n');
      first.getOutputStream().flush();
      assertEquals("MAPS 8", readUntil(out, "MAPS", results), "no map was computed again");
      assertEquals(vanilla(1), results);
      assertEquals(0, first.waitFor());
    } finally {
      first.destroyForcibly();
    }
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }

  @Test
  void whatADeadDriverLeftIsNotReadByTheNextAndGoesForWantOfHeartbeats() throws Exception {
    Process first = startDriver();
    try (BufferedReader out = new BufferedReader(new java.io.InputStreamReader(first.getInputStream(), StandardCharsets.UTF_8))) {
      readUntil(out, "MAPPED", new ArrayList<>());
      first.destroyForcibly().waitFor();
      runSecond();
    } finally {
      first.destroyForcibly();
    }
    assertEquals(RealNode.NOTHING_HELD, node.awaitNothingHeld());
  }
}
