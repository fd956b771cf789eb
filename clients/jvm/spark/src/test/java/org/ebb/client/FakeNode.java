package org.ebb.client;

import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.ebb.client.Messages.Op;

/**
 * A node in the test's own process, for faults that the real daemon does not show on request.
 *
 * <p>Fault model: it can be stopped and started again on the same directories (committed rows stay, staged writes and leases
 * are lost, the instance id changes); it can hide its directories (wrong nonce: clients use `read` and `write`); it can refuse
 * `mapStage` and `extend` with `tier_full` or `busy` a number of times; it can drop a map output, flip a byte of one, or move
 * one to tier 1 and revoke it; it can lose the answer to a commit after it was applied. It never crashes half-way through a
 * write to a file, does not check CRCs at commit, and knows neither epochs, tokens, budgets, spills, jobs' expiry nor tier 2.
 */
public final class FakeNode implements AutoCloseable {
  private final Path socket;
  private final Path[] dirs;
  private final AtomicLong nextId = new AtomicLong(1);
  private final AtomicLong instance = new AtomicLong(100);
  private final Map<String, Shuffle> shuffles = new ConcurrentHashMap<>();
  private final Set<Connection> connections = ConcurrentHashMap.newKeySet();
  private volatile ServerSocketChannel server;

  public volatile boolean hideDirectories;
  public volatile int refuseStages;
  public volatile int refuseExtends;
  public volatile String refusal = "tier_full";
  public volatile String refusalDetails = "{\"retryAfterMs\":20}";
  public volatile long extraReserve;
  public volatile boolean loseNextCommitAnswer;
  public volatile boolean verifySuspects = true;
  public final AtomicInteger calls = new AtomicInteger();
  public final Map<Integer, AtomicInteger> callsByOp = new ConcurrentHashMap<>();
  public final List<Long> released = new CopyOnWriteArrayList<>();
  /** What clients asked for when they staged. */
  public final List<Long> reserved = new CopyOnWriteArrayList<>();
  public final Set<String> jobs = ConcurrentHashMap.newKeySet();

  private static final class Shuffle {
    final TreeMap<Long, Row> byAttempt = new TreeMap<>();
    int maps;
    int partitions;
    long version;
  }

  private record Row(Messages.MapOutputRow row, long version) {}

  private record Write(long writeId, long blobId, int tier, Path path, Messages.MapStageRequest request) {}

  /** On a tmpfs, as a node should be; {@link #close} leaves nothing there. */
  public static FakeNode start() throws IOException {
    return new FakeNode(Files.createTempDirectory(Path.of("/dev/shm"), "ebb-fake"));
  }

  private FakeNode(Path base) throws IOException {
    socket = base.resolve("ebb.sock");
    dirs = new Path[] {Files.createDirectories(base.resolve("memory")), Files.createDirectories(base.resolve("disk"))};
    listen();
  }

  public String url() {
    return "unix://" + socket;
  }

  public Path memoryDir() {
    return dirs[0];
  }

  /** After {@link #stop}: as a daemon that comes back. */
  public void restart() throws IOException {
    listen();
  }

  /** Where real nodes have the file of a blob; its directory is made. */
  private Path blobFile(int tier, long blobId) throws IOException {
    Path directory = dirs[tier].resolve(String.format("b/%02x", blobId & 0xff));
    return Files.createDirectories(directory).resolve(Long.toHexString(blobId));
  }

  private void listen() throws IOException {
    instance.incrementAndGet();
    Files.deleteIfExists(socket);
    ServerSocketChannel opened = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
    opened.bind(UnixDomainSocketAddress.of(socket));
    server = opened;
    Thread acceptor = new Thread(() -> {
      try {
        while (true) {
          Connection connection = new Connection(opened.accept());
          connections.add(connection);
          Thread thread = new Thread(connection, "fake-node");
          thread.setDaemon(true);
          thread.start();
        }
      } catch (IOException e) {
        // stopped
      }
    }, "fake-node-accept");
    acceptor.setDaemon(true);
    acceptor.start();
  }

