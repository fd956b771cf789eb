package org.ebb.hadoop;

import static org.ebb.hadoop.EbbFileSystemTest.random;
import static org.ebb.hadoop.EbbFileSystemTest.read;
import static org.ebb.hadoop.EbbFileSystemTest.write;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.List;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.Path;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A daemon that is killed and comes back, that has little room, that is impatient with writers. */
@Timeout(120)
class NodeLossTest {
  private static final List<String> WAYS = List.of("true", "false");
  RealNode node;

  @BeforeEach
  void assumeThere() {
    RealNodeExtension.assumeThere();
  }

  @AfterEach
  void stop() throws Exception {
    if (node != null) node.close();
  }

  private EbbFileSystem through(String localFiles, String... more) throws Exception {
    String[] all = new String[more.length + 2];
    all[0] = "fs.ebb.local.files";
    all[1] = localFiles;
    System.arraycopy(more, 0, all, 2, more.length);
    return SharedNode.fileSystem(node, "loss", all);
  }

  @Test
  void aKilledNodeEndsWritesAndNotReads() throws Exception {
    node = RealNode.start("128MiB");
    byte[] data = random(1, 6_000_000);
    for (String way : WAYS) {
      EbbFileSystem fs = through(way);
      write(fs, "/kept", data);
      FSDataInputStream in = fs.open(new Path("/kept"));
      byte[] seen = new byte[data.length];
      in.readFully(seen, 0, 2_000_000);
      FSDataOutputStream half = fs.create(new Path("/half"));
      half.write(data);
      FSDataOutputStream small = fs.create(new Path("/small"));
      small.write(data, 0, 1000);
      node.kill();
      node.start();
      in.readFully(seen, 2_000_000, data.length - 2_000_000);
      assertArrayEquals(data, seen);
      in.close();
      assertThrows(IOException.class, half::close);
      assertFalse(fs.exists(new Path("/half")));
      small.close(); // all of it was still here
      assertArrayEquals(java.util.Arrays.copyOf(data, 1000), read(fs, "/small"));
      assertTrue(fs.rename(new Path("/kept"), new Path("/renamed")));
      assertTrue(fs.delete(new Path("/renamed"), false));
      assertTrue(fs.delete(new Path("/small"), false));
    }
  }

  @Test
  void whatWasReplacedWhileTheNodeWasAwayIsNotMixed() throws Exception {
    node = RealNode.start("128MiB");
    for (String way : WAYS) {
      EbbFileSystem fs = through(way);
      write(fs, "/data", random(1, 4_000_000));
      try (FSDataInputStream in = fs.open(new Path("/data"))) {
        in.readFully(0, new byte[1000]);
        node.kill();
        node.start();
        write(fs, "/data", random(2, 4_000_000));
        IOException refused = assertThrows(IOException.class, () -> in.readFully(1000, new byte[3_000_000]));
        assertTrue(refused.getMessage().contains("replaced"), refused::toString);
      }
    }
  }

  @Test
  void filesThatDoNotFitMemoryGoToDisk() throws Exception {
    node = RealNode.start("16MiB");
    byte[] data = random(1, 40_000_000);
    for (String way : WAYS) {
      EbbFileSystem fs = through(way);
      write(fs, "/large", data);
      assertArrayEquals(data, read(fs, "/large"));
    }
  }

  @Test
  void aWriterThatPausesIsWaitedFor() throws Exception {
    node = RealNode.start("64MiB", "--staging-ttl", "1s");
    EbbFileSystem fs = through("true", "fs.ebb.write.keepalive", "100ms");
    byte[] data = random(1, 3_000_000);
    FSDataOutputStream out = fs.create(new Path("/slow"));
    out.write(data);
    Thread.sleep(4000); // time itself is what is tested
    out.write(data);
    out.close();
    assertEquals(2L * data.length, fs.getFileStatus(new Path("/slow")).getLen());
  }

  @Test
  void aNodeThatIsAwayIsReportedInBoundedTime() throws Exception {
    node = RealNode.start("64MiB");
    EbbFileSystem fs = through("true", "fs.ebb.reconnect.timeout", "300ms", "fs.ebb.connect.timeout", "1s");
    node.kill();
    IOException refused = assertThrows(IOException.class, () -> fs.getFileStatus(new Path("/x")));
    assertTrue(refused.getMessage().contains("no Ebb node at"), refused::toString);
  }
}
