package org.apache.spark.shuffle.ebb;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.spark.scheduler.MapStatus;
import org.ebb.client.EbbException;
import org.ebb.client.Messages.MapOutputRow;
import org.ebb.client.Messages.ReadRange;
import org.ebb.client.Messages.ShuffleTable;
import org.ebb.client.Session;

/**
 * What this executor knows of one shuffle: the node's table of map outputs, fetched once and refreshed by version, and the
 * map outputs it has opened. Which attempt is a map's output is Spark's word (MapStatus), never the table's.
 */
final class ShuffleReads {
  private static final int TRIES = 4;
  private static final int RESOLVE_BATCH = 64;
  /** As many as the node takes in one call. */
  private static final int RESOLVE_MAX = 65_536;
  private static final int AHEAD_MAX = 512;
  private static final int AHEAD_BYTES_MAX = 4 << 20;

  /** The attempts of one array of MapStatuses, in order; made once for each array. */
  record Table(MapStatus[] statuses, MapOutput[] outputs) {}

  private final EbbRuntime runtime;
  private final int shuffleId;
  private final ConcurrentHashMap<Long, MapOutput> outputs = new ConcurrentHashMap<>();
  private final Object refreshLock = new Object();
  private volatile Table table;
  // Guarded by refreshLock for change, by rowsLock for the rows that may be opened.
  private final ConcurrentHashMap<Long, MapOutputRow> rows = new ConcurrentHashMap<>();
  private volatile Session rowsOf;
  private long version;
  private volatile boolean closed;

  ShuffleReads(EbbRuntime runtime, int shuffleId) {
    this.runtime = runtime;
    this.shuffleId = shuffleId;
  }

  /** The map outputs that these statuses name. An entry is null where Spark has no status. */
  Table tableFor(MapStatus[] statuses) {
    Table now = table;
    if (now != null && sameOutputs(now.statuses, statuses)) return now;
    synchronized (refreshLock) {
      now = table;
      if (now != null && sameOutputs(now.statuses, statuses)) return now;
      MapOutput[] named = new MapOutput[statuses.length];
      Map<Long, MapOutput> kept = new HashMap<>();
      for (int i = 0; i < statuses.length; i++) {
        if (statuses[i] == null) continue;
        named[i] = output(i, statuses[i].mapId());
        kept.put(named[i].attemptId, named[i]);
      }
      for (MapOutput old : outputs.values()) {
        if (kept.containsKey(old.attemptId)) continue;
        outputs.remove(old.attemptId);
        OpenOutput open = old.open;
        if (open != null) runtime.outputs.drop(open);
      }
      Table made = new Table(statuses, named);
      table = made;
      return made;
    }
  }

  private MapOutput output(int mapIndex, long attemptId) {
    return outputs.computeIfAbsent(attemptId, id -> new MapOutput(shuffleId, mapIndex, id));
  }

  /** On executors the array is the tracker's and stays the same for an epoch; in local mode it is a copy of the live one. */
  private static boolean sameOutputs(MapStatus[] a, MapStatus[] b) {
    if (a == b) return true;
    if (a.length != b.length) return false;
    for (int i = 0; i < a.length; i++) if (a[i] != b[i]) return false;
    return true;
  }

  /** The map output, at hand and with a reference of the caller's. Costs no call once it is open. */
  OpenOutput acquire(MapOutput output) throws IOException {
    while (true) {
      OpenOutput open = output.open;
      if (open != null && open.session == runtime.node.liveSession() && open.session != null && open.tryAcquire()) return open;
      open(output);
    }
  }

  private void open(MapOutput output) throws IOException {
    synchronized (output) {
      runtime.node.retrying(session -> {
        try {
          openIn(session, output);
        } catch (EbbException e) {
          throw e;
        } catch (IOException e) {
          throw new EbbException("io_failed", "cannot open map output " + output.mapIndex + " of shuffle " + shuffleId + ": " + e, e);
        }
        return null;
      });
    }
  }

  /**
   * Opens map outputs from here on whose files this process cannot see: their index blocks come in few calls instead of one
   * each. Only a shortcut: what it does not open, {@link #acquire} does, and reports what is wrong with it.
   */
  void openAhead(MapOutput[] from, int first, int end) {
    Session session = runtime.node.liveSession();
    if (session == null || session.isLocal() || closed) return;
    try {
      openAhead(session, from, first, end);
    } catch (EbbException e) {
      // acquire meets it again
    }
  }

