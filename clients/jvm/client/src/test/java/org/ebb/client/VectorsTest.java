package org.ebb.client;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.zip.CRC32C;
import org.ebb.client.Messages.Extent;
import org.ebb.client.Messages.MapOutputRow;
import org.junit.jupiter.api.Test;

/** The golden vectors of packages/protocol: every message this client speaks, both ways; index blocks; chunks. */
class VectorsTest {
  private static final HexFormat HEX = HexFormat.of();
  /** Calls of open files and of directories, which this client does not make. */
  private static final Set<String> NOT_SPOKEN = Set.of("fileOpen.request", "fileOpen.response", "fileStage.request", "fileStage.response",
      "fileSync.request", "fileSync.response", "fileClose.request", "fileClose.response", "fileAbort.request", "directoryMake.request",
      "directoryRemove.request");

  private static JsonNode vectors(String name) throws IOException {
    Path at = Path.of("").toAbsolutePath();
    while (at != null && !Files.exists(at.resolve("packages/protocol/vectors"))) at = at.getParent();
    return new ObjectMapper().readTree(at.resolve("packages/protocol/vectors").resolve(name).toFile());
  }

  private static byte[] hex(JsonNode node) {
    return HEX.parseHex(node.asText());
  }

  /** Decodes the payload and encodes it again; the record's fields are compared with the vector's by name. */
  private static PayloadWriter again(String name, PayloadReader in, JsonNode m) throws EbbException {
    return switch (name) {
      case "hello.request" -> same(m, Messages.HelloRequest.decode(in)).encode();
      case "hello.response" -> same(m, Messages.HelloResponse.decode(in)).encode();
      case "proveHost.request" -> same(m, Messages.ProveHostRequest.decode(in)).encode();
      case "stage.request" -> same(m, Messages.StageRequest.decode(in)).encode();
      case "commit.request" -> commit(m, Messages.CommitRequest.decode(in)).encode();
      case "commit.response" -> Messages.Committed.decode(in).encode();
      case "open.request", "head.request" -> same(m, Messages.ObjectRef.decode(in)).encode();
      case "open.response" -> {
        var decoded = Messages.Opened.decode(in);
        assertEquals(m.get("etag").asText(), decoded.etag());
        assertEquals(m.get("extents").size(), decoded.extents().size());
        yield decoded.encode();
      }
      case "release.request" -> Messages.BlobIds.decode(in).encode(); // the same layout: a list of numbers
      case "head.response", "rename.response" -> objectRow(m, Messages.ObjectRow.decode(in)).encode();
      case "listObjects.request" -> same(m, Messages.ListRequest.decode(in)).encode();
      case "listObjects.response" -> {
        var decoded = Messages.Listed.decode(in);
        for (int i = 0; i < decoded.objects().size(); i++) objectRow(m.get("objects").get(i), decoded.objects().get(i));
        assertEquals(m.get("prefixes").get(1).asText(), decoded.prefixes().get(1));
        assertEquals(m.get("next").textValue(), decoded.next());
        yield decoded.encode();
      }
      case "deleteObject.request" -> same(m, Messages.DeleteRequest.decode(in)).encode();
      case "deleteObject.response" -> new PayloadWriter().bool(in.bool());
      case "deletePrefix.request" -> same(m, Messages.PrefixRef.decode(in)).encode();
      case "deletePrefix.response", "renamePrefix.response" -> same(m, Messages.Affected.decode(in)).encode();
      case "rename.request", "renamePrefix.request" -> same(m, Messages.RenameRequest.decode(in)).encode();
      case "stage.response", "mapStage.response" -> same(m, Messages.Staged.decode(in)).encode();
      case "extend.request" -> same(m, Messages.ExtendRequest.decode(in)).encode();
      case "extend.response" -> new PayloadWriter().u64(in.u64());
      case "write.request" -> new PayloadWriter().u64(in.u64()).u64(in.u64()).bytes(array(in.bytes()));
      case "abort.request" -> new PayloadWriter().u64(in.u64());
      case "read.request" -> Messages.ReadRequest.decode(in).encode();
      case "read.response" -> new PayloadWriter().bytes(array(in.bytes()));
      case "jobOpen.request" -> same(m, Messages.JobOpenRequest.decode(in)).encode();
      case "jobHeartbeat.request", "jobEnd.request" -> same(m, Messages.JobRef.decode(in)).encode();
      case "jobEnd.response" -> same(m, Messages.JobEnded.decode(in)).encode();
      case "shuffleRegister.request" -> same(m, Messages.ShuffleRegisterRequest.decode(in)).encode();
      case "mapStage.request" -> same(m, Messages.MapStageRequest.decode(in)).encode();
      case "mapCommit.request" -> Messages.MapCommitRequest.decode(in).encode();
      case "mapCommit.response" -> {
        var decoded = Messages.MapCommitResponse.decode(in);
        assertEquals(m.get("won").asBoolean(), decoded.won());
        assertEquals(row(m.get("winner")), decoded.winner());
        yield decoded.encode();
      }
      case "shuffleTable.request" -> same(m, Messages.ShuffleTableRequest.decode(in)).encode();
      case "shuffleTable.response" -> {
        var decoded = Messages.ShuffleTable.decode(in);
        assertEquals(rows(m.get("rows")), decoded.rows());
        assertEquals(m.get("version").asLong(), decoded.version());
        yield decoded.encode();
      }
      case "shuffleRelease.request", "shuffleRemove.request" -> same(m, Messages.ShuffleRef.decode(in)).encode();
      case "shuffleRemove.response" -> same(m, Messages.ShuffleRemoved.decode(in)).encode();
      case "mapResolve.request" -> Messages.MapResolveRequest.decode(in).encode();
      case "mapResolve.response" -> {
        var decoded = Messages.MapResolveResponse.decode(in);
        assertEquals(rows(m.get("rows")), decoded.rows());
        yield decoded.encode();
      }
      case "revoke.push", "blobsReleased.request" -> Messages.BlobIds.decode(in).encode();
      case "goingAway.push" -> new PayloadWriter().str(in.str());
      default -> {
        assertTrue(m.isEmpty(), "a message unknown here: " + name);
        yield new PayloadWriter();
      }
    };
  }

