package org.ebb.hadoop;

import java.io.IOException;
import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.contract.AbstractFSContract;
import org.ebb.client.RealNode;
import org.junit.Assume;

/** ebb:// on a real daemon, for Hadoop's contract tests; what it declares is in contract/ebb.xml. */
final class EbbContract extends AbstractFSContract {
  private static final String BUCKET = "contract";

  private final String[] settings;
  private FileSystem fileSystem;

  EbbContract(Configuration conf, String... settings) {
    super(conf);
    this.settings = settings;
    addConfResource("contract/ebb.xml");
  }

  @Override
  public void init() throws IOException {
    Assume.assumeTrue("the daemon cannot be run from here", RealNode.repository() != null);
    try {
      RealNode node = SharedNode.get();
      getConf().set("fs.ebb.url", node.url());
      for (int i = 0; i < settings.length; i += 2) getConf().set(settings[i], settings[i + 1]);
      node.http("PUT", "/v1/buckets/" + BUCKET);
      fileSystem = FileSystem.newInstance(URI.create("ebb://" + BUCKET), getConf());
    } catch (IOException e) {
      throw e;
    } catch (Exception e) {
      throw new IOException(e);
    }
  }

  @Override
  public FileSystem getTestFileSystem() {
    return fileSystem;
  }

  @Override
  public FileSystem getFileSystem(URI uri) throws IOException {
    return FileSystem.get(uri, getConf());
  }

  @Override
  public String getScheme() {
    return "ebb";
  }

  @Override
  public Path getTestPath() {
    return new Path("/test");
  }
}
