package org.ebb.hadoop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.zip.CRC32C;
import org.apache.hadoop.fs.CreateFlag;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileChecksum;
import org.apache.hadoop.fs.FileContext;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FsShell;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Options;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.util.ToolRunner;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** What docs/hadoop.md promises beyond Hadoop's contract: nothing half, nothing mixed, whoever runs beside. */
@Timeout(120)
class EbbFileSystemTest {
  static ExecutorService threads;
  static int buckets;
  RealNode node;
  String bucket;
  EbbFileSystem fs;

  @BeforeAll
  static void startThreads() {
    RealNodeExtension.assumeThere();
    threads = Executors.newCachedThreadPool();
  }

  @AfterAll
  static void stopThreads() {
    if (threads != null) threads.shutdownNow();
  }

  @BeforeEach
  void start() throws Exception {
    node = SharedNode.get();
    bucket = "own-" + ++buckets;
    fs = SharedNode.fileSystem(node, bucket);
  }

  @AfterEach
  void stop() throws Exception {
    if (fs != null) fs.close();
  }

  static byte[] random(int seed, int bytes) {
    byte[] data = new byte[bytes];
    new Random(seed).nextBytes(data);
    return data;
  }

  static void write(FileSystem fs, String path, byte[] data) throws IOException {
    try (FSDataOutputStream out = fs.create(new Path(path))) {
      out.write(data);
    }
  }

  static byte[] read(FileSystem fs, String path) throws IOException {
    try (FSDataInputStream in = fs.open(new Path(path))) {
      return in.readAllBytes();
    }
  }

  static List<String> names(RemoteIterator<? extends FileStatus> statuses) throws IOException {
    List<String> names = new ArrayList<>();
    while (statuses.hasNext()) names.add(statuses.next().getPath().toUri().getPath());
    return names;
  }

