package org.apache.spark.shuffle.ebb;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.ebb.client.EbbNode;
import org.ebb.client.Session;

/**
 * All map outputs that this process has open, bounded in number and bytes (a process may have 65,530 mappings), and the
 * answers to the node's wish to have blobs back.
 *
 * <p>`blobsReleased` is sent for a blob only when no mapping of it is left, and no row that names it can be opened any more:
 * opening looks at the rows under the read lock, revoking forgets them under the write lock.
 */
final class OpenOutputs implements EbbNode.Listener {
  private final EbbRuntime runtime;
  private final ConcurrentLinkedQueue<OpenOutput> byAge = new ConcurrentLinkedQueue<>();
  private final AtomicInteger count = new AtomicInteger();
  private final AtomicLong bytes = new AtomicLong();
  private final Map<Long, List<OpenOutput>> byBlob = new HashMap<>();
  final ReentrantReadWriteLock rowsLock = new ReentrantReadWriteLock();

  OpenOutputs(EbbRuntime runtime) {
    this.runtime = runtime;
  }

  int openCount() {
    return count.get();
  }

  void add(OpenOutput opened) {
    synchronized (byBlob) {
      byBlob.computeIfAbsent(opened.row.location().blobId(), id -> new ArrayList<>(1)).add(opened);
    }
    opened.whenClosed = () -> gone(opened);
    if (!opened.isLocal()) return;
    byAge.add(opened);
    count.incrementAndGet();
    bytes.addAndGet(opened.mappedBytes());
    while (count.get() > runtime.settings.mappingsMax || bytes.get() > runtime.settings.mappedBytesMax) {
      OpenOutput oldest = byAge.poll();
      if (oldest == null || oldest == opened) break;
      drop(oldest);
    }
  }

  /** Takes the cache's reference away; the mapping goes when its last reader is done. */
  void drop(OpenOutput open) {
    if (open.owner.detach(open)) open.release();
  }

  /** Also what a reader with old map statuses has opened again, which no table names any more. */
  void dropShuffle(int shuffleId) {
    List<OpenOutput> open = new ArrayList<>();
    synchronized (byBlob) {
      for (List<OpenOutput> same : byBlob.values()) for (OpenOutput output : same) if (output.owner.shuffleId == shuffleId) open.add(output);
    }
    for (OpenOutput output : open) drop(output);
  }

  private void gone(OpenOutput closed) {
    long blobId = closed.row.location().blobId();
    synchronized (byBlob) {
      List<OpenOutput> same = byBlob.get(blobId);
      if (same != null && same.remove(closed) && same.isEmpty()) byBlob.remove(blobId);
    }
    if (!closed.isLocal()) return;
    byAge.remove(closed);
    count.decrementAndGet();
    bytes.addAndGet(-closed.mappedBytes());
  }

  @Override
  public void onRevoke(Session session, long[] blobIds) {
    Set<Long> wanted = new HashSet<>();
    for (long id : blobIds) wanted.add(id);
    rowsLock.writeLock().lock();
    try {
      for (ShuffleReads reads : runtime.allReads()) reads.forgetBlobs(wanted);
    } finally {
      rowsLock.writeLock().unlock();
    }
    List<Long> free = new ArrayList<>();
    for (long id : blobIds) {
      List<OpenOutput> users;
      synchronized (byBlob) {
        users = new ArrayList<>(byBlob.getOrDefault(id, List.of()));
      }
      AtomicInteger left = new AtomicInteger(users.size() + 1);
      Runnable oneLess = () -> {
        if (left.decrementAndGet() == 0) session.blobsReleased(new long[] {id});
      };
      for (OpenOutput user : users) {
        // Our own reference makes the order certain: whenClosed is replaced before the last one can go.
        if (!user.tryAcquire()) {
          left.decrementAndGet();
          continue;
        }
        Runnable before = user.whenClosed;
        user.whenClosed = () -> {
          if (before != null) before.run();
          oneLess.run();
        };
        drop(user);
        user.release();
      }
      if (left.get() == 1) free.add(id);
      else oneLess.run();
    }
    if (!free.isEmpty()) session.blobsReleased(free.stream().mapToLong(Long::longValue).toArray());
  }

  /** Leases went with the session: what is open must be looked up again before it is used (ShuffleReads does). */
  @Override
  public void onSessionLost(Session session) {}
}
