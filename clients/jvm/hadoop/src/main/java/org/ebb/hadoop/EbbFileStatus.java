package org.ebb.hadoop;

import org.apache.hadoop.fs.BlockLocation;
import org.apache.hadoop.fs.EtagSource;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.ebb.client.Messages;

/** A file with its ETag, or a directory. Directories have no times; nobody's permissions are kept. */
final class EbbFileStatus extends FileStatus implements EtagSource {
  private static final long serialVersionUID = 1L;

  private final String etag;

  private EbbFileStatus(long sizeBytes, boolean isDirectory, long blockBytes, long modifiedMs, String user, Path path, String etag) {
    super(sizeBytes, isDirectory, 1, blockBytes, modifiedMs, 0, isDirectory ? FsPermission.getDirDefault() : FsPermission.getFileDefault(), user, user, path);
    this.etag = etag;
  }

  static EbbFileStatus file(Path path, Messages.ObjectRow row, long blockBytes, String user) {
    return new EbbFileStatus(row.sizeBytes(), false, blockBytes, row.createdAtMs(), user, path, row.etag());
  }

  static EbbFileStatus directory(Path path, String user) {
    return new EbbFileStatus(0, true, 0, 0, user, path, null);
  }

  @Override
  public String getEtag() {
    return etag;
  }

  LocatedFileStatus located(BlockLocation[] blocks) {
    return new Located(this, blocks);
  }

  private static final class Located extends LocatedFileStatus implements EtagSource {
    private static final long serialVersionUID = 1L;

    private final String etag;

    Located(EbbFileStatus status, BlockLocation[] blocks) {
      super(status, blocks);
      etag = status.etag;
    }

    @Override
    public String getEtag() {
      return etag;
    }

    @Override
    public boolean equals(Object other) {
      return super.equals(other);
    }

    @Override
    public int hashCode() {
      return super.hashCode();
    }
  }

  /** As FileStatus: two of one path are one. */
  @Override
  public boolean equals(Object other) {
    return super.equals(other);
  }

  @Override
  public int hashCode() {
    return super.hashCode();
  }
}
