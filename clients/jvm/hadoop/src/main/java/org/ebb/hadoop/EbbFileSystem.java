package org.ebb.hadoop;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Set;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.CommonPathCapabilities;
import org.apache.hadoop.fs.CompositeCrcFileChecksum;
import org.apache.hadoop.fs.ContentSummary;
import org.apache.hadoop.fs.CreateFlag;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileChecksum;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Options;
import org.apache.hadoop.fs.ParentNotDirectoryException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathFilter;
import org.apache.hadoop.fs.PathIsNotEmptyDirectoryException;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.security.UserGroupInformation;
import org.apache.hadoop.util.DataChecksum;
import org.apache.hadoop.util.Progressable;
import org.ebb.client.EbbException;
import org.ebb.client.EbbNode;
import org.ebb.client.Messages;
import org.ebb.client.Messages.ObjectRow;
import org.ebb.client.ObjectReader;
import org.ebb.client.ObjectWriter;

/**
 * `ebb://bucket/path`: a bucket of the node that this process talks to, as a file system. What it promises, and what not, is
 * in docs/hadoop.md; how names become a tree is in {@link Tree}.
 *
 * <p>Asks the node where, then reads and writes files itself where it sees them. Holds no state but its working directory.
 */
public final class EbbFileSystem extends FileSystem {
  public static final String SCHEME = "ebb";
  private static final int CRC_BYTES_PER_CHUNK = 512;

  private URI uri;
  private Path workingDirectory;
  private String user;
  private EbbOptions options;
  private ObjectWriter.Options writerOptions;
  private EbbNode node;
  private Tree tree;

  @Override
  public void initialize(URI name, Configuration conf) throws IOException {
    String bucket = name.getAuthority();
    if (bucket == null || bucket.isEmpty()) throw new IOException("no bucket in " + name + ": write " + SCHEME + "://bucket/path");
    setConf(conf);
    super.initialize(name, conf);
    uri = URI.create(SCHEME + "://" + bucket);
    user = UserGroupInformation.getCurrentUser().getShortUserName();
    workingDirectory = new Path(uri + "/user/" + user);
    options = new EbbOptions(conf);
    writerOptions = options.writer();
    node = options.node();
    tree = new Tree(node, bucket, writerOptions);
  }

  @Override
  public String getScheme() {
    return SCHEME;
  }

  @Override
  public URI getUri() {
    return uri;
  }

  @Override
  public Path getWorkingDirectory() {
    return workingDirectory;
  }

  @Override
  public void setWorkingDirectory(Path directory) {
    workingDirectory = makeQualified(directory);
  }

  @Override
  public Path getHomeDirectory() {
    return new Path(uri + "/user/" + user);
  }

  /** There are no tokens; and a bucket is no host whose address could be asked for. */
  @Override
  public String getCanonicalServiceName() {
    return null;
  }

  // ── paths and keys ──────────────────────────────────────────────────────────────────────────────────────────────────

  private String keyOf(Path path) {
    checkPath(path);
    String name = makeQualified(path).toUri().getPath();
    return name.isEmpty() ? "" : name.substring(1); // ebb://bucket has no slash
  }

  /** A name may have a colon, which the constructor from one string would take for a scheme. */
  private Path pathOf(String key) {
    return new Path(SCHEME, uri.getAuthority(), "/" + key);
  }

  /** Names that S3 clients may give and paths cannot: they are not shown. */
  private static boolean hasPath(String key) {
    return !key.startsWith("/") && !key.contains("//");
  }

  private interface Call<T> {
    T run(String key) throws IOException;
  }

  private <T> T on(Path path, Call<T> call) throws IOException {
    try {
      return call.run(keyOf(path));
    } catch (EbbException e) {
      throw Errors.translate(e, path);
    }
  }

  // ── bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  @Override
  public FSDataInputStream open(Path path, int bufferSize) throws IOException {
    statistics.incrementReadOps(1);
    return on(path, key -> {
      try {
        if (key.isEmpty()) throw new FileNotFoundException(path + " is a directory");
        ObjectReader reader = ObjectReader.open(node, tree.ref(key));
        return new FSDataInputStream(new EbbInputStream(reader, path, statistics, options));
      } catch (EbbException e) {
        if (e.is("not_found") && tree.find(key).isDirectory()) throw new FileNotFoundException(path + " is a directory");
        throw e;
      }
    });
  }

  @Override
  public FSDataOutputStream create(
      Path path, FsPermission permission, boolean overwrite, int bufferSize, short replication, long blockSize, Progressable progress)
      throws IOException {
    return create(path, overwrite, false);
  }

