package org.apache.spark.shuffle.ebb;

/**
 * Why an application does not start: words for its user, and nothing else. Where it is printed (Spark's log, py4j's error in
 * PySpark) no class name stands before them, and no stack or cause after them, where people look first.
 */
final class EbbRefusal extends IllegalStateException {
  private static final long serialVersionUID = 1L;

  EbbRefusal(String message) {
    super(message);
  }

  @Override
  public String toString() {
    return getMessage();
  }

  /** The place in our code says nothing to whoever reads it. */
  @Override
  public synchronized Throwable fillInStackTrace() {
    return this;
  }
}
