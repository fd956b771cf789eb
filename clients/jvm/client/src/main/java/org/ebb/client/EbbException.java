package org.ebb.client;

import java.io.IOException;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** An operating error of the node or of the way to it. Branch on {@link #code} and {@link #retry}, never on the message. */
public final class EbbException extends IOException {
  /** NEVER: the same request fails again; SAFE: certainly not applied; AMBIGUOUS: may have been applied, look first. */
  public enum Retry { NEVER, SAFE, AMBIGUOUS }

  private static final Map<String, Retry> SPECIAL = Map.of(
      "tier_full", Retry.SAFE, "busy", Retry.SAFE, "draining", Retry.SAFE, "starting", Retry.SAFE,
      "io_failed", Retry.AMBIGUOUS, "node_unreachable", Retry.AMBIGUOUS, "aborted", Retry.AMBIGUOUS,
      "internal", Retry.AMBIGUOUS);
  private static final Pattern RETRY_AFTER = Pattern.compile("\"retryAfterMs\"\\s*:\\s*(\\d{1,9})");
  private static final Pattern NEVER_FITS = Pattern.compile("\"neverFits\"\\s*:\\s*true\\b");

  public final String code;
  /** The one of the code; NEVER where the details say that no wait makes room (`neverFits`). */
  public final Retry retry;
  /** JSON as the node sent it; "{}" when there is none. */
  public final String details;

  public EbbException(String code, String message, String details, Throwable cause) {
    super(code + ": " + message, cause);
    this.code = code;
    this.retry = NEVER_FITS.matcher(details).find() ? Retry.NEVER : SPECIAL.getOrDefault(code, Retry.NEVER);
    this.details = details;
  }

  public EbbException(String code, String message, Throwable cause) {
    this(code, message, "{}", cause);
  }

  public EbbException(String code, String message) {
    this(code, message, "{}", null);
  }

  public boolean is(String other) {
    return code.equals(other);
  }

  /** The time the node asks a client to wait, or `otherwise`. */
  public long retryAfterMs(long otherwise) {
    Matcher found = RETRY_AFTER.matcher(details);
    return found.find() ? Long.parseLong(found.group(1)) : otherwise;
  }
}