  @Override
  public FSDataOutputStream createNonRecursive(
      Path path, FsPermission permission, java.util.EnumSet<CreateFlag> flags, int bufferSize, short replication, long blockSize, Progressable progress)
      throws IOException {
    if (flags.contains(CreateFlag.APPEND)) throw new UnsupportedOperationException("append is not supported by " + SCHEME);
    return create(path, flags.contains(CreateFlag.OVERWRITE), true);
  }

  private FSDataOutputStream create(Path path, boolean overwrite, boolean parentMustExist) throws IOException {
    statistics.incrementWriteOps(1);
    return on(path, key -> {
      if (key.isEmpty()) throw new FileAlreadyExistsException(path + " is the root directory");
      String parent = Tree.parent(key);
      var looked = tree.look(parentMustExist ? List.of(key, parent) : List.of(key), Tree.ancestors(key));
      refuseUnderFile(path, looked.objects());
      Tree.Found found = looked.paths().get(0);
      if (found.isDirectory()) throw new FileAlreadyExistsException(path + " is a directory");
      if (found.exists() && !overwrite) throw new FileAlreadyExistsException(path + " exists");
      if (parentMustExist && !looked.paths().get(1).isDirectory()) throw new FileNotFoundException("no directory " + path.getParent());
      ObjectWriter writer = new ObjectWriter(node, tree.ref(key), writerOptions);
      var condition = overwrite ? Messages.Condition.NONE : Messages.Condition.ABSENT;
      return new FSDataOutputStream(new EbbOutputStream(writer, condition, path, statistics), null);
    });
  }

  private void refuseUnderFile(Path path, List<ObjectRow> ancestors) throws IOException {
    for (ObjectRow file : ancestors) {
      if (file != null) throw new ParentNotDirectoryException(pathOf(file.key()) + " is a file, so there is no " + path);
    }
  }

  @Override
  public FSDataOutputStream append(Path path, int bufferSize, Progressable progress) {
    throw new UnsupportedOperationException("append is not supported by " + SCHEME);
  }

  // ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** As HDFS: into `to` when that is a directory; false when there is nothing to rename, no place, or something is there. */
  @Override
  public boolean rename(Path from, Path to) throws IOException {
    statistics.incrementWriteOps(1);
    return on(from, fromKey -> {
      String toKey = keyOf(to);
      if (fromKey.isEmpty()) return false;
      var looked = tree.look(List.of(fromKey, toKey), List.of());
      Tree.Found source = looked.paths().get(0);
      Tree.Found target = looked.paths().get(1);
      if (fromKey.equals(toKey)) return source.file() != null;
      String name = fromKey.substring(fromKey.lastIndexOf('/') + 1);
      String finalKey = target.isDirectory() ? Tree.dir(toKey) + name : toKey;
      if (finalKey.equals(fromKey)) return source.file() != null;
      try {
        rename(fromKey, source, finalKey, false);
        return true;
      } catch (FileNotFoundException | FileAlreadyExistsException | ParentNotDirectoryException | InvalidTargetException e) {
        LOG.debug("rename {} to {}: {}", from, to, e.getMessage());
        return false;
      }
    });
  }

  @Override
  protected void rename(Path from, Path to, Options.Rename... how) throws IOException {
    renameTo(from, to, List.of(how).contains(Options.Rename.OVERWRITE));
  }

  /** To this very name, or an error. With `overwrite` a file is replaced in the same step, and so is an empty directory. */
  void renameTo(Path from, Path to, boolean overwrite) throws IOException {
    statistics.incrementWriteOps(1);
    on(from, fromKey -> {
      String toKey = keyOf(to);
      if (fromKey.isEmpty() || toKey.isEmpty()) throw new InvalidTargetException("the root directory cannot be renamed, nor replaced");
      Tree.Found source = tree.find(fromKey);
      if (source.exists() && fromKey.equals(toKey)) throw new FileAlreadyExistsException(to + " is the source itself");
      rename(fromKey, source, toKey, overwrite);
      return null;
    });
  }

  private static final class InvalidTargetException extends IOException {
    private static final long serialVersionUID = 1L;

    InvalidTargetException(String message) {
      super(message);
    }
  }

  private void rename(String fromKey, Tree.Found source, String toKey, boolean overwrite) throws IOException {
    Path from = pathOf(fromKey);
    Path to = pathOf(toKey);
    if (!source.exists()) throw new FileNotFoundException("no such file or directory: " + from);
    if (source.isDirectory() && toKey.startsWith(Tree.dir(fromKey))) throw new InvalidTargetException(to + " is inside " + from);
    var looked = tree.look(List.of(toKey, Tree.parent(toKey)), List.of());
    Tree.Found target = looked.paths().get(0);
    Tree.Found parent = looked.paths().get(1);
    if (parent.file() != null) throw new ParentNotDirectoryException(to.getParent() + " is a file");
    if (!parent.isDirectory()) throw new FileNotFoundException("no directory " + to.getParent());
    if (target.exists()) {
      if (!overwrite) throw new FileAlreadyExistsException(to + " exists");
      if (target.isDirectory() != source.isDirectory()) {
        throw new InvalidTargetException("a file and a directory cannot replace each other: " + from + " and " + to);
      }
      if (target.hasChildren()) throw new PathIsNotEmptyDirectoryException(to.toString());
    }
    try {
      if (source.isDirectory()) tree.renameDirectory(fromKey, source, toKey, overwrite);
      else tree.renameFile(source.file(), toKey, overwrite);
    } catch (EbbException e) {
      throw Errors.translate(e, e.is("not_found") ? from : to);
    }
  }

