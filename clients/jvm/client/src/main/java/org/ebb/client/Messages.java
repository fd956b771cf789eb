package org.ebb.client;

import java.util.ArrayList;
import java.util.List;

/** The calls this client speaks: packages/protocol/src/messages.ts in Java, encode and decode side by side. */
public final class Messages {
  private Messages() {}

  public static final int PROTOCOL_VERSION = 1;
  public static final int READ_BYTES_MAX = 8 * 1024 * 1024;
  public static final int TIER_BY_POLICY = 255;

  /** Op numbers are on the wire: keep stable. */
  public static final class Op {
    public static final int HELLO = 1;
    public static final int PING = 2;
    public static final int EXTEND = 11;
    public static final int WRITE = 12;
    public static final int ABORT = 14;
    public static final int READ = 17;
    public static final int JOB_OPEN = 20;
    public static final int JOB_HEARTBEAT = 21;
    public static final int JOB_END = 22;
    public static final int SHUFFLE_REGISTER = 30;
    public static final int MAP_STAGE = 31;
    public static final int MAP_COMMIT = 32;
    public static final int SHUFFLE_TABLE = 33;
    public static final int SHUFFLE_RELEASE = 34;
    public static final int SHUFFLE_REMOVE = 35;
    public static final int MAP_RESOLVE = 36;
    public static final int REVOKE = 90;
    public static final int BLOBS_RELEASED = 91;
    public static final int GOING_AWAY = 92;

    private Op() {}
  }

  public static EbbException decodeError(PayloadReader from) throws EbbException {
    String code = from.str();
    String message = from.str();
    return new EbbException(code, message, from.str(), null);
  }

  public record HelloRequest(int protocolVersion, String client, String jobId) {
    public PayloadWriter encode() {
      return new PayloadWriter().u16(protocolVersion).str(client).str(jobId);
    }

    public static HelloRequest decode(PayloadReader from) throws EbbException {
      return new HelloRequest(from.u16(), from.str(), from.str());
    }
  }

  public record HelloResponse(
      int protocolVersion, String nodeId, long instanceId, String memoryDir, String diskDir, String probeName, String probeNonce) {
    public PayloadWriter encode() {
      return new PayloadWriter().u16(protocolVersion).str(nodeId).u64(instanceId).str(memoryDir).str(diskDir).str(probeName).str(probeNonce);
    }

    public static HelloResponse decode(PayloadReader from) throws EbbException {
      return new HelloResponse(from.u16(), from.str(), from.u64(), from.str(), from.str(), from.str(), from.str());
    }
  }

