package org.ebb.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.ByteBuffer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a write does that the node says can never fit. Its patience is longer than the test may take. */
@Timeout(30)
class GrowingFileTest {
  private static final long PATIENCE_MS = 600_000;
  FakeNode fake;
  EbbNode node;
  GrowingFile growing;

  @BeforeEach
  void start() throws Exception {
    fake = FakeNode.start();
    fake.refusalDetails = "{\"neverFits\":true}";
    node = new EbbNode(fake.url(), "test", "job", new EbbNode.Options(500, 5000, 600, true));
    node.retrying(session -> {
      session.shuffleRegister("job", 1, 1, 1);
      return null;
    });
    growing = new GrowingFile(new GrowingFile.Owner() {
      @Override
      public StagedFile stage(long reserveBytes, int tier) throws EbbException {
        Messages.MapStageRequest request = new Messages.MapStageRequest("job", 1, 0, 0, Messages.EPOCH_NONE, reserveBytes, tier);
        return node.retrying(session -> new StagedFile(session, session.mapStage(request)));
      }

      @Override
      public Patience patience() {
        return new Patience(PATIENCE_MS, () -> "no room in time");
      }
    });
  }

  @AfterEach
  void stop() throws Exception {
    growing.abort();
    node.close();
    fake.close();
  }

  private void assertNeverFits(long need) {
    EbbException refused = assertThrows(EbbException.class, () -> growing.reserve(need, 2 * need, 0));
    assertEquals("tier_full", refused.code);
    assertEquals(EbbException.Retry.NEVER, refused.retry);
  }

  @Test
  void roomThatNeverComesIsNotWaitedFor() {
    fake.refuseStages = 100;
    assertNeverFits(1000);
    assertEquals(98, fake.refuseStages); // for what was wanted, and for what is needed
  }

  @Test
  void aWriteThatNeverFitsInMemoryGoesOnOnDisk() throws Exception {
    growing.reserve(10, 10, 0);
    assertEquals(0, growing.file().tier());
    growing.write(ByteBuffer.wrap(new byte[10]), 0);
    fake.refuseExtends = 100;
    growing.reserve(1000, 2000, 10);
    assertEquals(1, growing.file().tier());
    // The disk is the last tier there is.
    assertNeverFits(500_000_000);
  }
}