  private void openAhead(Session session, MapOutput[] from, int first, int end) throws EbbException {
    row(session, from[first], false); // the table
    List<MapOutput> wanted = new ArrayList<>();
    List<MapOutputRow> found = new ArrayList<>();
    List<ReadRange> ranges = new ArrayList<>();
    int bytes = 0;
    for (int i = first; i < end && wanted.size() < AHEAD_MAX; i++) {
      MapOutputRow row = from[i] == null || from[i].open != null ? null : rows.get(from[i].attemptId);
      if (row == null) continue;
      OpenOutput.checkRow(row);
      if (bytes + row.indexBytes() > AHEAD_BYTES_MAX) break;
      bytes += row.indexBytes();
      wanted.add(from[i]);
      found.add(row);
      ranges.add(new ReadRange(row.location().blobId(), row.location().offset() + row.location().length() - row.indexBytes(), row.indexBytes()));
    }
    if (wanted.size() < 2) return;
    ByteBuffer blocks = session.read(ranges);
    if (blocks.remaining() != bytes) throw new EbbException("length_mismatch", blocks.remaining() + " bytes came, " + bytes + " asked for");
    for (int i = 0; i < wanted.size(); i++) {
      byte[] index = new byte[found.get(i).indexBytes()];
      blocks.get(index);
      MapOutput output = wanted.get(i);
      synchronized (output) {
        if (output.open != null) continue;
        OpenOutput opened = OpenOutput.openRemote(output, found.get(i), session, index);
        runtime.outputs.add(opened);
        output.open = opened;
      }
    }
  }

  private void openIn(Session session, MapOutput output) throws IOException {
    if (closed) throw new EbbException("shuffle_not_found", "shuffle " + shuffleId + " was unregistered here");
    OpenOutput before = output.open;
    if (before != null && before.session == session) return;
    boolean moved = false;
    MapOutputRow missing = null;
    for (int tries = 0; tries < TRIES; tries++) {
      MapOutputRow row = row(session, output, moved);
      if (before != null && before.row.location().equals(row.location())) {
        before.session = session; // the same file, under a new lease
        return;
      }
      if (before != null) runtime.outputs.drop(before);
      before = null;
      try {
        OpenOutput opened;
        if (session.isLocal() && isLocal(row)) { // what no local tier has room for is read where it is
          runtime.outputs.rowsLock.readLock().lock();
          try {
            if (rows.get(output.attemptId) != row) continue; // revoked meanwhile
            opened = OpenOutput.openLocal(output, row, session, runtime.settings.mapping);
            output.open = opened;
            runtime.outputs.add(opened); // before the lock goes: a revoke must find it
          } finally {
            runtime.outputs.rowsLock.readLock().unlock();
          }
        } else {
          opened = OpenOutput.openRemote(output, row, session);
          runtime.outputs.add(opened);
          output.open = opened;
        }
        if (closed) runtime.outputs.drop(opened); // unregistered meanwhile, and close() did not see it
        return;
      } catch (NoSuchFileException e) {
        // The node names the place again where there is no file: it does not know of the loss yet.
        if (missing != null && missing.location().equals(row.location())) suspectMissing(session, output);
        missing = row;
        moved = true;
      } catch (EbbException e) {
        boolean again = e.is("not_found") || e.is("superseded") || ((e.is("data_corrupt") || e.is("data_lost")) && tries + 1 < TRIES);
        if (!again) throw e;
        // A recycled file under a row that is out of date looks corrupt: ask again before believing it.
        if (e.is("data_lost") || (e.is("data_corrupt") && moved)) suspectIn(session, output, output.attemptId);
        moved = true;
      }
    }
    throw new EbbException("data_lost", "map output " + output.mapIndex + " (attempt " + output.attemptId + ") of shuffle " + shuffleId
        + " moved " + TRIES + " times while it was being opened");
  }

