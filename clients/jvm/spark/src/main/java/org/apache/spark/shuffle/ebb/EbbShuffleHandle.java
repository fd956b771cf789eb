package org.apache.spark.shuffle.ebb;

import org.apache.spark.ShuffleDependency;
import org.apache.spark.shuffle.BaseShuffleHandle;

/** Marks a shuffle that goes through Ebb. The driver decides, once: handles of any other class go to Spark's own shuffle. */
public final class EbbShuffleHandle<K, V, C> extends BaseShuffleHandle<K, V, C> {
  private static final long serialVersionUID = 1L;

  public EbbShuffleHandle(int shuffleId, ShuffleDependency<K, V, C> dependency) {
    super(shuffleId, dependency);
  }
}