  @Override
  public boolean delete(Path path, boolean recursive) throws IOException {
    statistics.incrementWriteOps(1);
    return on(path, key -> {
      Tree.Found found = tree.find(key);
      if (!found.exists()) return false;
      if (found.file() != null) return tree.deleteFile(key);
      if (!recursive && found.hasChildren()) throw new PathIsNotEmptyDirectoryException(path.toString());
      if (key.isEmpty()) return !found.hasChildren(); // a bucket is not emptied by a slip of the pen
      tree.deleteDirectory(key, recursive && found.hasChildren());
      return true;
    });
  }

  @Override
  public boolean mkdirs(Path path, FsPermission permission) throws IOException {
    statistics.incrementWriteOps(1);
    return on(path, key -> {
      var looked = tree.look(List.of(key), Tree.ancestors(key));
      Tree.Found found = looked.paths().get(0);
      if (found.file() != null) throw new FileAlreadyExistsException(path + " is a file");
      refuseUnderFile(path, looked.objects());
      if (!found.isDirectory()) tree.mark(key);
      return true;
    });
  }

  // ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────────

  @Override
  public FileStatus getFileStatus(Path path) throws IOException {
    statistics.incrementReadOps(1);
    return on(path, key -> {
      Tree.Found found = tree.find(key);
      if (found.file() != null) return file(found.file());
      if (found.isDirectory()) return directory(key);
      throw new FileNotFoundException("no such file or directory: " + path);
    });
  }

  private EbbFileStatus file(ObjectRow row) {
    return EbbFileStatus.file(pathOf(row.key()), row, options.blockBytes, user);
  }

  private EbbFileStatus directory(String key) {
    return EbbFileStatus.directory(pathOf(key), user);
  }

  @Override
  public FileStatus[] listStatus(Path path) throws IOException {
    List<FileStatus> all = new ArrayList<>();
    for (RemoteIterator<FileStatus> each = listStatusIterator(path); each.hasNext(); ) all.add(each.next());
    return all.toArray(new FileStatus[0]);
  }

  /** A page at a time; each is the directory at one moment. */
  @Override
  public RemoteIterator<FileStatus> listStatusIterator(Path path) throws IOException {
    statistics.incrementLargeReadOps(1);
    return on(path, key -> {
      String prefix = Tree.dir(key);
      Messages.Listed first = tree.list(prefix, "/", "", options.listPage);
      if (first.objects().isEmpty() && first.prefixes().isEmpty() && !key.isEmpty()) {
        Tree.Found found = tree.find(key);
        if (!found.exists()) throw new FileNotFoundException("no such file or directory: " + path);
        if (found.file() != null) return new Pages<>(path, List.of(file(found.file())));
      }
      return new Pages<FileStatus>(path, first, startAfter -> tree.list(prefix, "/", startAfter, options.listPage), page -> {
        List<FileStatus> shown = new ArrayList<>();
        for (ObjectRow row : page.objects()) {
          if (!row.key().equals(prefix) && hasPath(row.key())) shown.add(file(row));
        }
        for (String below : page.prefixes()) {
          if (hasPath(below)) shown.add(directory(below.substring(0, below.length() - 1)));
        }
        shown.sort(java.util.Comparator.comparing(status -> status.getPath().getName()));
        return shown;
      });
    });
  }

  @Override
  protected RemoteIterator<LocatedFileStatus> listLocatedStatus(Path path, PathFilter filter) throws IOException {
    RemoteIterator<FileStatus> all = listStatusIterator(path);
    return new RemoteIterator<>() {
      private FileStatus next;

      @Override
      public boolean hasNext() throws IOException {
        while (next == null && all.hasNext()) {
          FileStatus candidate = all.next();
          if (filter.accept(candidate.getPath())) next = candidate;
        }
        return next != null;
      }

      @Override
      public LocatedFileStatus next() throws IOException {
        if (!hasNext()) throw new NoSuchElementException();
        EbbFileStatus found = (EbbFileStatus) next;
        next = null;
        return located(found);
      }
    };
  }

  private LocatedFileStatus located(EbbFileStatus status) throws IOException {
    return status.located(status.isFile() ? getFileBlockLocations(status, 0, status.getLen()) : null);
  }

