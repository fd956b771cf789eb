package org.ebb.client;

import java.io.IOException;
import java.nio.ByteBuffer;

/**
 * A staged write whose writer does not know its size: it is staged when room is first asked for, and extended from then on.
 *
 * <p>Where a tier is full, less is asked for; then tier 0 is left for tier 1, and the bytes so far go along; then the writer
 * waits, unless the node says that no wait makes room. One thread at a time.
 */
public final class GrowingFile {
  /** Most that is reserved ahead of the bytes that are there. */
  public static final long AHEAD_BYTES_MAX = 256L << 20;

  /** Whose write it is. */
  public interface Owner {
    StagedFile stage(long reserveBytes, int tier) throws EbbException;

    /** For one wait for room. */
    Patience patience();
  }

  private final Owner owner;
  private StagedFile file;

  public GrowingFile(Owner owner) {
    this.owner = owner;
  }

  /** Null before {@link #reserve}, and after {@link #abort} and {@link #forget}. */
  public StagedFile file() {
    return file;
  }

  /**
   * Makes room for `need` bytes in all, `wanted` where there is as much.
   *
   * @param written bytes that are in the file
   * @throws EbbException when no tier has had room for the bounded time, or no tier can ever hold as much.
   */
  public void reserve(long need, long wanted, long written) throws IOException {
    if (file == null) {
      file = stage(need, Math.max(need, wanted), Messages.TIER_BY_POLICY);
      return;
    }
    // The node makes room by itself for what comes through the connection.
    if (need <= file.reservedBytes() || !file.isLocal()) return;
    if (extend(need, Math.max(need, Math.min(wanted, need + AHEAD_BYTES_MAX)))) return;
    StagedFile below = stage(need, need + Math.min(need, AHEAD_BYTES_MAX), 1);
    try {
      file.copyTo(below, written);
    } catch (IOException | RuntimeException e) {
      below.abort();
      throw e;
    }
    file.abort();
    file = below;
  }

  /** Writes all that remains in `data`, which begins at `offset` of the file, within what was reserved. */
  public void write(ByteBuffer data, long offset) throws IOException {
    Patience patience = owner.patience();
    int from = data.position();
    while (true) {
      try {
        file.write(data, offset + data.position() - from);
        return;
      } catch (EbbException e) {
        if (!mayFitLater(e)) throw e;
        patience.wait(e);
      }
    }
  }

  /** Throws the staged bytes away. No effect where there are none. */
  public void abort() {
    if (file != null) file.abort();
    file = null;
  }

  /** After the commit: the bytes are the node's. */
  public void forget() {
    file = null;
  }

  /** Whether there was room; if not, tier 0 is to be left. */
  private boolean extend(long need, long wanted) throws EbbException {
    Patience patience = owner.patience();
    long bytes = wanted;
    while (true) {
      try {
        file.extend(bytes);
        return true;
      } catch (EbbException e) {
        if (e.is("tier_full") && bytes > need) bytes = need; // ask for less before moving
        else if (e.is("tier_full") && file.tier() == 0) return false;
        else if (mayFitLater(e)) patience.wait(e);
        else throw e;
      }
    }
  }

  private StagedFile stage(long need, long wanted, int tier) throws EbbException {
    Patience patience = owner.patience();
    long bytes = wanted;
    while (true) {
      try {
        return owner.stage(bytes, tier);
      } catch (EbbException e) {
        if (e.is("tier_full") && bytes > need) bytes = need;
        else if (mayFitLater(e)) patience.wait(e);
        else throw e;
      }
    }
  }

  private static boolean mayFitLater(EbbException e) {
    return (e.is("tier_full") || e.is("busy")) && e.retry != EbbException.Retry.NEVER;
  }
}
