package org.apache.spark.shuffle.ebb;

import java.util.concurrent.atomic.AtomicReferenceFieldUpdater;

/** One attempt at one map, known to this executor; `open` while its bytes are at hand. Also the lock for opening it. */
final class MapOutput {
  final int shuffleId;
  final int mapIndex;
  final long attemptId;
  private static final AtomicReferenceFieldUpdater<MapOutput, OpenOutput> OPEN =
      AtomicReferenceFieldUpdater.newUpdater(MapOutput.class, OpenOutput.class, "open");
  volatile OpenOutput open;

  MapOutput(int shuffleId, int mapIndex, long attemptId) {
    this.shuffleId = shuffleId;
    this.mapIndex = mapIndex;
    this.attemptId = attemptId;
  }

  /** Whether `which` was open and now is not: its cache reference is the caller's to release. */
  boolean detach(OpenOutput which) {
    return OPEN.compareAndSet(this, which, null);
  }
}
