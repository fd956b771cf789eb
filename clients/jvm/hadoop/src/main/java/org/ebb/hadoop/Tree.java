package org.ebb.hadoop;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.ebb.client.EbbException;
import org.ebb.client.EbbNode;
import org.ebb.client.Messages;
import org.ebb.client.Messages.ObjectRef;
import org.ebb.client.Messages.ObjectRow;
import org.ebb.client.ObjectWriter;
import org.ebb.client.Session;

/**
 * A bucket as a tree. `a/b` is a file when there is an object of that key, and a directory when there is any object whose
 * key starts with `a/b/`; the empty object `a/b/` marks a directory in which there may be nothing. The key of the root is ''.
 *
 * <p>I1: a directory never vanishes because its last file was deleted or renamed: its marker is there before.
 * I2: a rename is one step of the catalog. What is renamed has a marker, so that two directories never become one: the
 * second meets the marker of the first.
 */
final class Tree {
  private static final int RENAME_TRIES = 3;

  private final EbbNode node;
  private final String bucket;
  private final ObjectWriter.Options markerOptions;

  Tree(EbbNode node, String bucket, ObjectWriter.Options writer) {
    this.node = node;
    this.bucket = bucket;
    this.markerOptions = new ObjectWriter.Options(1, writer.fullTimeoutMs(), writer.keepAliveMs(), writer.ack(), "application/x-directory");
  }

  /** What a path is. `marker` is null for a directory that is there only because of what is in it. */
  record Found(ObjectRow file, boolean isDirectory, ObjectRow marker, boolean hasChildren) {
    boolean exists() {
      return file != null || isDirectory;
    }
  }

  /** The answers in the order of the questions; a null row where there is no object. */
  record Looked(List<Found> paths, List<ObjectRow> objects) {}

  ObjectRef ref(String key) {
    return new ObjectRef(bucket, key);
  }

  /** The prefix of all that is in the directory. */
  static String dir(String key) {
    return key.isEmpty() ? "" : key + "/";
  }

  static String parent(String key) {
    int slash = key.lastIndexOf('/');
    return slash < 0 ? "" : key.substring(0, slash);
  }

  static List<String> ancestors(String key) {
    List<String> above = new ArrayList<>();
    for (String at = parent(key); !at.isEmpty(); at = parent(at)) above.add(at);
    return above;
  }

  Found find(String key) throws EbbException {
    return look(List.of(key), List.of()).paths.get(0);
  }

  /** Asks all at once: a round trip in all. */
  Looked look(List<String> paths, List<String> objects) throws EbbException {
    return node.retrying(session -> {
      List<CompletableFuture<ByteBuffer>> files = new ArrayList<>();
      List<CompletableFuture<ByteBuffer>> below = new ArrayList<>();
      List<CompletableFuture<ByteBuffer>> heads = new ArrayList<>();
      for (String key : paths) {
        files.add(key.isEmpty() ? null : session.headAsync(ref(key)));
        // The marker comes first; a second name is a child.
        below.add(session.listAsync(new Messages.ListRequest(bucket, dir(key), "", "", 2)));
      }
      for (String key : objects) heads.add(session.headAsync(ref(key)));
      List<Found> found = new ArrayList<>();
      for (int i = 0; i < paths.size(); i++) {
        ObjectRow file = files.get(i) == null ? null : row(session, files.get(i));
        List<ObjectRow> names = session.awaitList(below.get(i)).objects();
        boolean isRoot = paths.get(i).isEmpty();
        ObjectRow marker = !isRoot && !names.isEmpty() && names.get(0).key().equals(dir(paths.get(i))) ? names.get(0) : null;
        found.add(new Found(file, file == null && (isRoot || !names.isEmpty()), marker, names.size() > (marker == null ? 0 : 1)));
      }
      List<ObjectRow> rows = new ArrayList<>();
      for (CompletableFuture<ByteBuffer> head : heads) rows.add(row(session, head));
      return new Looked(found, rows);
    });
  }

