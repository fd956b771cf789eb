package org.apache.spark.shuffle.ebb;

import org.ebb.client.EbbException;

/** What several classes ask of errors. */
final class EbbErrors {
  private EbbErrors() {}

  /** Whether the node says that it does not know the job or its shuffle (any more): the driver opens them again. */
  static boolean isForgotten(EbbException e) {
    return e.is("job_not_found") || e.is("shuffle_not_found");
  }

  /** Throws a checked exception where Scala declares none. Never returns: written as `throw sneaky(e)`. */
  @SuppressWarnings("unchecked")
  static <T extends Throwable> RuntimeException sneaky(Throwable error) throws T {
    throw (T) error;
  }
}