  private static Messages.ObjectRow objectRow(JsonNode m, Messages.ObjectRow row) {
    JsonNode crc = m.get("crc32c");
    assertEquals(new Messages.ObjectRow(m.get("key").asText(), m.get("version").asLong(), m.get("sizeBytes").asLong(), m.get("etag").asText(),
        crc.isNull() ? null : (int) crc.asLong(), m.get("createdAtMs").asLong(),
        Messages.Ack.valueOf(m.get("durability").asText().toUpperCase(java.util.Locale.ROOT))), row);
    return row;
  }

  private static Messages.CommitRequest commit(JsonNode m, Messages.CommitRequest request) {
    assertEquals(m.get("sizeBytes").asLong(), request.sizeBytes());
    assertEquals(m.get("crc32c").isNull(), request.crc32c() == null);
    assertEquals(new Messages.Condition(m.get("ifMatch").asText(), m.get("ifNoneMatch").asBoolean()), request.condition());
    assertEquals(m.get("ack").isNull() ? "BY_BUCKET" : m.get("ack").asText().toUpperCase(java.util.Locale.ROOT), request.ack().name());
    assertEquals(m.get("metadata").size(), request.metadata().size());
    return request;
  }

  private static <T extends Record> T same(JsonNode expected, T record) {
    for (var component : record.getClass().getRecordComponents()) {
      try {
        component.getAccessor().setAccessible(true);
        JsonNode field = expected.get(component.getName());
        assertEquals(field == null ? "null" : field.asText(), String.valueOf(component.getAccessor().invoke(record)), component.getName());
      } catch (ReflectiveOperationException e) {
        throw new IllegalStateException(e);
      }
    }
    return record;
  }

  private static List<MapOutputRow> rows(JsonNode array) {
    List<MapOutputRow> rows = new ArrayList<>();
    for (JsonNode node : array) rows.add(row(node));
    return rows;
  }

  private static MapOutputRow row(JsonNode n) {
    JsonNode l = n.get("location");
    return new MapOutputRow(n.get("mapIndex").asInt(), n.get("attemptId").asLong(), n.get("epoch").asLong(), n.get("winner").asBoolean(),
        n.get("indexBytes").asInt(),
        new Extent(l.get("tier").asInt(), l.get("blobId").asLong(), l.get("path").asText(), l.get("offset").asLong(), l.get("length").asLong()));
  }

  private static byte[] array(ByteBuffer view) {
    byte[] copy = new byte[view.remaining()];
    view.get(copy);
    return copy;
  }

  @Test
  void everyMessageDecodesAndEncodesToTheSameBytes() throws Exception {
    JsonNode frames = vectors("frames.json");
    assertEquals(Messages.PROTOCOL_VERSION, frames.get("protocolVersion").asInt());
    Set<String> seen = new TreeSet<>();
    for (JsonNode vector : frames.get("messages")) {
      String name = vector.get("name").asText();
      if (NOT_SPOKEN.contains(name)) continue;
      byte[] payload = hex(vector.get("payloadHex"));
      PayloadReader in = new PayloadReader(ByteBuffer.wrap(payload));
      PayloadWriter out = again(name, in, vector.get("message"));
      in.end();
      assertArrayEquals(payload, out.payload(), name);
      seen.add(name);
      if (payload.length > 0) {
        ByteBuffer cut = ByteBuffer.wrap(payload, 0, payload.length - 1);
        assertThrows(EbbException.class, () -> again(name, new PayloadReader(cut), vector.get("message")), name + " cut short");
      }
    }
    assertTrue(seen.size() > 50, "vectors seen: " + seen);
  }

