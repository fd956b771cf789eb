package org.apache.spark.shuffle.ebb;

import org.apache.spark.ShuffleDependency;
import org.apache.spark.shuffle.BaseShuffleHandle;

/**
 * Marks a shuffle that goes through Ebb. The driver decides, once: handles of any other class go to Spark's own shuffle. It also
 * brings executors the name of the driver's job on the node, which no other life of a driver has.
 */
public final class EbbShuffleHandle<K, V, C> extends BaseShuffleHandle<K, V, C> {
  private static final long serialVersionUID = 2L;
  private final String jobId;

  public EbbShuffleHandle(int shuffleId, ShuffleDependency<K, V, C> dependency, String jobId) {
    super(shuffleId, dependency);
    this.jobId = jobId;
  }

  String jobId() {
    return jobId;
  }
}
