package ebb;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;

/**
 * Hadoop's s3a against the bucket that the argument names. Prints a line for each step that held, and ends with a stack
 * trace at the first that did not.
 */
public final class S3aCheck {
  private S3aCheck() {}

  public static void main(String[] args) throws IOException {
    Configuration settings = new Configuration();
    settings.set("fs.s3a.endpoint", System.getenv("S3_URL"));
    settings.set("fs.s3a.endpoint.region", "us-east-1");
    settings.setBoolean("fs.s3a.path.style.access", true);
    settings.set("fs.s3a.access.key", System.getenv("AWS_ACCESS_KEY_ID"));
    settings.set("fs.s3a.secret.key", System.getenv("AWS_SECRET_ACCESS_KEY"));
    settings.set("fs.s3a.multipart.size", "5M");
    settings.set("fs.s3a.multipart.threshold", "10M");
    settings.set("fs.s3a.fast.upload.buffer", "bytebuffer");
    settings.setInt("fs.s3a.paging.maximum", 3);
    settings.setInt("fs.s3a.attempts.maximum", 2);
    settings.setInt("fs.s3a.retry.limit", 2);
    try (FileSystem fs = FileSystem.get(URI.create("s3a://" + args[0] + "/"), settings)) {
      check(fs);
    }
  }

  private static void check(FileSystem fs) throws IOException {
    Path root = new Path("/job one");
    demand(fs.mkdirs(new Path(root, "deep/er")), "directories are made");
    demand(fs.getFileStatus(new Path(root, "deep")).isDirectory(), "a directory is one");
    say("directories");

    Random random = new Random(1);
    for (int size : new int[] {0, 1, 100_000, 17 << 20}) {
      byte[] bytes = new byte[size];
      random.nextBytes(bytes);
      Path file = new Path(root, "ä " + size);
      try (FSDataOutputStream out = fs.create(file, false)) {
        out.write(bytes);
      }
      demand(fs.getFileStatus(file).getLen() == size, "its size");
      byte[] read = new byte[size];
      try (FSDataInputStream in = fs.open(file)) {
        in.readFully(0, read);
        if (size > 10) {
          in.seek(size - 5);
          byte[] last = new byte[5];
          in.readFully(last);
          demand(Arrays.equals(last, Arrays.copyOfRange(bytes, size - 5, size)), "the end");
        }
      }
      demand(Arrays.equals(read, bytes), "the bytes come back");
    }
    say("files, by parts too");

    try {
      fs.create(new Path(root, "ä 1"), false).close();
      throw new IllegalStateException("a file was overwritten");
    } catch (FileAlreadyExistsException expected) {
      say("no overwriting");
    }

    for (int i = 0; i < 8; i++) {
      fs.create(new Path(root, "deep/er/part-" + i), true).close();
    }
    List<String> names = new ArrayList<>();
    for (RemoteIterator<LocatedFileStatus> files = fs.listFiles(root, true); files.hasNext(); ) {
      names.add(files.next().getPath().getName());
    }
    demand(names.size() == 12, "all files in pages: " + names);
    demand(fs.listStatus(root).length == 5, "one level");
    demand(fs.globStatus(new Path(root, "deep/er/part-[0-3]")).length == 4, "globs");
    demand(fs.getContentSummary(root).getLength() == 100_001 + (17 << 20), "its summary");
    say("lists");

    demand(fs.rename(root, new Path("/renamed")), "a directory is renamed");
    demand(!fs.exists(root), "the old name is gone");
    demand(fs.getFileStatus(new Path("/renamed/ä " + (17 << 20))).getLen() == 17 << 20, "copied");
    say("renames");

    demand(fs.delete(new Path("/renamed"), true), "a directory is deleted");
    try {
      fs.getFileStatus(new Path("/renamed"));
      throw new IllegalStateException("it is still there");
    } catch (FileNotFoundException expected) {
      say("emptied and deleted");
    }
  }

  private static void demand(boolean holds, String what) {
    if (!holds) {
      throw new IllegalStateException(what);
    }
  }

  private static void say(String line) {
    System.out.println(line);
  }
}