  private static ObjectRow row(Session session, CompletableFuture<ByteBuffer> answer) throws EbbException {
    try {
      return session.awaitHead(answer);
    } catch (EbbException e) {
      if (e.is("not_found")) return null;
      throw e;
    }
  }

  Messages.Listed list(String prefix, String delimiter, String startAfter, int limit) throws EbbException {
    return node.retrying(session -> session.list(new Messages.ListRequest(bucket, prefix, delimiter, startAfter, limit)));
  }

  /** Sees to it that the directory is there whatever becomes of what is in it (I1). Returns the version of its marker. */
  long mark(String key) throws IOException {
    while (true) {
      try (ObjectWriter empty = new ObjectWriter(node, ref(dir(key)), markerOptions)) {
        empty.commit(Messages.Condition.ABSENT);
      } catch (EbbException e) {
        // After a lost answer there is the marker that the lost call made, or the next try makes it.
        if (!EbbNode.isNodeGone(e) && !e.is("already_exists")) throw e;
      }
      ObjectRow there = look(List.of(), List.of(dir(key))).objects.get(0);
      if (there != null) return there.version();
    }
  }

  private void keep(String directory) throws IOException {
    if (directory.isEmpty() || look(List.of(), List.of(dir(directory))).objects.get(0) != null) return;
    mark(directory);
  }

  /** False when it was gone already. Its directory stays. */
  boolean deleteFile(String key) throws IOException {
    keep(parent(key));
    boolean[] isRepeated = {false};
    return node.retrying(session -> {
      boolean mayBeGone = isRepeated[0]; // by a call whose answer was lost
      isRepeated[0] = true;
      return session.delete(ref(key)) || mayBeGone;
    });
  }

  /** With all that is in it, or, when it is empty, its marker alone: a file that comes meanwhile stays. */
  void deleteDirectory(String key, boolean recursive) throws IOException {
    keep(parent(key));
    node.retrying(session -> {
      if (recursive) session.deletePrefix(new Messages.PrefixRef(bucket, dir(key)));
      else session.delete(ref(dir(key)));
      return null;
    });
  }

  /**
   * Renames a file.
   *
   * @throws EbbException `not_found`, `already_exists`
   */
  void renameFile(ObjectRow file, String to, boolean overwrite) throws IOException {
    keepParent(file.key(), to);
    rename(new Messages.RenameRequest(bucket, file.key(), bucket, to, overwrite), to, file.version(), false);
  }

  /**
   * Renames a directory with all that is in it.
   *
   * @throws EbbException `already_exists`
   */
  void renameDirectory(String from, Found found, String to, boolean overwrite) throws IOException {
    long version = found.marker == null ? mark(from) : found.marker.version();
    keepParent(from, to);
    rename(new Messages.RenameRequest(bucket, dir(from), bucket, dir(to), overwrite), dir(to), version, true);
  }

  private void keepParent(String from, String to) throws IOException {
    if (!parent(from).equals(parent(to))) keep(parent(from)); // else the new name keeps it
  }

  /** When the answer is lost, what has the version under the new name tells whether it was done. */
  private void rename(Messages.RenameRequest request, String witness, long version, boolean isPrefix) throws EbbException {
    for (int left = RENAME_TRIES; ; left--) {
      try {
        Session session = node.retrying(live -> live);
        if (!isPrefix) session.rename(request);
        else if (session.renamePrefix(request).objects() == 0) throw new EbbException("not_found", "nothing under " + request.from());
        return;
      } catch (EbbException e) {
        boolean isRepeated = left < RENAME_TRIES;
        if (!EbbNode.isNodeGone(e) && !isRepeated) throw e;
        ObjectRow there = look(List.of(), List.of(witness)).objects.get(0);
        if (there != null && there.version() == version) return;
        if (!EbbNode.isNodeGone(e) || left == 1) throw e;
      }
    }
  }
}