  /** As by kill -9. */
  public void stop() throws IOException {
    server.close();
    for (Connection connection : connections) connection.channel.close();
    Files.deleteIfExists(socket);
  }

  /** Also deletes its directories. */
  @Override
  public void close() throws IOException {
    stop();
    Path base = socket.getParent();
    if (!Files.exists(base)) return;
    try (var files = Files.walk(base)) {
      for (Path path : (Iterable<Path>) files.sorted(java.util.Comparator.reverseOrder())::iterator) Files.deleteIfExists(path);
    }
  }

  public List<Messages.MapOutputRow> rows() {
    List<Messages.MapOutputRow> all = new ArrayList<>();
    for (Shuffle shuffle : shuffles.values()) {
      synchronized (shuffle) {
        for (Row row : shuffle.byAttempt.values()) all.add(row.row);
      }
    }
    return all;
  }

  public int shuffleCount() {
    return shuffles.size();
  }

  private Path fileOf(Messages.MapOutputRow row) {
    return dirs[row.location().tier()].resolve(row.location().path());
  }

  /** Flips one bit of the stored data. */
  public void corrupt(Messages.MapOutputRow row, long at) throws IOException {
    try (FileChannel file = FileChannel.open(fileOf(row), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
      ByteBuffer one = ByteBuffer.allocate(1);
      file.read(one, at);
      one.put(0, (byte) (one.get(0) ^ 1)).rewind();
      file.write(one, at);
    }
  }

  public void drop(Messages.MapOutputRow row) throws IOException {
    for (Shuffle shuffle : shuffles.values()) {
      synchronized (shuffle) {
        shuffle.byAttempt.remove(row.attemptId());
      }
    }
    Files.deleteIfExists(fileOf(row));
  }

  /** Spills every map output to tier 1 and asks for the old blobs; their files are overwritten once all clients let go. */
  public Set<Long> spillAll() throws IOException {
    Set<Long> old = new HashSet<>();
    for (Shuffle shuffle : shuffles.values()) {
      synchronized (shuffle) {
        for (Row entry : new ArrayList<>(shuffle.byAttempt.values())) {
          Messages.MapOutputRow row = entry.row;
          long blobId = nextId.incrementAndGet();
          Path to = blobFile(1, blobId);
          Files.copy(fileOf(row), to);
          old.add(row.location().blobId());
          Files.delete(fileOf(row));
          put(shuffle, new Messages.MapOutputRow(row.mapIndex(), row.attemptId(), row.epoch(), row.winner(), row.indexBytes(),
              new Messages.Extent(1, blobId, dirs[1].relativize(to).toString(), 0, row.location().length())));
        }
      }
    }
    for (Connection connection : connections) connection.push(Op.REVOKE, new Messages.BlobIds(old.stream().mapToLong(Long::longValue).toArray()).encode());
    return old;
  }

  private static void put(Shuffle shuffle, Messages.MapOutputRow row) {
    shuffle.byAttempt.put(row.attemptId(), new Row(row, ++shuffle.version));
  }

  private Shuffle shuffle(String job, int id) throws EbbException {
    Shuffle found = shuffles.get(job + "/" + id);
    if (found == null) throw new EbbException("shuffle_not_found", "shuffle " + id);
    return found;
  }

  private final class Connection implements Runnable {
    final SocketChannel channel;
    final Map<Long, Write> writes = new ConcurrentHashMap<>();

    Connection(SocketChannel channel) {
      this.channel = channel;
    }

    @Override
    public void run() {
      try {
        InputStream in = Channels.newInputStream(channel);
        StringBuilder head = new StringBuilder();
        while (!head.toString().endsWith("\r\n\r\n")) {
          int b = in.read();
          if (b < 0) throw new EOFException();
          head.append((char) b);
        }
        write(ByteBuffer.wrap("HTTP/1.1 101 Switching Protocols\r\nUpgrade: ebb-frames/1\r\nConnection: Upgrade\r\n\r\n".getBytes(StandardCharsets.US_ASCII)));
        DataInputStream data = new DataInputStream(in);
        byte[] header = new byte[12];
        while (true) {
          data.readFully(header);
          ByteBuffer fields = ByteBuffer.wrap(header).order(ByteOrder.LITTLE_ENDIAN);
          byte[] payload = new byte[fields.getInt(0)];
          data.readFully(payload);
          answer(fields.getInt(4), fields.getShort(8), new PayloadReader(ByteBuffer.wrap(payload)));
        }
      } catch (IOException | RuntimeException e) {
        if (e instanceof RuntimeException) e.printStackTrace();
      } finally {
        connections.remove(this);
        try {
          channel.close();
        } catch (IOException ignored) {
          // gone
        }
      }
    }

    private void answer(int id, int op, PayloadReader request) throws IOException {
      calls.incrementAndGet();
      callsByOp.computeIfAbsent(op, o -> new AtomicInteger()).incrementAndGet();
      try {
        PayloadWriter response = handle(op, request);
        if (op == Op.MAP_COMMIT && loseNextCommitAnswer) {
          loseNextCommitAnswer = false;
          channel.close();
          throw new EOFException("answer lost");
        }
        write(response.frame(id, op, 0, 0));
      } catch (EbbException e) {
        write(new PayloadWriter().str(e.code).str(e.getMessage()).str(e.details).frame(id, op, 1, 0));
      }
    }

    private synchronized void write(ByteBuffer frame) throws IOException {
      while (frame.hasRemaining()) channel.write(frame);
    }

    void push(int op, PayloadWriter payload) throws IOException {
      write(payload.frame(0, op, 0, 0));
    }

    private PayloadWriter handle(int op, PayloadReader in) throws IOException {
      PayloadWriter nothing = new PayloadWriter();
      switch (op) {
        case Op.HELLO -> {
          Messages.HelloRequest.decode(in);
          return new Messages.HelloResponse(1, "n-fake", instance.get(), dirs[0].toString(), dirs[1].toString(), "", "").encode();
        }
        case Op.PROVE_HOST -> {
          String challenge = Messages.ProveHostRequest.decode(in).challenge();
          if (!hideDirectories) for (Path dir : dirs) Files.createFile(dir.resolve(".ebb-here-" + challenge));
        }
        case Op.JOB_OPEN -> jobs.add(Messages.JobOpenRequest.decode(in).jobId());
        case Op.JOB_HEARTBEAT -> Messages.JobRef.decode(in);
        case Op.PING -> in.end();
        case Op.JOB_END -> {
          String job = Messages.JobRef.decode(in).jobId();
          jobs.remove(job);
          shuffles.keySet().removeIf(key -> key.startsWith(job + "/"));
          return new Messages.JobEnded(0, 0).encode();
        }
        case Op.SHUFFLE_REGISTER -> {
          var request = Messages.ShuffleRegisterRequest.decode(in);
          Shuffle shuffle = shuffles.computeIfAbsent(request.jobId() + "/" + request.shuffleId(), key -> new Shuffle());
          shuffle.maps = request.maps();
          shuffle.partitions = request.partitions();
        }
        case Op.MAP_STAGE -> {
          var request = Messages.MapStageRequest.decode(in);
          shuffle(request.jobId(), request.shuffleId());
          if (refuseStages > 0) {
            refuseStages--;
            throw new EbbException(refusal, "refused", refusalDetails, null);
          }
          reserved.add(request.reserveBytes());
          long blob = nextId.incrementAndGet();
          int tier = request.tier() == 1 ? 1 : 0;
          Path path = blobFile(tier, blob);
          Files.createFile(path);
          Write write = new Write(nextId.incrementAndGet(), blob, tier, path, request);
          writes.put(write.writeId, write);
          return new Messages.Staged(write.writeId, blob, tier, dirs[tier].relativize(path).toString(), request.reserveBytes() + extraReserve, 0).encode();
        }
        case Op.EXTEND -> {
          var request = Messages.ExtendRequest.decode(in);
          if (refuseExtends > 0) {
            refuseExtends--;
            throw new EbbException(refusal, "refused", refusalDetails, null);
          }
          return new PayloadWriter().u64(request.reserveBytes());
        }
        case Op.WRITE -> {
          long id = in.u64();
          long offset = in.u64();
          ByteBuffer data = in.bytes();
          Write write = writes.get(id);
          if (write == null) throw new EbbException("write_not_found", "write " + id);
          try (FileChannel file = FileChannel.open(write.path, StandardOpenOption.WRITE)) {
            file.write(data, offset);
          }
        }
        case Op.ABORT -> {
          Write write = writes.remove(in.u64());
          if (write != null) Files.deleteIfExists(write.path);
        }
        case Op.MAP_COMMIT -> {
          return commit(Messages.MapCommitRequest.decode(in)).encode();
        }
        case Op.SHUFFLE_TABLE -> {
          var request = Messages.ShuffleTableRequest.decode(in);
          Shuffle shuffle = shuffle(request.jobId(), request.shuffleId());
          synchronized (shuffle) {
            List<Messages.MapOutputRow> rows = new ArrayList<>();
            for (Row row : shuffle.byAttempt.values()) if (row.version > request.sinceVersion()) rows.add(row.row);
            return new Messages.ShuffleTable(shuffle.version, shuffle.maps, shuffle.partitions, rows).encode();
          }
        }
        case Op.SHUFFLE_RELEASE -> Messages.ShuffleRef.decode(in);
        case Op.SHUFFLE_REMOVE -> {
          var request = Messages.ShuffleRef.decode(in);
          shuffles.remove(request.jobId() + "/" + request.shuffleId());
          return new Messages.ShuffleRemoved(0).encode();
        }
        case Op.MAP_RESOLVE -> {
          var request = Messages.MapResolveRequest.decode(in);
          Shuffle shuffle = shuffle(request.jobId(), request.shuffleId());
          List<Messages.MapOutputRow> rows = new ArrayList<>();
          synchronized (shuffle) {
            for (long attempt : request.attemptIds()) {
              Row row = shuffle.byAttempt.get(attempt);
              if (row == null) continue;
              if (request.suspect() && verifySuspects) shuffle.byAttempt.remove(attempt);
              else rows.add(row.row);
            }
          }
          return new Messages.MapResolveResponse(rows).encode();
        }
        case Op.READ -> {
          var request = Messages.ReadRequest.decode(in);
          int total = 0;
          for (var range : request.ranges()) total += range.length();
          ByteBuffer all = ByteBuffer.allocate(total);
          for (var range : request.ranges()) {
            Messages.MapOutputRow row = rows().stream().filter(r -> r.location().blobId() == range.blobId()).findFirst()
                .orElseThrow(() -> new EbbException("not_found", "blob " + range.blobId()));
            try (FileChannel file = FileChannel.open(fileOf(row), StandardOpenOption.READ)) {
              ByteBuffer part = all.slice(all.position(), range.length());
              while (part.hasRemaining()) if (file.read(part, range.offset() + part.position()) < 0) throw new EbbException("range_invalid", "beyond the end");
              all.position(all.position() + range.length());
            }
          }
          return new PayloadWriter(total + 4).bytes(all.array());
        }
        case Op.BLOBS_RELEASED -> {
          for (long id : Messages.BlobIds.decode(in).blobIds()) released.add(id);
        }
        default -> throw new EbbException("unsupported", "op " + op);
      }
      return nothing;
    }

    private Messages.MapCommitResponse commit(Messages.MapCommitRequest request) throws IOException {
      Write write = writes.remove(request.writeId());
      if (write == null) throw new EbbException("write_not_found", "write " + request.writeId());
      if (Files.size(write.path) < request.sizeBytes()) throw new EbbException("length_mismatch", "file of " + Files.size(write.path));
      var staged = write.request;
      Shuffle shuffle = shuffle(staged.jobId(), staged.shuffleId());
      synchronized (shuffle) {
        var row = new Messages.MapOutputRow(staged.mapIndex(), staged.attemptId(), staged.epoch(), true, request.indexBytes(),
            new Messages.Extent(write.tier, write.blobId, dirs[write.tier].relativize(write.path).toString(), 0, request.sizeBytes()));
        put(shuffle, row);
        return new Messages.MapCommitResponse(true, row);
      }
    }
  }
}
