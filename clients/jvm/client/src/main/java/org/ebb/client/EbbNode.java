package org.ebb.client;

import java.io.Closeable;
import java.nio.ByteBuffer;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * One node as a client sees it over time: connects on demand, connects again after the daemon came back.
 *
 * <p>A {@link Session} is one life of the connection. Leases and staged writes belong to it and die with it; committed data
 * stays. Callers of idempotent calls wait here for a new session ({@link #retrying}); a writer whose session is gone writes anew.
 */
public final class EbbNode implements Closeable {
  public interface Listener {
    /** The node wants these blobs back: stop using them, then send `blobsReleased`. Runs on the housekeeping thread. */
    void onRevoke(Session session, long[] blobIds);

    /** All leases of this session are gone. Runs on the housekeeping thread. */
    void onSessionLost(Session session);
  }

  @FunctionalInterface
  public interface Call<T> {
    T with(Session session) throws EbbException;
  }

  private static final long BACKOFF_MIN_MS = 50;
  private static final long BACKOFF_MAX_MS = 1000;

  private final String url;
  private final String clientName;
  private final String jobId;
  private final int connectTimeoutMs;
  private final long requestTimeoutMs;
  private final long reconnectTimeoutMs;
  private final boolean mayUseLocalFiles;
  private final ThreadPoolExecutor housekeeping;
  private volatile Listener listener;
  private volatile Session session;
  private volatile boolean closed;
  /** When connecting first failed since the last success; 0 while the node is there. What nobody tried for long, nobody knows. */
  private volatile long goneSinceNanos;
  private long lastFailedNanos;

  public record Options(int connectTimeoutMs, long requestTimeoutMs, long reconnectTimeoutMs, boolean mayUseLocalFiles) {}

  public EbbNode(String url, String clientName, String jobId, Options options) {
    this.url = url;
    this.clientName = clientName;
    this.jobId = jobId;
    this.connectTimeoutMs = options.connectTimeoutMs;
    this.requestTimeoutMs = options.requestTimeoutMs;
    this.reconnectTimeoutMs = options.reconnectTimeoutMs;
    this.mayUseLocalFiles = options.mayUseLocalFiles;
    this.housekeeping = new ThreadPoolExecutor(1, 1, 10, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), task -> {
      Thread thread = new Thread(task, "ebb-housekeeping");
      thread.setDaemon(true);
      return thread;
    });
    housekeeping.allowCoreThreadTimeOut(true);
  }

  public void setListener(Listener listener) {
    this.listener = listener;
  }

  /** The id of the node last connected to; '' before the first connection. */
  public String nodeId() {
    Session last = session;
    return last == null ? "" : last.hello().nodeId();
  }

  public String url() {
    return url;
  }

  public String jobId() {
    return jobId;
  }

  public long reconnectTimeoutMs() {
    return reconnectTimeoutMs;
  }

  public ExecutorService housekeeping() {
    return housekeeping;
  }

  /** The live session, or null: costs one volatile read. */
  public Session liveSession() {
    Session now = session;
    return now != null && now.isOpen() ? now : null;
  }

  /** The live session, connecting once if there is none. */
  public Session session() throws EbbException {
    Session now = liveSession();
    return now != null ? now : connect();
  }

  /** Runs an idempotent call; when the node is gone, waits for it up to the reconnect timeout and runs it again. */
  public <T> T retrying(Call<T> call) throws EbbException {
    long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(reconnectTimeoutMs);
    long backoffMs = BACKOFF_MIN_MS;
    while (true) {
      try {
        return call.with(session());
      } catch (EbbException e) {
        if (!isNodeGone(e) || closed) throw e;
        // Callers that queue behind one another must not wait the whole time each.
        long gone = goneSinceNanos;
        long nodeDeadline = gone == 0 ? deadline : gone + TimeUnit.MILLISECONDS.toNanos(reconnectTimeoutMs);
        long next = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(backoffMs);
        if (next - deadline > 0 || next - nodeDeadline > 0) {
          throw new EbbException(e.code, "no Ebb node at " + url + " for " + reconnectTimeoutMs + " ms (the reconnect timeout)", e);
        }
        sleep(backoffMs);
        backoffMs = Math.min(BACKOFF_MAX_MS, backoffMs * 2);
      }
    }
  }

  /** Whether waiting for the node to come back may help. */
  public static boolean isNodeGone(EbbException e) {
    return e.is("node_unreachable") || e.is("draining") || e.is("starting");
  }

  /** @throws EbbException `aborted` when the thread is interrupted. */
  public static void sleep(long ms) throws EbbException {
    try {
      Thread.sleep(ms);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new EbbException("aborted", "interrupted while waiting for the node", e);
    }
  }

  private synchronized Session connect() throws EbbException {
    Session now = liveSession();
    if (now != null) return now;
    if (closed) throw new EbbException("aborted", "the client of " + url + " is closed");
    Session fresh;
    try {
      fresh = open(url);
      goneSinceNanos = 0;
    } catch (EbbException e) {
      long failedNanos = System.nanoTime() | 1; // 0 has a meaning
      boolean isNews = goneSinceNanos == 0 || failedNanos - lastFailedNanos > TimeUnit.MILLISECONDS.toNanos(reconnectTimeoutMs);
      if (isNews) goneSinceNanos = failedNanos;
      lastFailedNanos = failedNanos;
      throw e;
    }
    String hint = fresh.connection().socketHint();
    if (url.startsWith("http:") && mayUseLocalFiles && !hint.isEmpty() && java.nio.file.Files.exists(java.nio.file.Path.of(hint))) {
      try {
        Session local = open("unix://" + hint);
        if (local.hello().instanceId() == fresh.hello().instanceId()) {
          fresh.connection().close();
          fresh = local;
        } else {
          local.connection().close();
        }
      } catch (EbbException ignored) {
        // The TCP connection does as well.
      }
    }
    session = fresh;
    return fresh;
  }

  private Session open(String at) throws EbbException {
    SessionListener events = new SessionListener();
    FrameConnection connection = FrameConnection.open(at, events, connectTimeoutMs);
    try {
      var request = new Messages.HelloRequest(Messages.PROTOCOL_VERSION, clientName, jobId);
      var answer = connection.call(Messages.Op.HELLO, request.encode(), connectTimeoutMs);
      var hello = Messages.HelloResponse.decode(answer);
      if (hello.protocolVersion() != Messages.PROTOCOL_VERSION) {
        throw new EbbException("version_unsupported", "the node speaks protocol " + hello.protocolVersion() + ", this client " + Messages.PROTOCOL_VERSION);
      }
      Session opened = new Session(connection, hello, requestTimeoutMs, mayUseLocalFiles ? findFiles(connection, hello) : null);
      events.session = opened;
      return opened;
    } catch (EbbException | RuntimeException e) {
      connection.close();
      throw e;
    }
  }

  private LocalFiles findFiles(FrameConnection connection, Messages.HelloResponse hello) throws EbbException {
    if (hello.memoryDir().isEmpty() || hello.diskDir().isEmpty()) return null;
    String challenge = LocalFiles.newChallenge();
    try {
      connection.call(Messages.Op.PROVE_HOST, new Messages.ProveHostRequest(challenge).encode(), connectTimeoutMs).end();
    } catch (EbbException e) {
      if (e.is("unsupported")) return null; // a node that cannot prove it: bytes go through the connection
      throw e;
    }
    return LocalFiles.find(hello, challenge);
  }

  private final class SessionListener implements FrameConnection.Listener {
    volatile Session session;

    @Override
    public void onPush(int op, ByteBuffer payload) {
      if (op != Messages.Op.REVOKE) return; // goingAway: the connection's end says the same
      later(() -> {
        Session from = session;
        Listener to = listener;
        if (from == null) return;
        try {
          long[] ids = Messages.BlobIds.decode(new PayloadReader(payload)).blobIds();
          if (to != null) to.onRevoke(from, ids);
          else from.blobsReleased(ids);
        } catch (EbbException e) {
          from.connection().close(); // we disagree about the protocol
        }
      });
    }

    @Override
    public void onClosed(EbbException why) {
      later(() -> {
        Session from = session;
        Listener to = listener;
        if (from != null && to != null) to.onSessionLost(from);
      });
    }

    private void later(Runnable work) {
      try {
        housekeeping.execute(work);
      } catch (RejectedExecutionException e) {
        // The client is closed, and so are its leases.
      }
    }
  }

  @Override
  public void close() {
    closed = true;
    Session last = session;
    if (last != null) last.connection().close();
    housekeeping.shutdown();
  }
}
