package org.ebb.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.ebb.client.EbbException.Retry;
import org.junit.jupiter.api.Test;

class EbbExceptionTest {
  private static Retry retryOf(String details) {
    return new EbbException("tier_full", "no room", details, null).retry;
  }

  @Test
  void whatNoWaitMakesRoomForIsNeverTriedAgain() {
    assertEquals(Retry.NEVER, retryOf("{\"needBytes\":9,\"neverFits\":true}"));
    assertEquals(Retry.SAFE, retryOf("{\"needBytes\":9,\"neverFits\":false}"));
    assertEquals(Retry.SAFE, retryOf("{\"key\":\"\\\"neverFits\\\":true\"}"));
    assertEquals(Retry.SAFE, retryOf("{}"));
  }
}
