package org.apache.spark.shuffle.ebb;

import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.List;
import java.util.zip.CRC32C;
import org.ebb.client.EbbNode;
import org.ebb.client.IndexBlock;
import org.ebb.client.Messages;
import org.ebb.client.Session;
import org.ebb.client.StagedFile;

/**
 * Bytes through a staged file beside the same bytes through a plain FileChannel on the same tmpfs, in turn, one thread, 64 KiB
 * pieces; then the time of stage + commit of an empty output. Argument: the node's URL (its directories must be visible).
 */
public final class StagedFileBench {
  private static final int PIECE = 64 * 1024;
  private static final long BYTES = 64L << 20;
  private static final int ROUNDS = 9;

  private StagedFileBench() {}

  public static void main(String[] args) throws Exception {
    EbbNode node = new EbbNode(args[0], "staged-file-bench", "bench-" + ProcessHandle.current().pid(), new EbbNode.Options(5000, 60000, 5000, true));
    Session session = node.session();
    if (!session.isLocal()) throw new IllegalStateException("the node's directories cannot be seen");
    String job = node.jobId();
    session.jobOpen(new Messages.JobOpenRequest(job, 60000, "bench", null));
    int maps = 1_000_000;
    session.shuffleRegister(job, 0, maps, 1);
    ByteBuffer piece = ByteBuffer.allocateDirect(PIECE);
    for (int i = 0; i < PIECE; i++) piece.put(i, (byte) (i * 31));
    byte[] into = new byte[PIECE];
    double[][] gbs = new double[5][ROUNDS];
    Path plain = Path.of(session.hello().memoryDir()).resolveSibling("plain-" + ProcessHandle.current().pid());
    int map = 0;
    for (int round = -3; round < ROUNDS; round++) {
      double[] now = new double[5];
      // Kept file: what a recycled slot is compared with; fresh file: what a new one costs.
      try (FileChannel file = FileChannel.open(plain, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
        now[0] = write(piece, (data, at) -> file.write(data, at));
        long start = System.nanoTime();
        for (long at = 0; at < BYTES; at += PIECE) file.read(ByteBuffer.wrap(into), at);
        now[3] = gbs(start);
      }
      Path fresh = plain.resolveSibling(plain.getFileName() + "-fresh");
      try (FileChannel file = FileChannel.open(fresh, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
        now[1] = write(piece, (data, at) -> file.write(data, at));
      }
      Files.delete(fresh);
      CRC32C crc = new CRC32C();
      for (long at = 0; at < BYTES; at += PIECE) crc.update(piece.duplicate());
      ByteBuffer index = IndexBlock.encode(0, 0, map, map, new long[] {BYTES}, new int[] {(int) crc.getValue()});
      crc.update(index.duplicate());
      StagedFile staged = new StagedFile(session, session.mapStage(new Messages.MapStageRequest(job, 0, map, map, 0, BYTES + index.remaining(), 0)));
      now[2] = write(piece, staged::write);
      int indexBytes = index.remaining();
      staged.write(index, BYTES);
      staged.close();
      Messages.MapOutputRow row = session.mapCommit(new Messages.MapCommitRequest(staged.writeId(), BYTES + indexBytes, (int) crc.getValue(), indexBytes)).winner();
      session.shuffleTable(job, 0, 0);
      OpenOutput open = OpenOutput.openLocal(new MapOutput(0, map, map), row, session, true);
      long start = System.nanoTime();
      for (long at = 0; at < BYTES; at += PIECE) open.copy(at, into, 0, PIECE);
      now[4] = gbs(start);
      open.release();
      session.shuffleReleaseQuietly(job, 0);
      session.shuffleRemove(job, 0);
      session.shuffleRegister(job, 0, maps, 1);
      map++;
      if (round >= 0) for (int i = 0; i < 5; i++) gbs[i][round] = now[i];
    }
    Files.delete(plain);
    for (double[] figures : gbs) Arrays.sort(figures);
    List<String> names = List.of("plain write, kept file", "plain write, fresh file", "staged write", "plain pread", "map output read (new mapping)");
    for (int i = 0; i < 5; i++) System.out.printf("%-32s %.2f GB/s median, %.2f to %.2f%n", names.get(i), gbs[i][ROUNDS / 2], gbs[i][0], gbs[i][ROUNDS - 1]);

    double[] micros = new double[3000];
    ByteBuffer empty = IndexBlock.encode(0, 0, 0, 0, new long[] {0}, new int[] {0});
    for (int i = -1000; i < micros.length; i++) {
      CRC32C crc = new CRC32C();
      ByteBuffer index = IndexBlock.encode(0, 0, map, map, new long[] {0}, new int[] {0});
      crc.update(index.duplicate());
      long start = System.nanoTime();
      StagedFile staged = new StagedFile(session, session.mapStage(new Messages.MapStageRequest(job, 0, map, map, 0, empty.remaining(), 0)));
      staged.write(index, 0);
      staged.close();
      session.mapCommit(new Messages.MapCommitRequest(staged.writeId(), empty.remaining(), (int) crc.getValue(), empty.remaining()));
      if (i >= 0) micros[i] = (System.nanoTime() - start) / 1e3;
      map++;
    }
    Arrays.sort(micros);
    System.out.printf("stage + open + write + commit of a small output: p50 %.0f us, p99 %.0f us%n", micros[micros.length / 2], micros[micros.length * 99 / 100]);
    session.jobEnd(new Messages.JobRef(job, null));
    node.close();
  }

  interface Write {
    void at(ByteBuffer data, long offset) throws Exception;
  }

  private static double write(ByteBuffer piece, Write write) throws Exception {
    long start = System.nanoTime();
    for (long at = 0; at < BYTES; at += PIECE) write.at(piece.duplicate(), at);
    return gbs(start);
  }

  private static double gbs(long start) {
    return BYTES / (double) (System.nanoTime() - start);
  }
}
