package org.apache.spark.shuffle.ebb;

import java.nio.file.Path;
import org.apache.spark.SparkConf;
import org.ebb.client.FakeNode;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.io.TempDir;

/** Tests of Spark jobs in local mode, each with a fake node of its own. */
abstract class WithFakeNode {
  @TempDir
  Path temp;
  FakeNode node;

  @BeforeEach
  void startNode() throws Exception {
    node = FakeNode.start();
  }

  @AfterEach
  void stopNode() throws Exception {
    node.close();
  }

  /** Through that node; `settings` are names and values in turn. */
  SparkConf conf(String... settings) {
    return SparkJobs.ebbConf(SparkJobs.LOCAL, temp, node.url(), settings);
  }
}
