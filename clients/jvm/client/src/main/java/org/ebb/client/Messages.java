package org.ebb.client;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The calls this client speaks: packages/protocol/src/messages.ts in Java, encode and decode side by side. */
public final class Messages {
  private Messages() {}

  public static final int PROTOCOL_VERSION = 1;
  public static final int READ_BYTES_MAX = 8 * 1024 * 1024;
  public static final int TIER_BY_POLICY = 255;
  /** The epoch of attempts that do not contend: every one that commits stands, and the reader names those it reads. */
  public static final long EPOCH_NONE = 0xffff_ffffL;

  /** Op numbers are on the wire: keep stable. */
  public static final class Op {
    public static final int HELLO = 1;
    public static final int PROVE_HOST = 3;
    public static final int PING = 2;
    public static final int STAGE = 10;
    public static final int EXTEND = 11;
    public static final int WRITE = 12;
    public static final int COMMIT = 13;
    public static final int ABORT = 14;
    public static final int OPEN = 15;
    public static final int RELEASE = 16;
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
    public static final int HEAD = 60;
    public static final int LIST_OBJECTS = 61;
    public static final int DELETE_OBJECT = 62;
    public static final int DELETE_PREFIX = 63;
    public static final int RENAME = 64;
    public static final int RENAME_PREFIX = 65;
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

  /** The last two are always ''. The first clients found a file and its content there, both of the node's choice. */
  public record HelloResponse(
      int protocolVersion, String nodeId, long instanceId, String memoryDir, String diskDir, String probeName, String probeNonce) {
    public PayloadWriter encode() {
      return new PayloadWriter().u16(protocolVersion).str(nodeId).u64(instanceId).str(memoryDir).str(diskDir).str(probeName).str(probeNonce);
    }

    public static HelloResponse decode(PayloadReader from) throws EbbException {
      return new HelloResponse(from.u16(), from.str(), from.u64(), from.str(), from.str(), from.str(), from.str());
    }
  }

  /** The node makes an empty file named after the challenge in both directories; its answer says that it has tried. */
  public record ProveHostRequest(String challenge) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(challenge);
    }