  /** All at once; what they return or throw, in order. */
  static <T> List<Object> together(int count, Callable<T> work) throws Exception {
    CyclicBarrier start = new CyclicBarrier(count);
    List<Future<T>> running = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      running.add(threads.submit(() -> {
        start.await();
        return work.call();
      }));
    }
    List<Object> outcomes = new ArrayList<>();
    for (Future<T> each : running) {
      try {
        outcomes.add(each.get(30, TimeUnit.SECONDS));
      } catch (java.util.concurrent.ExecutionException e) {
        outcomes.add(e.getCause());
      }
    }
    return outcomes;
  }

  @Test
  void aFileIsThereWhenItsStreamIsClosedAndNotBefore() throws Exception {
    byte[] data = random(1, 5_000_000);
    Path path = new Path("/a/b/file");
    FSDataOutputStream out = fs.create(path);
    out.write(data);
    out.hflush();
    assertFalse(fs.exists(path));
    assertFalse(out.hasCapability("hflush") || out.hasCapability("hsync"));
    out.close();
    assertEquals(data.length, fs.getFileStatus(path).getLen());
    assertArrayEquals(data, read(fs, "/a/b/file"));
    out.close(); // twice is fine
    assertTrue(fs.getFileStatus(new Path("/a")).isDirectory());
  }

  @Test
  void anAbortedWriterLeavesWhatWasThereAndNoBytes() throws Exception {
    write(fs, "/kept", "old".getBytes());
    double before = node.metric("ebb_tier_staged_bytes");
    FSDataOutputStream out = fs.create(new Path("/kept"), true);
    out.write(random(2, 3_000_000));
    assertTrue(node.metric("ebb_tier_staged_bytes") > before);
    assertTrue(out.hasCapability("fs.capability.outputstream.abortable"));
    assertFalse(out.abort().alreadyClosed());
    out.close();
    assertArrayEquals("old".getBytes(), read(fs, "/kept"));
    while (node.metric("ebb_tier_staged_bytes") > before) Thread.onSpinWait(); // the abort is not waited for
  }

  @Test
  void aKilledWriterLeavesNothing(@TempDir java.nio.file.Path temp) throws Exception {
    double before = node.metric("ebb_tier_staged_bytes");
    Process writer = new ProcessBuilder(System.getProperty("java.home") + "/bin/java", "-cp", System.getProperty("java.class.path"),
        HangingWriter.class.getName(), node.url(), "ebb://" + bucket + "/half").redirectErrorStream(true).start();
    try {
      String said = new String(writer.getInputStream().readNBytes(7), StandardCharsets.UTF_8);
      assertEquals("written", said, () -> said + new String(readQuietly(writer)));
      assertTrue(node.metric("ebb_tier_staged_bytes") > before);
    } finally {
      writer.destroyForcibly().waitFor();
    }
    while (node.metric("ebb_tier_staged_bytes") > before) Thread.onSpinWait(); // the end of its connection frees it
    assertFalse(fs.exists(new Path("/half")));
    assertEquals(0, fs.listStatus(new Path("/")).length);
  }

  private static byte[] readQuietly(Process process) {
    try {
      process.destroyForcibly();
      return process.getInputStream().readAllBytes();
    } catch (IOException e) {
      return new byte[0];
    }
  }

  @Test
  void ofManyThatCreateWithoutOverwriteOneWins() throws Exception {
    Path path = new Path("/lock");
    List<Object> outcomes = together(8, () -> {
      byte[] mine = Thread.currentThread().getName().getBytes();
      try (FSDataOutputStream out = fs.create(path, false)) {
        out.write(mine);
      }
      return new String(mine);
    });
    List<Object> winners = outcomes.stream().filter(String.class::isInstance).toList();
    assertEquals(1, winners.size(), () -> outcomes.toString());
    assertEquals(7, outcomes.stream().filter(FileAlreadyExistsException.class::isInstance).count(), () -> outcomes.toString());
    assertArrayEquals(winners.get(0).toString().getBytes(), read(fs, "/lock"));
  }

  @Test
  void aReaderKeepsTheVersionThatItOpened() throws Exception {
    for (String local : List.of("true", "false")) {
      try (EbbFileSystem other = SharedNode.fileSystem(node, bucket, "fs.ebb.local.files", local)) {
        byte[] old = random(3, 4_000_000);
        write(fs, "/data", old);
        try (FSDataInputStream in = other.open(new Path("/data"))) {
          byte[] seen = new byte[old.length];
          in.readFully(0, seen, 0, 1000);
          write(fs, "/data", random(4, 4_000_000));
          fs.delete(new Path("/data"), false);
          for (int i = 0; i < 10; i++) write(fs, "/next-" + i, random(5 + i, 4_000_000)); // takes recycled files, if there are any
          in.readFully(1000, seen, 1000, old.length - 1000);
          assertArrayEquals(old, seen);
        }
      }
    }
  }

  @Test
  void aRenamedDirectoryIsSeenWholeUnderOneName() throws Exception {
    int files = 100;
    for (int i = 0; i < files; i++) write(fs, "/p/a/sub-" + i % 3 + "/f" + i, new byte[] {(byte) i});
    AtomicBoolean done = new AtomicBoolean();
    Callable<Integer> watch = () -> {
      int looks = 0;
      for (; !done.get() || looks == 0; looks++) {
        List<String> all = names(fs.listFiles(new Path("/p"), true));
        assertEquals(files, all.size());
        assertEquals(1, all.stream().map(name -> name.substring(0, 4)).distinct().count(), "under both names");
        assertEquals(1, fs.listStatus(new Path("/p")).length);
      }
      return looks;
    };
    List<Future<Integer>> watchers = List.of(threads.submit(watch), threads.submit(watch));
    try {
      for (int i = 0; i < 60; i++) assertTrue(fs.rename(new Path(i % 2 == 0 ? "/p/a" : "/p/b"), new Path(i % 2 == 0 ? "/p/b" : "/p/a")));
    } finally {
      done.set(true);
    }
    for (Future<Integer> watcher : watchers) assertTrue(watcher.get() > 1);
  }

  @Test
  void ofManyDirectoriesRenamedToOneNameOneArrives() throws Exception {
    for (int round = 0; round < 10; round++) {
      String to = "/to-" + round;
      List<String> sources = new ArrayList<>();
      for (int i = 0; i < 6; i++) {
        sources.add("/from-" + round + "-" + i);
        write(fs, sources.get(i) + "/part-" + i, new byte[] {(byte) i});
      }
      java.util.Iterator<String> next = sources.iterator();
      List<Object> outcomes = together(6, () -> {
        String mine;
        synchronized (next) {
          mine = next.next();
        }
        return fs.rename(new Path(mine), new Path(to));
      });
      // A rename that comes late enough to see the directory goes into it, as HDFS has it; it never mixes with what is there.
      assertEquals(1, names(fs.listFiles(new Path(to), false)).size(), () -> outcomes.toString());
      for (FileStatus inside : fs.listStatus(new Path(to))) {
        if (inside.isDirectory()) assertTrue(inside.getPath().getName().startsWith("from-" + round), inside::toString);
      }
      int left = 0;
      for (String source : sources) if (fs.exists(new Path(source))) left++;
      assertEquals(outcomes.stream().filter(outcome -> !Boolean.TRUE.equals(outcome)).count(), left, () -> outcomes.toString());
    }
  }

  @Test
  void aFileThatIsReplacedByRenameIsAlwaysThere() throws Exception {
    FileContext context = FileContext.getFileContext(URI.create("ebb://" + bucket), SharedNode.conf(node, "fs.AbstractFileSystem.ebb.impl", EbbFs.class.getName()));
    Path current = new Path("/current");
    write(fs, "/current", random(0, 1000));
    AtomicBoolean done = new AtomicBoolean();
    Future<Integer> reader = threads.submit(() -> {
      int reads = 0;
      for (; !done.get() || reads == 0; reads++) {
        byte[] seen = read(fs, "/current");
        assertArrayEquals(random(seen[0] == random(0, 1)[0] ? 0 : 1, 1000), seen);
      }
      return reads;
    });
    try {
      for (int i = 0; i < 50; i++) {
        try (FSDataOutputStream out = context.create(new Path("/temp-" + i), java.util.EnumSet.of(CreateFlag.CREATE))) {
          out.write(random(i % 2, 1000));
        }
        context.rename(new Path("/temp-" + i), current, Options.Rename.OVERWRITE);
        assertThrows(FileAlreadyExistsException.class, () -> {
          write(fs, "/other", new byte[1]);
          context.rename(new Path("/other"), current);
        });
      }
    } finally {
      done.set(true);
    }
    assertTrue(reader.get() > 0);
    assertEquals(List.of("/current", "/other"), names(fs.listFiles(new Path("/"), true)));
  }

  @Test
  void aDirectoryStaysWhenItsLastFileGoes() throws Exception {
    write(fs, "/d/e/only", new byte[1]);
    assertTrue(fs.rename(new Path("/d/e/only"), new Path("/moved")));
    assertTrue(fs.getFileStatus(new Path("/d/e")).isDirectory());
    write(fs, "/f/g/only", new byte[1]);
    assertTrue(fs.delete(new Path("/f/g/only"), false));
    assertTrue(fs.getFileStatus(new Path("/f/g")).isDirectory());
    assertTrue(fs.delete(new Path("/f/g"), false));
    assertTrue(fs.getFileStatus(new Path("/f")).isDirectory());
    assertFalse(fs.exists(new Path("/f/g")));
  }

  @Test
  void objectsOfOthersAreFilesAndPrefixesDirectories() throws Exception {
    String objects = "/v1/buckets/" + bucket + "/objects/";
    for (String key : List.of("x/y/z", "x%3Ay/with%20space%20%25%20%C3%BC", "x/y//hidden", "xa/1")) {
      assertEquals(201, node.http("PUT", objects + key).statusCode());
    }
    assertEquals(List.of("/x", "/x:y", "/xa"), names(fs.listStatusIterator(new Path("/"))));
    assertEquals(List.of("/x/y/z"), names(fs.listFiles(new Path("/x"), true)));
    assertEquals(List.of("/x/y"), names(fs.listLocatedStatus(new Path("/x"))));
    Path colon = fs.listStatus(new Path("/"))[1].getPath();
    FileStatus inside = fs.listStatus(colon)[0];
    assertEquals("with space % ü", inside.getPath().getName());
    assertTrue(fs.delete(inside.getPath(), false));
    assertTrue(fs.delete(new Path("/x"), true));
    assertEquals(List.of("/xa/1"), names(fs.listFiles(new Path("/"), true)));
    assertEquals(204, node.http("DELETE", objects + "xa/1").statusCode());
    assertThrows(FileNotFoundException.class, () -> fs.listStatus(new Path("/xa")));
  }

  @Test
  void aBucketIsItsRootDirectoryWithASlashAndWithout() throws Exception {
    write(fs, "/file", new byte[1]);
    for (String root : List.of("ebb://" + bucket, "ebb://" + bucket + "/")) {
      assertTrue(fs.getFileStatus(new Path(root)).isDirectory());
      assertEquals(1, fs.listStatus(new Path(root)).length);
      assertTrue(fs.mkdirs(new Path(root)));
      assertTrue(fs.exists(new Path(root, "file")));
    }
  }

  @Test
  void listingsOfManyPagesAreComplete() throws Exception {
    try (EbbFileSystem small = SharedNode.fileSystem(node, bucket, "fs.ebb.list.page", "3")) {
      fs.mkdirs(new Path("/many/empty"));
      List<String> wanted = new ArrayList<>();
      for (int i = 10; i < 30; i++) {
        wanted.add("/many/f" + i);
        write(fs, "/many/f" + i, new byte[i]);
        write(fs, "/many/sub" + i + "/g", new byte[1]);
      }
      assertEquals(wanted, names(small.listFiles(new Path("/many"), false)));
      assertEquals(40, names(small.listFiles(new Path("/many"), true)).size());
      assertEquals(41, small.listStatus(new Path("/many")).length);
      var summary = small.getContentSummary(new Path("/many"));
      assertEquals(List.of(40L, 22L, 410L), List.of(summary.getFileCount(), summary.getDirectoryCount(), summary.getLength()));
    }
  }

  @Test
  void theChecksumIsTheCrc32cOfTheWholeFile() throws Exception {
    byte[] data = random(9, 3_000_001);
    write(fs, "/sum", data);
    CRC32C crc = new CRC32C();
    crc.update(data);
    FileChecksum found = fs.getFileChecksum(new Path("/sum"));
    assertEquals("COMPOSITE-CRC32C", found.getAlgorithmName());
    assertEquals((int) crc.getValue(), java.nio.ByteBuffer.wrap(found.getBytes()).getInt());
    assertNull(fs.getFileChecksum(new Path("/sum"), 10));
    assertTrue(fs.hasPathCapability(new Path("/sum"), "fs.capability.paths.checksums"));
  }

  @Test
  void whatIsNotOfferedIsRefused() throws Exception {
    Path path = new Path("/file");
    write(fs, "/file", new byte[1]);
    assertThrows(UnsupportedOperationException.class, () -> fs.append(path));
    assertThrows(UnsupportedOperationException.class, () -> fs.concat(path, new Path[] {path}));
    assertThrows(UnsupportedOperationException.class, () -> fs.truncate(path, 0));
    for (String capability : List.of("append", "concat", "truncate", "permissions", "symlinks", "xattrs")) {
      assertFalse(fs.hasPathCapability(path, "fs.capability.paths." + capability), capability);
    }
    assertFalse(fs.delete(new Path("/"), true), "the bucket is not emptied");
    assertTrue(fs.exists(path));
    try (FileSystem missing = FileSystem.newInstance(URI.create("ebb://no-such-bucket"), SharedNode.conf(node))) {
      assertThrows(FileNotFoundException.class, () -> missing.listStatus(new Path("/")));
      assertThrows(FileNotFoundException.class, () -> missing.create(new Path("/file")));
    }
  }

  @Test
  void bytesReadAndWrittenAreCounted() throws Exception {
    FileSystem.Statistics counted = FileSystem.getStatistics("ebb", EbbFileSystem.class);
    long written = counted.getBytesWritten();
    long read = counted.getBytesRead();
    write(fs, "/counted", new byte[123_456]);
    read(fs, "/counted");
    assertEquals(123_456, counted.getBytesWritten() - written);
    assertEquals(123_456, counted.getBytesRead() - read);
  }

  /** Runs `hadoop fs` with these words; returns what it printed. */
  private String shell(String... words) throws Exception {
    java.io.PrintStream console = System.out;
    var said = new java.io.ByteArrayOutputStream();
    System.setOut(new java.io.PrintStream(said, true, StandardCharsets.UTF_8));
    try {
      assertEquals(0, ToolRunner.run(SharedNode.conf(node), new FsShell(), words), () -> String.join(" ", words));
    } finally {
      System.setOut(console);
    }
    return said.toString(StandardCharsets.UTF_8);
  }

  @Test
  void theHadoopShellWorks(@TempDir java.nio.file.Path temp) throws Exception {
    String root = "ebb://" + bucket;
    java.nio.file.Path local = java.nio.file.Files.write(temp.resolve("local"), random(7, 3_000_000));
    shell("-mkdir", "-p", root + "/a/b");
    shell("-put", local.toString(), root + "/a/b/file");
    assertTrue(shell("-ls", "-R", root + "/").contains("3000000"));
    shell("-cp", root + "/a/b/file", root + "/a/copy");
    shell("-mv", root + "/a/b", root + "/c");
    assertTrue(shell("-count", root + "/").trim().startsWith("3"), "root, a, c");
    assertTrue(shell("-checksum", root + "/c/file").contains("COMPOSITE-CRC32C"));
    shell("-get", root + "/c/file", temp.resolve("back").toString());
    assertEquals(-1, java.nio.file.Files.mismatch(local, temp.resolve("back")));
    shell("-rm", "-r", "-skipTrash", root + "/a", root + "/c");
    assertEquals("", shell("-ls", root + "/"));
  }

  @Test
  void theDocumentedSettingsAreThoseThatAreRead() throws Exception {
    java.nio.file.Path repository = RealNode.repository();
    String code = java.nio.file.Files.readString(repository.resolve("clients/jvm/hadoop/src/main/java/org/ebb/hadoop/EbbOptions.java"));
    String page = java.nio.file.Files.readString(repository.resolve("docs/hadoop.md"));
    assertTrue(found("`fs\\.ebb\\.([a-z.]+)`", page).size() > 10);
    assertEquals(found("(?:bytes\\(|timeMs\\(|PREFIX \\+ )\"([a-z.]+)\"", code), found("\n\\| `fs\\.ebb\\.([a-z.]+)` \\|", page));
  }

  private static java.util.Set<String> found(String pattern, String text) {
    var names = new java.util.TreeSet<String>();
    java.util.regex.Pattern.compile(pattern).matcher(text).results().forEach(match -> names.add(match.group(1)));
    return names;
  }

  @Test
  void locatedFilesAreOnThisHost() throws Exception {
    write(fs, "/located", new byte[1000]);
    LocatedFileStatus status = fs.listLocatedStatus(new Path("/located")).next();
    assertEquals("localhost", status.getBlockLocations()[0].getHosts()[0]);
    assertEquals(128L << 20, status.getBlockSize());
  }
}
