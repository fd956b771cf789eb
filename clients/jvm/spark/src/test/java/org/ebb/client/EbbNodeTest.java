package org.ebb.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** How long callers wait for a node that went away. */
@Timeout(30)
class EbbNodeTest {
  private static final int RECONNECT_MS = 600;
  FakeNode fake;
  EbbNode node;

  @BeforeEach
  void start() throws Exception {
    fake = FakeNode.start();
    node = new EbbNode(fake.url(), "test", "job", new EbbNode.Options(500, 5000, RECONNECT_MS, true));
    ping();
  }

  @AfterEach
  void stop() throws Exception {
    node.close();
    fake.close();
  }

  void ping() throws EbbException {
    node.retrying(session -> {
      session.ping();
      return null;
    });
  }

  long failingPingMs() {
    long start = System.nanoTime();
    assertEquals("node_unreachable", assertThrows(EbbException.class, this::ping).code);
    return (System.nanoTime() - start) / 1_000_000;
  }

  @Test
  void callersThatComeAfterOneAnotherDoNotWaitTheWholeTimeEach() throws Exception {
    fake.stop();
    assertTrue(failingPingMs() >= RECONNECT_MS / 2);
    assertTrue(failingPingMs() < RECONNECT_MS / 2, "it is known that the node is gone");
  }

  @Test
  void aLossThatNobodyLookedAtForLongIsWaitedForAnew() throws Exception {
    fake.stop();
    failingPingMs();
    Thread.sleep(2 * RECONNECT_MS); // time itself is what is tested
    Thread comesBack = new Thread(() -> {
      try {
        Thread.sleep(RECONNECT_MS / 4);
        fake.restart();
      } catch (Exception e) {
        throw new IllegalStateException(e);
      }
    });
    comesBack.start();
    ping();
    comesBack.join();
  }
}
