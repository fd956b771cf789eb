package org.apache.spark.shuffle.ebb;

import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.shuffle.ShuffleHandle;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.shuffle.ShuffleReader;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.shuffle.sort.SortShuffleManager;

/**
 * `spark.shuffle.manager=org.apache.spark.shuffle.ebb.EbbShuffleManager`: Spark's shuffle through an Ebb node.
 *
 * <p>It extends SortShuffleManager for two reasons. Spark SQL copies each row before a shuffle unless the manager is one whose
 * writers it knows to serialize rows at once (ShuffleExchangeExec.needToCopyObjectsBeforeShuffle); ours do, under the same
 * conditions. And `spark.shuffle.ebb.fallback` is then simply the parent's behaviour.
 */
public final class EbbShuffleManager extends SortShuffleManager {
  /** What this Spark environment, which serves one life of a driver, shuffles with; null before its first shuffle. */
  private volatile EbbRuntime runtime;

  public EbbShuffleManager(SparkConf conf) {
    super(conf);
    // The driver's configuration is the application's: what is missing here is set before Spark reads it.
    if (!conf.contains(EbbSettings.IO_PLUGIN)) {
      conf.set(EbbSettings.IO_PLUGIN, EbbShuffleDataIO.class.getName());
    } else if (!conf.get(EbbSettings.IO_PLUGIN).equals(EbbShuffleDataIO.class.getName())) {
      throw new EbbRefusal(EbbSettings.IO_PLUGIN + " is " + conf.get(EbbSettings.IO_PLUGIN) + ": with the Ebb shuffle manager it must be "
          + EbbShuffleDataIO.class.getName() + " (or left out)");
    }
  }

  @Override
  public <K, V, C> ShuffleHandle registerShuffle(int shuffleId, ShuffleDependency<K, V, C> dependency) {
    EbbDriver driver = EbbDriver.of(SparkEnv.get().conf());
    // A shuffle without partitions (of an RDD without any) has nothing to store.
    if (driver.isFallback() || dependency.partitioner().numPartitions() == 0) return super.registerShuffle(shuffleId, dependency);
    dependency.setShuffleMergeAllowed(false); // nothing is pushed: map outputs lie on the node already
    driver.registerShuffle(shuffleId, dependency);
    EbbShuffleHandle<K, V, C> handle = new EbbShuffleHandle<>(shuffleId, dependency, driver.jobId());
    runtimeOf(handle);
    return handle;
  }

  private EbbRuntime runtimeOf(EbbShuffleHandle<?, ?, ?> handle) {
    EbbRuntime known = EbbRuntime.of(handle.jobId());
    if (runtime != known) runtime = known;
    return known;
  }

  @Override
  @SuppressWarnings("unchecked")
  public <K, V> ShuffleWriter<K, V> getWriter(ShuffleHandle handle, long mapId, TaskContext context, ShuffleWriteMetricsReporter metrics) {
    if (!(handle instanceof EbbShuffleHandle)) return super.getWriter(handle, mapId, context, metrics);
    EbbShuffleHandle<K, V, Object> ours = (EbbShuffleHandle<K, V, Object>) handle;
    ShuffleDependency<K, V, Object> dependency = ours.dependency();
    boolean serialized = dependency.serializer().supportsRelocationOfSerializedObjects()
        && !dependency.mapSideCombine()
        && dependency.partitioner().numPartitions() <= RecordSorter.PARTITIONS_MAX;
    return serialized
        ? new EbbSerializedWriter<>(runtimeOf(ours), ours, context, metrics)
        : new EbbSortedWriter<>(runtimeOf(ours), ours, mapId, context, metrics);
  }

  @Override
  @SuppressWarnings("unchecked")
  public <K, C> ShuffleReader<K, C> getReader(ShuffleHandle handle, int startMap, int endMap, int startPartition, int endPartition,
      TaskContext context, ShuffleReadMetricsReporter metrics) {
    if (!(handle instanceof EbbShuffleHandle)) {
      return super.getReader(handle, startMap, endMap, startPartition, endPartition, context, metrics);
    }
    EbbShuffleHandle<K, ?, C> ours = (EbbShuffleHandle<K, ?, C>) handle;
    return new EbbShuffleReader<>(runtimeOf(ours), ours, startMap, endMap, startPartition, endPartition, context, metrics);
  }

  @Override
  public boolean unregisterShuffle(int shuffleId) {
    EbbRuntime known = runtime;
    if (known != null) known.forget(shuffleId);
    return super.unregisterShuffle(shuffleId);
  }

  @Override
  public void stop() {
    EbbRuntime known = runtime;
    if (known != null) known.close();
    super.stop();
  }
}