  @Test
  void framesAndErrorsAreTheGoldenOnes() throws Exception {
    JsonNode frames = vectors("frames.json");
    for (JsonNode vector : frames.get("frames")) {
      PayloadWriter writer = new PayloadWriter();
      byte[] payload = hex(vector.get("payloadHex"));
      for (byte b : payload) writer.u8(b);
      ByteBuffer frame = writer.frame((int) vector.get("requestId").asLong(), vector.get("op").asInt(), vector.get("flags").asInt(), 0);
      assertArrayEquals(hex(vector.get("frameHex")), array(frame), vector.get("name").asText());
    }
    JsonNode error = frames.get("error");
    EbbException decoded = Messages.decodeError(new PayloadReader(ByteBuffer.wrap(hex(error.get("payloadHex")))));
    assertEquals(error.get("code").asText(), decoded.code);
    assertEquals(EbbException.Retry.SAFE, decoded.retry);
    assertTrue(decoded.getMessage().contains(error.get("message").asText()));
  }

  @Test
  void indexBlocksAreTheGoldenOnes() throws Exception {
    for (JsonNode vector : vectors("index-block.json").get("blocks")) {
      JsonNode offsets = vector.get("offsets");
      int partitions = vector.get("crc32cs").size();
      long[] lengths = new long[partitions];
      int[] crcs = new int[partitions];
      for (int i = 0; i < partitions; i++) {
        lengths[i] = offsets.get(i + 1).asLong() - offsets.get(i).asLong();
        crcs[i] = (int) vector.get("crc32cs").get(i).asLong();
      }
      ByteBuffer block = IndexBlock.encode(vector.get("framing").asInt(), vector.get("shuffleId").asInt(), vector.get("mapIndex").asInt(),
          vector.get("attemptId").asLong(), lengths, crcs);
      byte[] golden = hex(vector.get("blockHex"));
      assertArrayEquals(golden, array(block.duplicate()), vector.get("name").asText());
      IndexBlock.Header header = IndexBlock.check(ByteBuffer.wrap(golden));
      assertEquals(partitions, header.partitions());
      assertEquals(offsets.get(partitions).asLong(), header.dataBytes());
      assertEquals(vector.get("attemptId").asLong(), header.attemptId());
      for (int i = 0; i < golden.length; i++) {
        byte[] broken = golden.clone();
        broken[i] ^= 4;
        assertThrows(EbbException.class, () -> IndexBlock.check(ByteBuffer.wrap(broken)), "bit flipped at " + i);
      }
    }
  }

  @Test
  void chunksOfEveryCodecDecode() throws Exception {
    JsonNode root = vectors("index-block.json");
    for (JsonNode vector : root.get("crc32c")) {
      CRC32C crc = new CRC32C();
      crc.update(hex(vector.get("textHex")));
      assertEquals(vector.get("crc32c").asLong(), crc.getValue());
    }
    try (ChunkCodec.Decoder decoder = new ChunkCodec.Decoder()) {
      for (JsonNode vector : root.get("chunks")) {
        byte[] stored = hex(vector.get("storedHex"));
        byte[] raw = new byte[hex(vector.get("rawHex")).length];
        ByteBuffer in = ByteBuffer.wrap(stored).order(ByteOrder.LITTLE_ENDIAN);
        int done = 0;
        while (in.hasRemaining()) {
          int rawBytes = in.getInt();
          int storedBytes = in.getInt();
          decoder.decode(in.get(), stored, in.position(), storedBytes, raw, done, rawBytes);
          in.position(in.position() + storedBytes);
          done += rawBytes;
        }
        assertArrayEquals(hex(vector.get("rawHex")), raw, vector.get("name").asText());
      }
    }
  }

  @Test
  void whatACodecCompressesItDecodes() throws Exception {
    java.util.Random random = new java.util.Random(7);
    try (ChunkCodec.Decoder decoder = new ChunkCodec.Decoder()) {
      for (ChunkCodec codec : List.of(ChunkCodec.none(), ChunkCodec.lz4(), ChunkCodec.zstd(1))) {
        for (int round = 0; round < 200; round++) {
          byte[] raw = new byte[1 + random.nextInt(round < 100 ? 300 : 70_000)];
          int alphabet = 1 + random.nextInt(255);
          for (int i = 0; i < raw.length; i++) raw[i] = (byte) random.nextInt(alphabet);
          ByteBuffer out = ByteBuffer.allocateDirect(16 + codec.maxStoredBytes(raw.length));
          int stored = codec.compress(raw, 0, raw.length, out, 16);
          byte[] bytes = new byte[stored];
          out.get(16, bytes);
          byte[] back = new byte[raw.length];
          decoder.decode(codec.id(), bytes, 0, stored, back, 0, back.length);
          assertArrayEquals(raw, back, "seed 7, round " + round);
          assertThrows(EbbException.class, () -> decoder.decode(codec.id(), bytes, 0, stored, new byte[raw.length + 1], 0, raw.length + 1));
        }
        codec.close();
      }
    }
  }
}
