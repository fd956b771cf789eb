package org.ebb.client;

import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** Waits as the node says, for a bounded time in all. */
public final class Patience {
  private static final long RETRY_MS = 200;
  private static final long WAIT_MS_MIN = 10;
  private static final long WAIT_MS_MAX = 10_000;

  private final long deadline;
  private final Supplier<String> complaint;

  /** `complaint`: what to say when the time is up. */
  public Patience(long timeoutMs, Supplier<String> complaint) {
    this.deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(timeoutMs);
    this.complaint = complaint;
  }

  /** @throws EbbException with the code of the refusal when the time is up; `aborted` when the thread is interrupted. */
  public void wait(EbbException refusal) throws EbbException {
    long ms = Math.max(WAIT_MS_MIN, Math.min(refusal.retryAfterMs(RETRY_MS), WAIT_MS_MAX));
    if (System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(ms) > deadline) throw new EbbException(refusal.code, complaint.get(), refusal);
    EbbNode.sleep(ms);
  }
}
