package org.ebb.client;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** One life of a connection to a node, its calls typed. Leases and staged writes belong to it. */
public final class Session {
  private final FrameConnection connection;
  private final Messages.HelloResponse hello;
  private final long timeoutMs;
  private final LocalFiles files; // null: not seen here

  Session(FrameConnection connection, Messages.HelloResponse hello, long timeoutMs, LocalFiles files) {
    this.connection = connection;
    this.hello = hello;
    this.timeoutMs = timeoutMs;
    this.files = files;
  }

  public FrameConnection connection() {
    return connection;
  }

  public Messages.HelloResponse hello() {
    return hello;
  }

  public boolean isOpen() {
    return connection.isOpen();
  }

  /** Whether this process sees the node's files. */
  public boolean isLocal() {
    return files != null;
  }

  /** @throws EbbException `io_failed` for a path that no node gives. */
  public Path file(int tier, String path) throws EbbException {
    if (files == null) throw new EbbException("internal", "the node's files are not seen here");
    return files.path(tier, path);
  }

  /**
   * The file, after a look at what it is.
   *
   * @throws java.nio.file.NoSuchFileException when it has moved since the node named it; EbbException `io_failed` for what is
   *     not a file of the node.
   */
  public FileChannel openFile(int tier, String path, StandardOpenOption... options) throws IOException {
    if (files == null) throw new EbbException("internal", "the node's files are not seen here");
    return files.open(tier, path, options);
  }

  public void ping() throws EbbException {
    call(Messages.Op.PING, new PayloadWriter()).end();
  }

  public void jobOpen(Messages.JobOpenRequest request) throws EbbException {
    call(Messages.Op.JOB_OPEN, request.encode()).end();
  }

  public void jobHeartbeat(Messages.JobRef job) throws EbbException {
    call(Messages.Op.JOB_HEARTBEAT, job.encode()).end();
  }

  public Messages.JobEnded jobEnd(Messages.JobRef job) throws EbbException {
    return Messages.JobEnded.decode(call(Messages.Op.JOB_END, job.encode()));
  }

  public void shuffleRegister(String jobId, int shuffleId, int maps, int partitions) throws EbbException {
    call(Messages.Op.SHUFFLE_REGISTER, new Messages.ShuffleRegisterRequest(jobId, shuffleId, maps, partitions).encode()).end();
  }

  public Messages.Staged stage(Messages.StageRequest request) throws EbbException {
    return Messages.Staged.decode(call(Messages.Op.STAGE, request.encode()));
  }

  /** After an error other than `node_unreachable` nothing of the write is left. */
  public Messages.Committed commit(Messages.CommitRequest request) throws EbbException {
    return Messages.Committed.decode(call(Messages.Op.COMMIT, request.encode()));
  }

  public Messages.Opened open(Messages.ObjectRef object) throws EbbException {
    return Messages.Opened.decode(call(Messages.Op.OPEN, object.encode()));
  }

  public void releaseQuietly(long leaseId) {
    sendQuietly(Messages.Op.RELEASE, new PayloadWriter().u32(1).u64(leaseId));
  }

  /** @throws EbbException `not_found` */
  public Messages.ObjectRow head(Messages.ObjectRef object) throws EbbException {
    return awaitHead(headAsync(object));
  }

  public CompletableFuture<ByteBuffer> headAsync(Messages.ObjectRef object) throws EbbException {
    return connection.send(Messages.Op.HEAD, object.encode(), null);
  }

  public Messages.ObjectRow awaitHead(CompletableFuture<ByteBuffer> answer) throws EbbException {
    return Messages.ObjectRow.decode(connection.await(answer, Messages.Op.HEAD, timeoutMs));
  }

  public Messages.Listed list(Messages.ListRequest request) throws EbbException {
    return awaitList(listAsync(request));
  }

  public CompletableFuture<ByteBuffer> listAsync(Messages.ListRequest request) throws EbbException {
    return connection.send(Messages.Op.LIST_OBJECTS, request.encode(), null);
  }

  public Messages.Listed awaitList(CompletableFuture<ByteBuffer> answer) throws EbbException {
    return Messages.Listed.decode(connection.await(answer, Messages.Op.LIST_OBJECTS, timeoutMs));
  }

  /** Returns whether there was one. */
  public boolean delete(Messages.ObjectRef object) throws EbbException {
    return call(Messages.Op.DELETE_OBJECT, new Messages.DeleteRequest(object.bucket(), object.key(), "").encode()).bool();
  }