    public static ProveHostRequest decode(PayloadReader from) throws EbbException {
      return new ProveHostRequest(from.str());
    }
  }

  public record StageRequest(String bucket, String key, long reserveBytes, int tier, String jobId) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(bucket).str(key).u64(reserveBytes).u8(tier).str(jobId);
    }

    public static StageRequest decode(PayloadReader from) throws EbbException {
      return new StageRequest(from.str(), from.str(), from.u64(), from.u8(), from.str());
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

  /** When a commit is acknowledged. */
  public enum Ack {
    MEMORY, DISK, REMOTE, BY_BUCKET;

    int code() {
      return this == BY_BUCKET ? 255 : ordinal();
    }

    static Ack of(int code) throws EbbException {
      if (code == 255) return BY_BUCKET;
      if (code >= BY_BUCKET.ordinal()) throw new EbbException("request_invalid", "no acknowledgement level " + code);
      return values()[code];
    }
  }

  /** What must hold of the object that the commit replaces: `ifMatch` its ETag ('' for no condition), `ifNoneMatch` that there is none. */
  public record Condition(String ifMatch, boolean ifNoneMatch) {
    public static final Condition NONE = new Condition("", false);
    public static final Condition ABSENT = new Condition("", true);
  }

  /** `crc32c` null: the node computes it. */
  public record CommitRequest(
      long writeId, long sizeBytes, Integer crc32c, Condition condition, Ack ack, String contentType, Map<String, String> metadata) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter().u64(writeId).u64(sizeBytes).bool(crc32c != null).u32(crc32c == null ? 0 : crc32c);
      to.str(condition.ifMatch).bool(condition.ifNoneMatch).u8(ack.code()).str(contentType).u32(metadata.size());
      metadata.forEach((name, value) -> to.str(name).str(value));
      return to;
    }

    public static CommitRequest decode(PayloadReader from) throws EbbException {
      long writeId = from.u64();
      long sizeBytes = from.u64();
      boolean hasCrc = from.bool();
      int crc = (int) from.u32();
      Condition condition = new Condition(from.str(), from.bool());
      Ack ack = Ack.of(from.u8());
      String contentType = from.str();
      int count = from.count();
      Map<String, String> metadata = new LinkedHashMap<>();
      for (int i = 0; i < count; i++) metadata.put(from.str(), from.str());
      return new CommitRequest(writeId, sizeBytes, hasCrc ? crc : null, condition, ack, contentType, metadata);
    }
  }

  /** `durability` is what holds now. */
  public record Committed(long version, String etag, Ack durability) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(version).str(etag).u8(durability.code());
    }

    public static Committed decode(PayloadReader from) throws EbbException {
      return new Committed(from.u64(), from.str(), Ack.of(from.u8()));
    }
  }

  /** Names an object: the request of `open` and `head`. */
  public record ObjectRef(String bucket, String key) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(bucket).str(key);
    }

    public static ObjectRef decode(PayloadReader from) throws EbbException {
      return new ObjectRef(from.str(), from.str());
    }
  }

  public record Opened(long leaseId, long version, String etag, long sizeBytes, List<Extent> extents) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter().u64(leaseId).u64(version).str(etag).u64(sizeBytes).u32(extents.size());
      for (Extent extent : extents) extent.encode(to);
      return to;
    }

    public static Opened decode(PayloadReader from) throws EbbException {
      long leaseId = from.u64();
      long version = from.u64();
      String etag = from.str();
      long sizeBytes = from.u64();
      int count = from.count();
      List<Extent> extents = new ArrayList<>();
      for (int i = 0; i < count; i++) extents.add(Extent.decode(from));
      return new Opened(leaseId, version, etag, sizeBytes, extents);
    }
  }

  /** An object as `head` and listings give it; `crc32c` is null where it is not known, `durability` is what holds now. */
  public record ObjectRow(String key, long version, long sizeBytes, String etag, Integer crc32c, long createdAtMs, Ack durability) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter();
      encode(to);
      return to;
    }

    void encode(PayloadWriter to) {
      to.str(key).u64(version).u64(sizeBytes).str(etag).bool(crc32c != null).u32(crc32c == null ? 0 : crc32c).u64(createdAtMs).u8(durability.code());
    }

    public static ObjectRow decode(PayloadReader from) throws EbbException {
      String key = from.str();
      long version = from.u64();
      long sizeBytes = from.u64();
      String etag = from.str();
      boolean hasCrc = from.bool();
      int crc = (int) from.u32();
      return new ObjectRow(key, version, sizeBytes, etag, hasCrc ? crc : null, from.u64(), Ack.of(from.u8()));
    }
  }

  public record ListRequest(String bucket, String prefix, String delimiter, String startAfter, int limit) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(bucket).str(prefix).str(delimiter).str(startAfter).u32(limit);
    }

    public static ListRequest decode(PayloadReader from) throws EbbException {
      return new ListRequest(from.str(), from.str(), from.str(), from.str(), from.count());
    }
  }

  /** A page; `next` is the `startAfter` of the following one, null at the end. */
  public record Listed(List<ObjectRow> objects, List<String> prefixes, String next) {
    public PayloadWriter encode() {
      PayloadWriter to = new PayloadWriter().u32(objects.size());
      for (ObjectRow row : objects) row.encode(to);
      to.u32(prefixes.size());
      for (String prefix : prefixes) to.str(prefix);
      return to.bool(next != null).str(next == null ? "" : next);
    }

    public static Listed decode(PayloadReader from) throws EbbException {
      List<ObjectRow> objects = new ArrayList<>();
      for (int left = from.count(); left > 0; left--) objects.add(ObjectRow.decode(from));
      List<String> prefixes = new ArrayList<>();
      for (int left = from.count(); left > 0; left--) prefixes.add(from.str());
      boolean hasNext = from.bool();
      String next = from.str();
      return new Listed(objects, prefixes, hasNext ? next : null);
    }
  }

  /** `ifMatch`: the ETag that the object must have now, '' for no condition. */
  public record DeleteRequest(String bucket, String key, String ifMatch) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(bucket).str(key).str(ifMatch);
    }

    public static DeleteRequest decode(PayloadReader from) throws EbbException {
      return new DeleteRequest(from.str(), from.str(), from.str());
    }
  }

  public record PrefixRef(String bucket, String prefix) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(bucket).str(prefix);
    }

    public static PrefixRef decode(PayloadReader from) throws EbbException {
      return new PrefixRef(from.str(), from.str());
    }
  }

  public record Affected(long objects, long sizeBytes) {
    public PayloadWriter encode() {
      return new PayloadWriter().u64(objects).u64(sizeBytes);
    }

    public static Affected decode(PayloadReader from) throws EbbException {
      return new Affected(from.u64(), from.u64());
    }
  }

  /** Of one object, or of all keys with a prefix. */
  public record RenameRequest(String bucket, String from, String toBucket, String to, boolean overwrite) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(bucket).str(from).str(toBucket).str(to).bool(overwrite);
    }

    public static RenameRequest decode(PayloadReader from) throws EbbException {
      return new RenameRequest(from.str(), from.str(), from.str(), from.str(), from.bool());
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

  /** `token` is chosen once by whoever begins the job, and shown by whoever comes back to it; null for none. */
  public record JobOpenRequest(String jobId, long heartbeatTtlMs, String label, String token) {
    public PayloadWriter encode() {
      return withToken(new PayloadWriter().str(jobId).u32(heartbeatTtlMs).str(label), token);
    }

    public static JobOpenRequest decode(PayloadReader from) throws EbbException {
      return new JobOpenRequest(from.str(), from.u32(), from.str(), tokenOf(from));
    }
  }

  /** With a token (not null), the job is meant only if it was opened under that one. */
  public record JobRef(String jobId, String token) {
    public PayloadWriter encode() {
      return withToken(new PayloadWriter().str(jobId), token);
    }

    public static JobRef decode(PayloadReader from) throws EbbException {
      return new JobRef(from.str(), tokenOf(from));
    }
  }

  private static PayloadWriter withToken(PayloadWriter to, String token) {
    return token == null ? to : to.str(token);
  }

  /** Earlier clients leave the field out. */
  private static String tokenOf(PayloadReader from) throws EbbException {
    return from.isAtEnd() ? null : from.str();
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

  public record MapStageRequest(String jobId, int shuffleId, int mapIndex, long attemptId, long epoch, long reserveBytes, int tier) {
    public PayloadWriter encode() {
      return new PayloadWriter().str(jobId).u32(shuffleId).u32(mapIndex).u64(attemptId).u32(epoch).u64(reserveBytes).u8(tier);
    }

    public static MapStageRequest decode(PayloadReader from) throws EbbException {
      return new MapStageRequest(from.str(), from.count(), from.count(), from.u64(), from.u32(), from.u64(), from.u8());
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
  public record MapOutputRow(int mapIndex, long attemptId, long epoch, boolean winner, int indexBytes, Extent location) {
    void encode(PayloadWriter to) {
      to.u32(mapIndex).u64(attemptId).u32(epoch).bool(winner).u32(indexBytes);
      location.encode(to);
    }

    static MapOutputRow decode(PayloadReader from) throws EbbException {
      return new MapOutputRow(from.count(), from.u64(), from.u32(), from.bool(), from.count(), Extent.decode(from));
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
