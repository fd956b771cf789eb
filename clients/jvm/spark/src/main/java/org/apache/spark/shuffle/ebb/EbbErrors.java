package org.apache.spark.shuffle.ebb;

/** Throws checked exceptions through signatures that Scala does not declare them in. */
final class EbbErrors {
  private EbbErrors() {}

  /** Never returns: written as `throw sneaky(e)`. */
  @SuppressWarnings("unchecked")
  static <T extends Throwable> RuntimeException sneaky(Throwable error) throws T {
    throw (T) error;
  }
}
