package org.ebb.hadoop;

import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/** A process that writes half a file, says so, and waits to be killed. Arguments: the node's URL, the file. */
final class HangingWriter {
  private HangingWriter() {}

  public static void main(String[] args) throws Exception {
    Configuration conf = new Configuration();
    conf.set("fs.ebb.url", args[0]);
    FSDataOutputStream out = FileSystem.get(URI.create(args[1]), conf).create(new Path(args[1]));
    out.write(new byte[8_000_000]);
    System.out.print("written");
    System.out.flush();
    System.in.read(); // for ever: nothing is sent
    out.close();
  }
}
