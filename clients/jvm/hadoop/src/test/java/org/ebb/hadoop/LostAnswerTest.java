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
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.ebb.client.Messages.Op;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The connection breaks before a call has arrived, and after it was done but before its answer came. */
@Timeout(120)
class LostAnswerTest {
  static int buckets;
  CuttingProxy proxy;
  FileSystem fs;
  int cuts;

  @BeforeEach
  void start() throws Exception {
    RealNodeExtension.assumeThere();
    RealNode node = SharedNode.get();
    String bucket = "lost-" + ++buckets;
    assertEquals(201, node.http("PUT", "/v1/buckets/" + bucket).statusCode());
    proxy = new CuttingProxy(node.httpUrl());
    var conf = SharedNode.conf(node, "fs.ebb.local.files", "false");
    conf.set("fs.ebb.url", proxy.url());
    fs = FileSystem.newInstance(java.net.URI.create("ebb://" + bucket), conf);
  }

  @AfterEach
  void stop() throws Exception {
    if (fs != null) fs.close();
    if (proxy != null) proxy.close();
  }

  /** Breaks the next call of the kind, one way and the other. */
  private void cut(boolean arrives, int op) {
    assertEquals(cuts++, proxy.cuts.get(), "the cut before this one happened");
    if (arrives) proxy.loseAnswerTo(op);
    else proxy.loseCallOf(op);
  }

  private static final boolean[] BOTH = {true, false};

  @Test
  void aRenameIsDoneOnce() throws Exception {
    for (boolean arrives : BOTH) {
      write(fs, "/file", random(1, 1000));
      cut(arrives, Op.RENAME);
      assertTrue(fs.rename(new Path("/file"), new Path("/renamed")));
      assertFalse(fs.exists(new Path("/file")));
      assertTrue(fs.delete(new Path("/renamed"), false));

      write(fs, "/dir/sub/file", random(1, 1000));
      cut(arrives, Op.RENAME_PREFIX);
      assertTrue(fs.rename(new Path("/dir"), new Path("/other")));
      assertFalse(fs.exists(new Path("/dir")));
      assertEquals(1000, fs.getContentSummary(new Path("/other")).getLength());
      cut(arrives, Op.RENAME_PREFIX);
      assertTrue(fs.rename(new Path("/other"), new Path("/dir")));
      cut(arrives, Op.DELETE_PREFIX);
      assertTrue(fs.delete(new Path("/dir"), true));
      assertEquals(0, fs.listStatus(new Path("/")).length);
    }
    assertEquals(cuts, proxy.cuts.get());
  }

  @Test
  void aRenameThatIsRefusedIsRefusedAfterALostCallToo() throws Exception {
    write(fs, "/file", random(1, 1000));
    write(fs, "/taken", random(2, 1000));
    cut(false, Op.LIST_OBJECTS);
    assertFalse(fs.rename(new Path("/file"), new Path("/taken")));
    assertArrayEquals(random(2, 1000), read(fs, "/taken"));
    assertEquals(cuts, proxy.cuts.get());
  }

  @Test
  void aSmallFileIsThereWhenCloseReturns() throws Exception {
    for (boolean arrives : BOTH) {
      for (int op : new int[] {Op.STAGE, Op.WRITE, Op.COMMIT}) {
        cut(arrives, op);
        write(fs, "/small", random(op, 100_000));
        assertArrayEquals(random(op, 100_000), read(fs, "/small"));
      }
    }
    cut(true, Op.COMMIT);
    write(fs, "/empty", new byte[0]);
    assertEquals(0, fs.getFileStatus(new Path("/empty")).getLen());
    assertEquals(cuts, proxy.cuts.get());
  }

  @Test
  void aLargeFileIsThereWholeOrCloseFails() throws Exception {
    cut(true, Op.COMMIT);
    write(fs, "/large", random(1, 3_000_000)); // it was committed, and is found
    assertArrayEquals(random(1, 3_000_000), read(fs, "/large"));
    cut(false, Op.COMMIT);
    FSDataOutputStream out = fs.create(new Path("/large"));
    out.write(random(2, 3_000_000));
    assertThrows(IOException.class, out::close);
    assertArrayEquals(random(1, 3_000_000), read(fs, "/large"));
    assertEquals(cuts, proxy.cuts.get());
  }

  @Test
  void withoutOverwriteALostAnswerIsAnError() throws Exception {
    for (boolean arrives : BOTH) {
      cut(arrives, Op.COMMIT);
      FSDataOutputStream out = fs.create(new Path("/new"), false);
      out.write(1);
      assertThrows(IOException.class, out::close);
      assertEquals(arrives, fs.exists(new Path("/new")));
      fs.delete(new Path("/new"), false);
    }
    assertEquals(cuts, proxy.cuts.get());
  }

  @Test
  void aFileIsDeletedAndADirectoryMadeOnce() throws Exception {
    for (boolean arrives : BOTH) {
      cut(arrives, Op.COMMIT);
      assertTrue(fs.mkdirs(new Path("/dir")));
      assertTrue(fs.getFileStatus(new Path("/dir")).isDirectory());
      write(fs, "/dir/file", new byte[1]);
      cut(arrives, Op.DELETE_OBJECT);
      assertTrue(fs.delete(new Path("/dir/file"), false));
      assertFalse(fs.exists(new Path("/dir/file")));
      cut(arrives, Op.DELETE_OBJECT);
      assertTrue(fs.delete(new Path("/dir"), false));
      assertFalse(fs.exists(new Path("/dir")));
    }
    assertEquals(cuts, proxy.cuts.get());
  }

  @Test
  void aReadGoesOn() throws Exception {
    byte[] data = random(1, 10_000_000);
    write(fs, "/data", data);
    for (boolean arrives : BOTH) {
      cut(arrives, Op.READ);
      assertArrayEquals(data, read(fs, "/data"));
      cut(arrives, Op.OPEN);
      assertArrayEquals(data, read(fs, "/data"));
    }
    assertEquals(cuts, proxy.cuts.get());
  }
}
