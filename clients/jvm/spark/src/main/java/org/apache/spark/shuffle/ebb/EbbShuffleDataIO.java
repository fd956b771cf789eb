package org.apache.spark.shuffle.ebb;

import org.apache.spark.SparkConf;
import org.apache.spark.shuffle.api.ShuffleDataIO;
import org.apache.spark.shuffle.api.ShuffleDriverComponents;
import org.apache.spark.shuffle.api.ShuffleExecutorComponents;
import org.apache.spark.shuffle.sort.io.LocalDiskShuffleDataIO;

/** `spark.shuffle.sort.io.plugin.class`: gives Spark the driver's half. On executors it is met only by the fallback's writers. */
public final class EbbShuffleDataIO implements ShuffleDataIO {
  private final SparkConf conf;

  public EbbShuffleDataIO(SparkConf conf) {
    this.conf = conf;
  }

  @Override
  public ShuffleExecutorComponents executor() {
    return new LocalDiskShuffleDataIO(conf).executor();
  }

  @Override
  public ShuffleDriverComponents driver() {
    return new EbbDriver(conf);
  }
}
