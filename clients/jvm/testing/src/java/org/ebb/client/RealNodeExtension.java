package org.ebb.client;

import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.extension.AfterAllCallback;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeAllCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;

/**
 * A {@link RealNode} for the tests of a class: in a static field one for all of them, else a fresh one for each. They are
 * skipped, and say so, where the daemon cannot be run.
 */
public final class RealNodeExtension implements BeforeAllCallback, AfterAllCallback, BeforeEachCallback, AfterEachCallback {
  private final String memoryLimit;
  private final String[] flags;
  private RealNode node;
  private boolean isForAll;

  public RealNodeExtension(String memoryLimit, String... flags) {
    this.memoryLimit = memoryLimit;
    this.flags = flags;
  }

  /** For tests that start their nodes themselves. */
  public static void assumeThere() {
    Assumptions.assumeTrue(RealNode.repository() != null, "the daemon cannot be run from here: npm packages are missing, or no checkout");
  }

  public RealNode node() {
    return node;
  }

  @Override
  public void beforeAll(ExtensionContext context) throws Exception {
    isForAll = true;
    start();
  }

  @Override
  public void beforeEach(ExtensionContext context) throws Exception {
    if (!isForAll) start();
  }

  @Override
  public void afterEach(ExtensionContext context) throws Exception {
    if (!isForAll) stop();
  }

  @Override
  public void afterAll(ExtensionContext context) throws Exception {
    stop();
  }

  private void start() throws Exception {
    assumeThere();
    node = RealNode.start(memoryLimit, flags);
  }

  private void stop() throws Exception {
    if (node != null) node.close();
    node = null;
  }
}
