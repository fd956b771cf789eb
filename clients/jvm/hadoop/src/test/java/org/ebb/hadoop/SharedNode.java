package org.ebb.hadoop;

import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.ebb.client.RealNode;

/** One real daemon for the tests of this process that leave it as it is. It ends with the process. */
final class SharedNode {
  private static RealNode node;

  private SharedNode() {}

  static synchronized RealNode get() throws Exception {
    if (node == null) node = RealNode.start("256MiB");
    return node;
  }

  /** Settings with the node's address; `more` are names and values. */
  static Configuration conf(RealNode node, String... more) {
    Configuration conf = new Configuration();
    conf.set("fs.ebb.url", node.url());
    for (int i = 0; i < more.length; i += 2) conf.set(more[i], more[i + 1]);
    return conf;
  }

  /** A bucket that is there, as a file system of its own. */
  static EbbFileSystem fileSystem(RealNode node, String bucket, String... more) throws Exception {
    int status = node.http("PUT", "/v1/buckets/" + bucket).statusCode();
    if (status / 100 != 2) throw new IllegalStateException("no bucket " + bucket + ": " + status);
    return (EbbFileSystem) FileSystem.newInstance(URI.create("ebb://" + bucket), conf(node, more));
  }
}