  /** The row of an attempt: from the table, else from a fresh one, else from the node's word on this attempt. */
  private MapOutputRow row(Session session, MapOutput output, boolean moved) throws EbbException {
    synchronized (refreshLock) {
      if (rowsOf != session) {
        ShuffleTable all = session.shuffleTable(runtime.node.jobId(), shuffleId, 0);
        rows.clear();
        for (MapOutputRow row : all.rows()) rows.put(row.attemptId(), row);
        version = all.version();
        rowsOf = session;
      }
      MapOutputRow row = rows.get(output.attemptId);
      if (row == null) {
        ShuffleTable news = session.shuffleTable(runtime.node.jobId(), shuffleId, version);
        for (MapOutputRow changed : news.rows()) rows.put(changed.attemptId(), changed);
        version = news.version();
        row = rows.get(output.attemptId);
      }
      if (!moved && row != null && (!session.isLocal() || isLocal(row))) return row;
      List<MapOutputRow> found = session.mapResolve(runtime.node.jobId(), shuffleId, false, moved ? new long[] {output.attemptId} : alsoRemote(output));
      for (MapOutputRow changed : found) rows.put(changed.attemptId(), changed);
      for (MapOutputRow resolved : found) if (resolved.attemptId() == output.attemptId) return resolved;
      rows.remove(output.attemptId);
      throw new EbbException("not_found", "map output " + output.mapIndex + " (attempt " + output.attemptId + ") of shuffle " + shuffleId
          + " is not on node " + session.hello().nodeId());
    }
  }

  private static boolean isLocal(MapOutputRow row) {
    return row.location().tier() < 2 && !row.location().path().isEmpty();
  }

  /** This attempt, and the next ones that lie in tier 2 too: they are asked for soon, and one call brings them all. */
  private long[] alsoRemote(MapOutput output) {
    Table now = table;
    if (now == null) return new long[] {output.attemptId};
    long[] ids = new long[RESOLVE_BATCH];
    ids[0] = output.attemptId;
    int n = 1;
    for (int i = output.mapIndex + 1; i < now.outputs.length && n < RESOLVE_BATCH; i++) {
      if (now.outputs[i] == null) continue;
      MapOutputRow row = rows.get(now.outputs[i].attemptId);
      if (row != null && !isLocal(row)) ids[n++] = row.attemptId();
    }
    return Arrays.copyOf(ids, n);
  }

  /** A checksum did not match, or the bytes could not be found: the node verifies the blob. Afterwards the output is opened anew, or gone. */
  void suspect(MapOutput output) throws EbbException {
    OpenOutput open = output.open;
    if (open != null) runtime.outputs.drop(open);
    runtime.node.retrying(session -> {
      suspectIn(session, output, output.attemptId);
      return null;
    });
  }

  /**
   * A file is gone: files rarely go alone. Those of all other map outputs are looked for, and the node learns of everything that is
   * missing at once; a stage has few attempts, and each would find one.
   */
  private void suspectMissing(Session session, MapOutput output) throws EbbException {
    Table now = table;
    long[] ids = new long[now == null ? 1 : Math.min(RESOLVE_MAX, now.outputs.length + 1)];
    ids[0] = output.attemptId;
    int n = 1;
    for (int i = 0; now != null && i < now.outputs.length && n < ids.length; i++) {
      MapOutput other = now.outputs[i];
      MapOutputRow row = other == null || other == output ? null : rows.get(other.attemptId);
      if (row != null && isLocal(row) && !Files.exists(session.file(row.location().tier(), row.location().path()))) ids[n++] = row.attemptId();
    }
    suspectIn(session, output, Arrays.copyOf(ids, n));
  }

  /** @throws EbbException `data_lost` when this output is among those that the node finds broken. */
  private void suspectIn(Session session, MapOutput output, long... attemptIds) throws EbbException {
    List<MapOutputRow> found = session.mapResolve(runtime.node.jobId(), shuffleId, true, attemptIds);
    boolean isGood = false;
    synchronized (refreshLock) {
      for (long id : attemptIds) rows.remove(id);
      for (MapOutputRow row : found) {
        isGood |= row.attemptId() == output.attemptId;
        if (rowsOf == session) rows.put(row.attemptId(), row);
      }
    }
    if (!isGood) {
      throw new EbbException("data_lost", "the node dropped map output " + output.mapIndex + " (attempt " + output.attemptId + "): its bytes are broken or gone");
    }
  }

  void forgetBlobs(Set<Long> blobIds) {
    rows.values().removeIf(row -> blobIds.contains(row.location().blobId()));
  }

  void close() {
    closed = true;
    runtime.outputs.dropShuffle(shuffleId);
    outputs.clear();
    rows.clear();
    table = null;
    Session leased = rowsOf;
    if (leased != null && leased.isOpen()) leased.shuffleReleaseQuietly(runtime.node.jobId(), shuffleId);
  }
}