  /** The file exists; write it from offset 0, within `reservedBytes`. `path` is relative to the tier's directory. */
  public record Staged(long writeId, long blobId, int tier, String path, long reservedBytes, long slotId) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(writeId).u64(blobId).u8(tier).str(path).u64(reservedBytes).u64(slotId);
    }

    public static Staged decode(PayloadReader from) throws EbbException {
      return new Staged(from.u64(), from.u64(), tierOf(from), from.str(), from.u64(), from.u64());
    }
  }

  public record ExtendRequest(long writeId, long reserveBytes) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(writeId).u64(reserveBytes);
    }

    public static ExtendRequest decode(PayloadReader from) throws EbbException {
      return new ExtendRequest(from.u64(), from.u64());
    }
  }

  public record ReadRange(long blobId, long offset, int length) {}

  public record ReadRequest(List<ReadRange> ranges) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter(4 + ranges.size() * 20).u32(ranges.size());
      for (ReadRange range : ranges) to.u64(range.blobId).u64(range.offset).u32(range.length);
      return to;
    }

    public static ReadRequest decode(PayloadReader from) throws EbbException {
      int count = from.count();
      List<ReadRange> ranges = new ArrayList<>();
      for (int i = 0; i < count; i++) ranges.add(new ReadRange(from.u64(), from.u64(), from.count()));
      return new ReadRequest(ranges);
    }
  }

  public record JobOpenRequest(String jobId, long heartbeatTtlMs, String label) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId).u32(heartbeatTtlMs).str(label);
    }

    public static JobOpenRequest decode(PayloadReader from) throws EbbException {
      return new JobOpenRequest(from.str(), from.u32(), from.str());
    }
  }

  public record JobRef(String jobId) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId);
    }

    public static JobRef decode(PayloadReader from) throws EbbException {
      return new JobRef(from.str());
    }
  }

  public record JobEnded(long objects, long freedBytes) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(objects).u64(freedBytes);
    }

    public static JobEnded decode(PayloadReader from) throws EbbException {
      return new JobEnded(from.u64(), from.u64());
    }
  }

  public record ShuffleRef(String jobId, int shuffleId) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId).u32(shuffleId);
    }

    public static ShuffleRef decode(PayloadReader from) throws EbbException {
      return new ShuffleRef(from.str(), from.count());
    }
  }

  public record ShuffleRegisterRequest(String jobId, int shuffleId, int maps, int partitions) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId).u32(shuffleId).u32(maps).u32(partitions);
    }

    public static ShuffleRegisterRequest decode(PayloadReader from) throws EbbException {
      return new ShuffleRegisterRequest(from.str(), from.count(), from.count(), from.count());
    }
  }

  public record MapStageRequest(String jobId, int shuffleId, int mapIndex, long attemptId, int epoch, long reserveBytes, int tier) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId).u32(shuffleId).u32(mapIndex).u64(attemptId).u32(epoch).u64(reserveBytes).u8(tier);
    }

    public static MapStageRequest decode(PayloadReader from) throws EbbException {
      return new MapStageRequest(from.str(), from.count(), from.count(), from.u64(), from.count(), from.u64(), from.u8());
    }
  }

  public record MapCommitRequest(long writeId, long sizeBytes, int crc32c, int indexBytes) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(writeId).u64(sizeBytes).u32(crc32c).u32(indexBytes);
    }

    public static MapCommitRequest decode(PayloadReader from) throws EbbException {
      return new MapCommitRequest(from.u64(), from.u64(), (int) from.u32(), from.count());
    }
  }

  /** `path` is relative to the tier's directory, '' where the bytes are in tier 2. */
  public record Extent(int tier, long blobId, String path, long offset, long length) {
    void encode(PayloadWriter to) {
      to.u8(tier).u64(blobId).str(path).u64(offset).u64(length);
    }

    static Extent decode(PayloadReader from) throws EbbException {
      return new Extent(tierOf(from), from.u64(), from.str(), from.u64(), from.u64());
    }
  }

  /** One committed map output: data, then the index block of `indexBytes`. */
  public record MapOutputRow(int mapIndex, long attemptId, int epoch, boolean winner, int indexBytes, Extent location) {
    void encode(PayloadWriter to) {
      to.u32(mapIndex).u64(attemptId).u32(epoch).bool(winner).u32(indexBytes);
      location.encode(to);
    }

    static MapOutputRow decode(PayloadReader from) throws EbbException {
      return new MapOutputRow(from.count(), from.u64(), from.count(), from.bool(), from.count(), Extent.decode(from));
    }
  }

  private static List<MapOutputRow> rows(PayloadReader from) throws EbbException {
    int count = from.count();
    List<MapOutputRow> rows = new ArrayList<>();
    for (int i = 0; i < count; i++) rows.add(MapOutputRow.decode(from));
    return rows;
  }

  private static void encodeRows(PayloadWriter to, List<MapOutputRow> rows) {
    to.u32(rows.size());
    for (MapOutputRow row : rows) row.encode(to);
  }

  public record MapCommitResponse(boolean won, MapOutputRow winner) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter().bool(won);
      winner.encode(to);
      return to;
    }

    public static MapCommitResponse decode(PayloadReader from) throws EbbException {
      return new MapCommitResponse(from.bool(), MapOutputRow.decode(from));
    }
  }

  public record ShuffleTableRequest(String jobId, int shuffleId, long sinceVersion) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId).u32(shuffleId).u64(sinceVersion);
    }

    public static ShuffleTableRequest decode(PayloadReader from) throws EbbException {
      return new ShuffleTableRequest(from.str(), from.count(), from.u64());
    }
  }

  public record ShuffleTable(long version, int maps, int partitions, List<MapOutputRow> rows) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter().u64(version).u32(maps).u32(partitions);
      encodeRows(to, rows);
      return to;
    }

    public static ShuffleTable decode(PayloadReader from) throws EbbException {
      return new ShuffleTable(from.u64(), from.count(), from.count(), Messages.rows(from));
    }
  }

  public record ShuffleRemoved(long freedBytes) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(freedBytes);
    }

    public static ShuffleRemoved decode(PayloadReader from) throws EbbException {
      return new ShuffleRemoved(from.u64());
    }
  }

  public record MapResolveRequest(String jobId, int shuffleId, boolean suspect, long[] attemptIds) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter().str(jobId).u32(shuffleId).bool(suspect).u32(attemptIds.length);
      for (long id : attemptIds) to.u64(id);
      return to;
    }

    public static MapResolveRequest decode(PayloadReader from) throws EbbException {
      String jobId = from.str();
      int shuffleId = from.count();
      boolean suspect = from.bool();
      return new MapResolveRequest(jobId, shuffleId, suspect, ids(from));
    }
  }

  public record MapResolveResponse(List<MapOutputRow> rows) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter();
      encodeRows(to, rows);
      return to;
    }

    public static MapResolveResponse decode(PayloadReader from) throws EbbException {
      return new MapResolveResponse(Messages.rows(from));
    }
  }

  /** `revoke` and `blobsReleased`. */
  public record BlobIds(long[] blobIds) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter(4 + blobIds.length * 8).u32(blobIds.length);
      for (long id : blobIds) to.u64(id);
      return to;
    }

    public static BlobIds decode(PayloadReader from) throws EbbException {
      return new BlobIds(ids(from));
    }
  }

  private static long[] ids(PayloadReader from) throws EbbException {
    int count = from.count();
    if (count > 4_000_000) throw new EbbException("request_invalid", count + " ids in one frame");
    long[] ids = new long[count];
    for (int i = 0; i < count; i++) ids[i] = from.u64();
    return ids;
  }

  private static int tierOf(PayloadReader from) throws EbbException {
    int tier = from.u8();
    if (tier > 2) throw new EbbException("request_invalid", "no tier " + tier);
    return tier;
  }
}