  public Messages.Affected deletePrefix(Messages.PrefixRef prefix) throws EbbException {
    return Messages.Affected.decode(call(Messages.Op.DELETE_PREFIX, prefix.encode()));
  }

  public Messages.ObjectRow rename(Messages.RenameRequest request) throws EbbException {
    return Messages.ObjectRow.decode(call(Messages.Op.RENAME, request.encode()));
  }

  /** All keys with the prefix, in one step. */
  public Messages.Affected renamePrefix(Messages.RenameRequest request) throws EbbException {
    return Messages.Affected.decode(call(Messages.Op.RENAME_PREFIX, request.encode()));
  }

  public Messages.Staged mapStage(Messages.MapStageRequest request) throws EbbException {
    return Messages.Staged.decode(call(Messages.Op.MAP_STAGE, request.encode()));
  }

  public long extend(long writeId, long reserveBytes) throws EbbException {
    return call(Messages.Op.EXTEND, new Messages.ExtendRequest(writeId, reserveBytes).encode()).u64();
  }

  /** Says that a staged write goes on: its deadline moves. */
  public void touchQuietly(long writeId) {
    sendQuietly(Messages.Op.EXTEND, new Messages.ExtendRequest(writeId, 0).encode());
  }

  /** `data` must stay untouched until this returns. */
  public void write(long writeId, long offset, ByteBuffer data) throws EbbException {
    PayloadWriter head = new PayloadWriter().u64(writeId).u64(offset).u32(data.remaining());
    connection.await(connection.send(Messages.Op.WRITE, head, data), Messages.Op.WRITE, timeoutMs).end();
  }

  public Messages.MapCommitResponse mapCommit(Messages.MapCommitRequest request) throws EbbException {
    return Messages.MapCommitResponse.decode(call(Messages.Op.MAP_COMMIT, request.encode()));
  }

  /** Sent without waiting: also used by threads that are being killed. */
  public void abortQuietly(long writeId) {
    sendQuietly(Messages.Op.ABORT, new PayloadWriter().u64(writeId));
  }

  public Messages.ShuffleTable shuffleTable(String jobId, int shuffleId, long sinceVersion) throws EbbException {
    return Messages.ShuffleTable.decode(call(Messages.Op.SHUFFLE_TABLE, new Messages.ShuffleTableRequest(jobId, shuffleId, sinceVersion).encode()));
  }

  public List<Messages.MapOutputRow> mapResolve(String jobId, int shuffleId, boolean suspect, long... attemptIds) throws EbbException {
    return Messages.MapResolveResponse.decode(
        call(Messages.Op.MAP_RESOLVE, new Messages.MapResolveRequest(jobId, shuffleId, suspect, attemptIds).encode())).rows();
  }

  public void shuffleReleaseQuietly(String jobId, int shuffleId) {
    sendQuietly(Messages.Op.SHUFFLE_RELEASE, new Messages.ShuffleRef(jobId, shuffleId).encode());
  }

  public long shuffleRemove(String jobId, int shuffleId) throws EbbException {
    return Messages.ShuffleRemoved.decode(call(Messages.Op.SHUFFLE_REMOVE, new Messages.ShuffleRef(jobId, shuffleId).encode())).freedBytes();
  }

  public void blobsReleased(long[] blobIds) {
    sendQuietly(Messages.Op.BLOBS_RELEASED, new Messages.BlobIds(blobIds).encode());
  }

  private void sendQuietly(int op, PayloadWriter payload) {
    try {
      connection.send(op, payload, null);
    } catch (EbbException e) {
      // What it would have given back, or thrown away, went with the session.
    }
  }

  public CompletableFuture<ByteBuffer> readAsync(List<Messages.ReadRange> ranges) throws EbbException {
    return connection.send(Messages.Op.READ, new Messages.ReadRequest(ranges).encode(), null);
  }

  public ByteBuffer awaitRead(CompletableFuture<ByteBuffer> answer) throws EbbException {
    return connection.await(answer, Messages.Op.READ, timeoutMs).bytes();
  }

  public ByteBuffer read(List<Messages.ReadRange> ranges) throws EbbException {
    return awaitRead(readAsync(ranges));
  }

  private PayloadReader call(int op, PayloadWriter payload) throws EbbException {
    return connection.call(op, payload, timeoutMs);
  }
}
