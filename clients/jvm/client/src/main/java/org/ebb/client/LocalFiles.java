package org.ebb.client;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.OpenOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Pattern;

/**
 * Direct access to the node's files: for a client whose challenge the node answered under both directories.
 *
 * <p>I1 A directory is believed only when a file named after a secret of ours appears in it: a node on another host cannot make
 * one here, whatever it knows of this host's files.
 *
 * <p>I2 Only paths of the form that nodes give to blobs are opened, no link is followed, and a file is used only when it is a
 * plain file of the owner of that proof.
 *
 * <p>Java tells nothing of an open file, so what it is was looked at just before: the group of the node, which alone may write
 * in its directories, could change it in between.
 */
final class LocalFiles {
  private static final Pattern BLOB_PATH = Pattern.compile("b/[0-9a-f]{2}/[0-9a-f]{1,16}");
  private static final SecureRandom RANDOM = new SecureRandom();

  private record Place(Path directory, Object owner) {}

  private final Place[] places;
  /** Directories of blobs that were found to be the node's: at most 256 a place. */
  private final Set<Path> checked = ConcurrentHashMap.newKeySet();

  private LocalFiles(Place memory, Place disk) {
    this.places = new Place[] {memory, disk};
  }

  /** To be sent with `proveHost`, and known to nobody before. */
  static String newChallenge() {
    byte[] secret = new byte[16];
    RANDOM.nextBytes(secret);
    return HexFormat.of().formatHex(secret);
  }

  /** Null when this process does not see the files. */
  static LocalFiles find(Messages.HelloResponse hello, String challenge) {
    Place memory = place(hello.memoryDir(), challenge);
    Place disk = place(hello.diskDir(), challenge);
    return memory == null || disk == null ? null : new LocalFiles(memory, disk);
  }

  private static Place place(String directory, String challenge) {
    try {
      Path path = Path.of(directory);
      if (!path.isAbsolute()) return null;
      Map<String, Object> proof = look(path.resolve(".ebb-here-" + challenge));
      // Staged files are the group's to write; names are the node's alone to make.
      boolean isSeen = Files.isReadable(path) && Files.isExecutable(path);
      return isSeen && Boolean.TRUE.equals(proof.get("isRegularFile")) ? new Place(path, proof.get("uid")) : null;
    } catch (IOException | RuntimeException e) {
      return null; // not there, or not ours to see: the other way works
    }
  }

  private static Map<String, Object> look(Path path) throws IOException {
    return Files.readAttributes(path, "unix:isRegularFile,isDirectory,uid", LinkOption.NOFOLLOW_LINKS);
  }

  /** @throws EbbException `io_failed` for a path that no node gives. */
  Path path(int tier, String relative) throws EbbException {
    return place(tier, relative).directory().resolve(relative);
  }

  /** @throws NoSuchFileException when it is not there any more; EbbException `io_failed` for what is not a file of the node. */
  FileChannel open(int tier, String relative, StandardOpenOption... options) throws IOException {
    Place place = place(tier, relative);
    Path path = place.directory().resolve(relative);
    checkParents(place, path, relative);
    Map<String, Object> found = look(path);
    if (!Boolean.TRUE.equals(found.get("isRegularFile"))) throw notOwn(relative, "it is no plain file");
    if (!place.owner().equals(found.get("uid"))) {
      throw notOwn(relative, "it belongs to user " + found.get("uid") + ", the node is " + place.owner());
    }
    OpenOption[] all = new OpenOption[options.length + 1];
    System.arraycopy(options, 0, all, 0, options.length);
    all[options.length] = LinkOption.NOFOLLOW_LINKS;
    return FileChannel.open(path, all);
  }

  private Place place(int tier, String relative) throws EbbException {
    if (tier < 0 || tier > 1 || !BLOB_PATH.matcher(relative).matches()) throw notOwn(relative, "no node calls a file so");
    return places[tier];
  }

  private void checkParents(Place place, Path path, String relative) throws IOException {
    Path parent = path.getParent();
    if (checked.contains(parent)) return;
    for (Path directory : new Path[] {parent.getParent(), parent}) {
      Map<String, Object> found = look(directory);
      if (!Boolean.TRUE.equals(found.get("isDirectory")) || !place.owner().equals(found.get("uid"))) {
        throw notOwn(relative, directory + " is no directory of the node");
      }
    }
    checked.add(parent);
  }

  private static EbbException notOwn(String path, String why) {
    return new EbbException("io_failed", "the node named a file that is not its own: " + path + ": " + why);
  }
}
