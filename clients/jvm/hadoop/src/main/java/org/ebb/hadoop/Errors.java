package org.ebb.hadoop;

import java.io.FileNotFoundException;
import java.io.IOException;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathIOException;
import org.ebb.client.EbbException;

/** The node's codes as the exceptions that Hadoop's callers look for. The original is the cause. */
final class Errors {
  private Errors() {}

  static IOException translate(EbbException e, Path path) {
    return switch (e.code) {
      case "not_found" -> caused(new FileNotFoundException("no such file or directory: " + path), e);
      case "bucket_not_found" -> caused(new FileNotFoundException("no bucket " + path.toUri().getAuthority() + "; create it first (ebb buckets create)"), e);
      case "already_exists" -> caused(new FileAlreadyExistsException(path + " exists"), e);
      default -> new PathIOException(path.toString(), e);
    };
  }

  private static IOException caused(IOException to, EbbException cause) {
    to.initCause(cause);
    return to;
  }
}
