package org.ebb.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What a node that is not to be trusted may name, and what comes of it. */
class LocalFilesTest {
  private static final String CHALLENGE = LocalFiles.newChallenge();
  private static final String BLOB = "b/07/7";

  @TempDir Path scratch;
  Path tier;
  Path victim;

  @BeforeEach
  void layOut() throws Exception {
    tier = Files.createDirectory(scratch.resolve("tier"));
    victim = Files.writeString(scratch.resolve("victim"), "the secret of another program");
  }

  private LocalFiles find(boolean isProved) throws Exception {
    if (isProved) Files.createFile(tier.resolve(".ebb-here-" + CHALLENGE));
    return LocalFiles.find(new Messages.HelloResponse(1, "n", 1, tier.toString(), tier.toString(), "", ""), CHALLENGE);
  }

  private void assertRefused(String path) throws Exception {
    LocalFiles files = find(true);
    assertNotNull(files);
    EbbException refused =
        assertThrows(EbbException.class, () -> files.open(0, path, StandardOpenOption.READ, StandardOpenOption.WRITE));
    assertEquals("io_failed", refused.code);
  }

  @Test
  void aNodeThatCannotMakeAFileHereIsOfAnotherHost() throws Exception {
    assertNull(find(false));
  }

  /** The daemon makes its directories so for its group: names there are its own alone to make. Root may write in it all the same. */
  @Test
  void aDirectoryThatOthersMayNotWriteInIsUsed() throws Exception {
    Files.createDirectories(tier.resolve("b/07"));
    Files.writeString(tier.resolve(BLOB), "hello");
    Files.createFile(tier.resolve(".ebb-here-" + CHALLENGE));
    Files.setPosixFilePermissions(tier, PosixFilePermissions.fromString("r-xr-x---"));
    assertNotNull(LocalFiles.find(new Messages.HelloResponse(1, "n", 1, tier.toString(), tier.toString(), "", ""), CHALLENGE));
    Files.setPosixFilePermissions(tier, PosixFilePermissions.fromString("rwxr-x---"));
  }

  @Test
  void aFileOfTheNodeIsOpened() throws Exception {
    Files.createDirectories(tier.resolve("b/07"));
    Files.writeString(tier.resolve(BLOB), "hello");
    LocalFiles files = find(true);
    assertNotNull(files);
    try (var file = files.open(0, BLOB, StandardOpenOption.READ)) {
      assertEquals(5, file.size());
    }
  }

  @Test
  void pathsThatLeadOutAreRefused() throws Exception {
    for (String path : new String[] {"../victim", victim.toString(), "b/07/../../../victim", "", "b/07/", "b/07/7/8"}) {
      LocalFiles files = find(Files.notExists(tier.resolve(".ebb-here-" + CHALLENGE)));
      assertNotNull(files);
      assertEquals("io_failed", assertThrows(EbbException.class, () -> files.path(0, path)).code, path);
    }
  }

  @Test
  void aLinkInPlaceOfAFileIsRefused() throws Exception {
    Files.createDirectories(tier.resolve("b/07"));
    Files.createSymbolicLink(tier.resolve(BLOB), victim);
    assertRefused(BLOB);
  }

  @Test
  void aLinkInPlaceOfADirectoryIsRefused() throws Exception {
    Files.createDirectories(tier.resolve("b"));
    Files.createLink(scratch.resolve("7"), victim);
    Files.createSymbolicLink(tier.resolve("b/07"), scratch);
    assertRefused(BLOB);
  }

  @Test
  void aDirectoryInPlaceOfAFileIsRefused() throws Exception {
    Files.createDirectories(tier.resolve(BLOB));
    assertRefused(BLOB);
  }
}