  @Override
  public RemoteIterator<LocatedFileStatus> listFiles(Path path, boolean recursive) throws IOException {
    FileStatus status = recursive ? getFileStatus(path) : null;
    if (status == null || status.isFile()) return super.listFiles(path, recursive);
    statistics.incrementLargeReadOps(1);
    return on(path, key -> new Pages<>(path, allBelow(key, ""), startAfter -> allBelow(key, startAfter), page -> {
      List<LocatedFileStatus> shown = new ArrayList<>();
      for (ObjectRow row : page.objects()) {
        if (row.key().endsWith("/") || !hasPath(row.key())) continue;
        EbbFileStatus file = file(row);
        shown.add(located(file));
      }
      return shown;
    }));
  }

  private Messages.Listed allBelow(String key, String startAfter) throws EbbException {
    return tree.list(Tree.dir(key), "", startAfter, options.listPage);
  }

  @Override
  public ContentSummary getContentSummary(Path path) throws IOException {
    statistics.incrementLargeReadOps(1);
    FileStatus status = getFileStatus(path);
    if (status.isFile()) return summary(status.getLen(), 1, 0);
    return on(path, key -> {
      long bytes = 0;
      long files = 0;
      Set<String> directories = new HashSet<>(Set.of(key));
      String startAfter = "";
      do {
        Messages.Listed page = allBelow(key, startAfter);
        for (ObjectRow row : page.objects()) {
          if (!hasPath(row.key())) continue;
          for (String above = Tree.parent(row.key()); directories.add(above); above = Tree.parent(above)) continue;
          if (row.key().endsWith("/")) continue;
          files++;
          bytes += row.sizeBytes();
        }
        startAfter = page.next();
      } while (startAfter != null);
      return summary(bytes, files, directories.size());
    });
  }

  private static ContentSummary summary(long bytes, long files, long directories) {
    return new ContentSummary.Builder().length(bytes).fileCount(files).directoryCount(directories).spaceConsumed(bytes).build();
  }

  /** The CRC32C of the whole file where it is known and all of it is asked for: as HDFS' COMPOSITE_CRC over CRC32C. */
  @Override
  public FileChecksum getFileChecksum(Path path, long length) throws IOException {
    statistics.incrementReadOps(1);
    return on(path, key -> {
      Tree.Found found = tree.find(key);
      if (found.file() == null) throw new FileNotFoundException((found.isDirectory() ? "a directory: " : "no such file: ") + path);
      ObjectRow row = found.file();
      if (row.crc32c() == null || length < row.sizeBytes()) return null;
      return new CompositeCrcFileChecksum(row.crc32c(), DataChecksum.Type.CRC32C, CRC_BYTES_PER_CHUNK);
    });
  }

  @Override
  @SuppressWarnings("deprecation")
  public long getDefaultBlockSize() {
    return options.blockBytes;
  }

  @Override
  public boolean hasPathCapability(Path path, String capability) throws IOException {
    return switch (capability.toLowerCase(java.util.Locale.ROOT)) {
      case CommonPathCapabilities.FS_CHECKSUMS, CommonPathCapabilities.ETAGS_AVAILABLE, CommonPathCapabilities.ETAGS_PRESERVED_IN_RENAME,
          CommonPathCapabilities.ABORTABLE_STREAM -> true;
      default -> super.hasPathCapability(path, capability);
    };
  }

  private interface NextPage {
    Messages.Listed after(String name) throws EbbException;
  }

  private interface Shown<T> {
    List<T> of(Messages.Listed page) throws IOException;
  }

  /** What pages show, fetched when it is asked for. */
  private static final class Pages<T> implements RemoteIterator<T> {
    private final Path path;
    private final NextPage pages;
    private final Shown<T> shown;
    private final ArrayDeque<T> ready = new ArrayDeque<>();
    private String startAfter;

    Pages(Path path, List<T> all) {
      this.path = path;
      this.pages = null;
      this.shown = null;
      ready.addAll(all);
    }

    Pages(Path path, Messages.Listed first, NextPage pages, Shown<T> shown) throws IOException {
      this.path = path;
      this.pages = pages;
      this.shown = shown;
      ready.addAll(shown.of(first));
      startAfter = first.next();
    }

    @Override
    public boolean hasNext() throws IOException {
      while (ready.isEmpty() && startAfter != null) {
        try {
          Messages.Listed page = pages.after(startAfter);
          ready.addAll(shown.of(page));
          startAfter = page.next();
        } catch (EbbException e) {
          throw Errors.translate(e, path);
        }
      }
      return !ready.isEmpty();
    }

    @Override
    public T next() throws IOException {
      if (!hasNext()) throw new NoSuchElementException();
      return ready.poll();
    }
  }
}
