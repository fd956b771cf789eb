package org.apache.spark.shuffle.ebb;

import java.lang.ref.WeakReference;
import java.security.SecureRandom;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.spark.FetchFailed;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.ShuffleStatus;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerStageSubmitted;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.shuffle.api.ShuffleDriverComponents;
import org.ebb.client.EbbException;
import org.ebb.client.Messages;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Option;

/**
 * The driver's half: opens the job, keeps it alive, registers and removes shuffles, ends it. Whether this application shuffles
 * through Ebb is decided here, once, when it starts.
 *
 * <p>I1: each life of a driver is a job of its own: the application's id, which attempts of an application share and others may
 * happen to have, and a token made at the start. Executors learn the name from the shuffles' handles. A life that ended without a
 * word is collected by the node for want of heartbeats; no other is in its way, or sees what it wrote.
 * I2: the shape of a shuffle is known for as long as its dependency is: Spark may remove a shuffle and use it again.
 * I3: the node has every shuffle that Spark's MapOutputTracker has and the driver knows: at the latest when its next stage
 * begins, or with the next heartbeat. Tasks that come earlier wait for that (MapOutputSink).
 *
 * <p>A fetch failure names one map output, and Spark allows a stage few attempts. So after one, the driver asks the node what it
 * still has of that shuffle, and makes Spark forget everything else of it at once. A job that the node no longer knows is
 * opened again with its shuffles, and all their map outputs are forgotten.
 */
final class EbbDriver implements ShuffleDriverComponents {
  private static final Logger LOG = LoggerFactory.getLogger(EbbDriver.class);
  private static final ConcurrentHashMap<String, EbbDriver> BY_APP = new ConcurrentHashMap<>();
  /** Map tasks of a job that the node forgot wait for the next heartbeat. */
  private static final long HEARTBEAT_MS_MAX = 10_000;

  private static final long HOUSEKEEPING_END_S = 5;

  /** `of` is empty once nobody can use the shuffle any more. */
  private record Shape(int maps, int partitions, WeakReference<ShuffleDependency<?, ?, ?>> of) {}

  private final SparkConf conf;
  /** All that may still be used, and those among them that the node was told to remove. */
  private final ConcurrentHashMap<Integer, Shape> shuffles = new ConcurrentHashMap<>();
  private final Set<Integer> removed = ConcurrentHashMap.newKeySet();
  private final Set<Integer> unchecked = ConcurrentHashMap.newKeySet();
  private final AtomicBoolean listening = new AtomicBoolean();
  private final String token = HexFormat.of().toHexDigits(new SecureRandom().nextLong());
  private String appId;
  private String jobId;
  private EbbRuntime runtime;
  private boolean fallback;
  /** Heartbeats, and what must not hold up Spark's own threads. */
  private ScheduledThreadPoolExecutor housekeeping;

  EbbDriver(SparkConf conf) {
    this.conf = conf;
  }

  static EbbDriver of(SparkConf conf) {
    EbbDriver driver = conf.contains("spark.app.id") ? BY_APP.get(conf.getAppId()) : null;
    if (driver == null) {
      throw new IllegalStateException("the Ebb shuffle manager is set, but its driver components did not start; set "
          + EbbSettings.IO_PLUGIN + "=" + EbbShuffleDataIO.class.getName());
    }
    return driver;
  }

  @Override
  public Map<String, String> initializeApplication() {
    String manager = conf.get(EbbSettings.MANAGER, "sort");
    if (!manager.equals(EbbShuffleManager.class.getName())) {
      throw new EbbRefusal(EbbShuffleDataIO.class.getName() + " works only together with " + EbbSettings.MANAGER + "="
          + EbbShuffleManager.class.getName() + ", which is " + manager);
    }
    appId = conf.getAppId();
    jobId = appId + "." + token;
    EbbSettings settings = settings();
    try {
      if (settings.node.isEmpty()) throw new EbbException("config_invalid", EbbRuntime.missingNode());
      runtime = EbbRuntime.of(jobId, conf, "driver");
      openJob();
      startHeartbeats(settings);
    } catch (EbbException e) {
      if (runtime != null) runtime.close();
      runtime = null;
      LOG.debug("No Ebb node", e);
      if (!settings.fallback) throw new EbbRefusal(noNode(settings, e));
      LOG.warn("{} Falling back to Spark's own shuffle ({}=true): map outputs of a lost executor are lost with it.", noNode(settings, e), EbbSettings.FALLBACK);
      fallback = true;
    }
    releaseIdleExecutors();
    BY_APP.put(appId, this);
    return Map.of();
  }

  /**
   * Spark 3.4 and later keep an idle executor as long as a shuffle is alive that it wrote, unless told not to; here it holds none.
   * Spark reads this after the driver components have started.
   */
  private void releaseIdleExecutors() {
    if (!fallback) {
      conf.setIfMissing(EbbSettings.SHUFFLE_TRACKING, "false");
    } else if (conf.getBoolean(EbbSettings.DYNAMIC_ALLOCATION, false) && !conf.getBoolean("spark.shuffle.service.enabled", false)
        && !conf.getBoolean(EbbSettings.SHUFFLE_TRACKING, true)) {
      LOG.warn("{}=true for this application: its executors hold their map outputs themselves.", EbbSettings.SHUFFLE_TRACKING);
      conf.set(EbbSettings.SHUFFLE_TRACKING, "true"); // or Spark would not start
    }
  }

  private EbbSettings settings() {
    try {
      return new EbbSettings(conf);
    } catch (IllegalArgumentException e) {
      throw new EbbRefusal(e.getMessage());
    }
  }

  private static String noNode(EbbSettings settings, EbbException e) {
    return "Cannot shuffle through the Ebb node at '" + settings.node + "': " + e.getMessage() + ". Start it (`npx ebb node`), correct "
        + EbbSettings.NODE + ", or set " + EbbSettings.FALLBACK + "=true to run with Spark's own shuffle when no node answers.";
  }

  private void startHeartbeats(EbbSettings settings) {
    housekeeping = new ScheduledThreadPoolExecutor(1, task -> {
      Thread thread = new Thread(task, "ebb-heartbeat");
      thread.setDaemon(true);
      return thread;
    });
    long everyMs = Math.min(HEARTBEAT_MS_MAX, Math.max(100, settings.heartbeatTtlMs / 4));
    housekeeping.scheduleWithFixedDelay(this::heartbeat, everyMs, everyMs, TimeUnit.MILLISECONDS);
  }

  private void stopHousekeeping() {
    housekeeping.shutdownNow();
    try {
      housekeeping.awaitTermination(HOUSEKEEPING_END_S, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private void heartbeat() {
    keepingJob("Heartbeat to Ebb node " + runtime.node.url(), () -> runtime.node.session().jobHeartbeat(new Messages.JobRef(jobId, token)));
    shuffles.forEach((id, shape) -> {
      if (shape.of.refersTo(null) && removed.contains(id)) {
        shuffles.remove(id);
        removed.remove(id);
      }
    });
    for (int id : removed) if (isInUse(id)) keepingJob("Registering shuffle " + id + " again", () -> register(id));
  }

  private interface Call {
    void run() throws EbbException;
  }

  /** Throws nothing: the next heartbeat must come. */
  private void keepingJob(String what, Call call) {
    try {
      reopening(call);
    } catch (EbbException e) {
      LOG.warn("{} failed: {}", what, e.getMessage());
    } catch (Exception e) { // Scala declares none
      LOG.warn("{} failed", what, e);
    }
  }

  /** A job that expired while the node could not hear us, or that somebody ended, is opened again, and `call` is not repeated. */
  private void reopening(Call call) throws EbbException {
    try {
      call.run();
    } catch (EbbException e) {
      if (!EbbErrors.isForgotten(e)) throw e;
      LOG.warn("Ebb node {} no longer knows job {} or a shuffle of it ({}); opening it again.", runtime.node.url(), jobId, e.getMessage());
      reopen();
    }
  }

  /** What the job owned may be gone: Spark is made to compute it anew. */
  private synchronized void reopen() throws EbbException {
    openJob();
    for (int id : shuffles.keySet()) {
      if (removed.contains(id) && !isInUse(id)) continue;
      register(id);
      forgetMissing(id);
    }
  }

  private void openJob() throws EbbException {
    runtime.node.session().jobOpen(
        new Messages.JobOpenRequest(jobId, runtime.settings.heartbeatTtlMs, conf.get("spark.app.name", ""), token));
  }

  /** Whether Spark has map outputs of the shuffle, or is about to: its own word, whatever was removed before. */
  private static boolean isInUse(int shuffleId) {
    return SparkEnv.get() != null && SparkEnv.get().mapOutputTracker() instanceof MapOutputTrackerMaster master
        && master.shuffleStatuses().contains(shuffleId);
  }

  /** Sees fetch failures, and shuffles that are used again, from here on. The context is not there yet when the components start, so the first shuffle brings it. */
  private void listen(SparkContext context) {
    if (!listening.compareAndSet(false, true)) return;
    context.addSparkListener(new SparkListener() {
      @Override
      public void onTaskEnd(SparkListenerTaskEnd end) {
        if (end.reason() instanceof FetchFailed failure && shuffles.containsKey(failure.shuffleId())) checkLater(failure.shuffleId());
      }

      @Override
      public void onStageSubmitted(SparkListenerStageSubmitted stage) {
        Option<Object> writes = stage.stageInfo().shuffleDepId();
        if (writes.isDefined() && removed.contains((Integer) writes.get())) usedAgain((Integer) writes.get());
      }
    });
  }

  private void usedAgain(int shuffleId) {
    later(() -> keepingJob("Registering shuffle " + shuffleId + " again", () -> register(shuffleId)));
  }

  private void checkLater(int shuffleId) {
    if (unchecked.add(shuffleId)) later(() -> check(shuffleId));
  }

  private void later(Runnable work) {
    try {
      housekeeping.execute(work);
    } catch (RejectedExecutionException e) {
      // The application ends.
    }
  }

  private void check(int shuffleId) {
    unchecked.remove(shuffleId); // a failure from here on may be news
    keepingJob("Asking the Ebb node what it has of shuffle " + shuffleId, () -> forgetMissing(shuffleId));
  }

  /** Makes Spark forget the map outputs that the node does not have. */
  private void forgetMissing(int shuffleId) throws EbbException {
    MapOutputTrackerMaster tracker = (MapOutputTrackerMaster) SparkEnv.get().mapOutputTracker();
    Option<ShuffleStatus> status = tracker.shuffleStatuses().get(shuffleId);
    if (status.isEmpty()) return;
    // Before the node is asked: what commits meanwhile is not missing.
    MapStatus[] known = status.get().withMapStatuses((MapStatus[] live) -> live.clone());
    Set<Long> present = attemptsOf(shuffleId);
    int missing = 0;
    for (int map = 0; map < known.length; map++) {
      if (known[map] == null || present.contains(known[map].mapId())) continue;
      tracker.unregisterMapOutput(shuffleId, map, known[map].location());
      missing++;
    }
    if (missing > 0) LOG.warn("Ebb node {} has lost {} map outputs of shuffle {}; they are computed again.", runtime.node.url(), missing, shuffleId);
  }

  private Set<Long> attemptsOf(int shuffleId) throws EbbException {
    Set<Long> attempts = new HashSet<>();
    long version = 0;
    while (true) { // a long table comes in parts
      Messages.ShuffleTable part = runtime.node.session().shuffleTable(jobId, shuffleId, version);
      for (Messages.MapOutputRow row : part.rows()) attempts.add(row.attemptId());
      if (part.rows().isEmpty() || part.version() == version) return attempts;
      version = part.version();
    }
  }

  boolean isFallback() {
    return fallback;
  }

  /** What the node knows this life of the driver by. */
  String jobId() {
    return jobId;
  }

  void registerShuffle(int shuffleId, ShuffleDependency<?, ?, ?> dependency) {
    Shape shape = new Shape(dependency.rdd().getNumPartitions(), dependency.partitioner().numPartitions(), new WeakReference<>(dependency));
    listen(dependency.rdd().context());
    shuffles.put(shuffleId, shape); // first, so that a job that is opened again meanwhile has it
    try {
      reopening(() -> register(shuffleId));
    } catch (EbbException e) {
      shuffles.remove(shuffleId);
      throw new IllegalStateException("shuffle " + shuffleId + " could not be registered: " + e.getMessage(), e);
    }
  }

  private void register(int shuffleId) throws EbbException {
    Shape shape = shuffles.get(shuffleId);
    if (shape == null) return; // nobody can use it any more
    synchronized (shape) { // against its removal: what comes last counts, here and on the node
      runtime.node.retrying(session -> {
        session.shuffleRegister(jobId, shuffleId, shape.maps, shape.partitions);
        return null;
      });
      removed.remove(shuffleId);
    }
  }

  /** Not for good: Spark may compute the shuffle again as long as its dependency lives (I2, I3). */
  @Override
  public void removeShuffle(int shuffleId, boolean blocking) {
    // Executors let go of their mappings first (EbbShuffleManager.unregisterShuffle), so that the node can recycle the files.
    SparkEnv.get().blockManager().master().removeShuffle(shuffleId, blocking);
    Shape shape = shuffles.get(shuffleId);
    if (fallback || shape == null) return;
    synchronized (shape) {
      removed.add(shuffleId);
      try {
        runtime.node.session().shuffleRemove(jobId, shuffleId);
      } catch (EbbException e) {
        if (!EbbErrors.isForgotten(e)) {
          LOG.warn("Shuffle {} stays on the Ebb node until the job ends: {}", shuffleId, e.getMessage());
        }
      }
    }
    if (shape.of.refersTo(null)) {
      shuffles.remove(shuffleId, shape);
      removed.remove(shuffleId);
    } else if (isInUse(shuffleId)) {
      usedAgain(shuffleId); // its stage may have begun before the removal did
    }
  }

  @Override
  public boolean supportsReliableStorage() {
    return !fallback;
  }

  @Override
  public void cleanupApplication() {
    if (appId != null) BY_APP.remove(appId, this);
    if (runtime == null) return;
    try {
      stopHousekeeping(); // before the job ends: it must not be opened again
      var ended = runtime.node.session().jobEnd(new Messages.JobRef(jobId, token));
      LOG.info("Ebb job {} ended: {} objects, {} bytes freed", jobId, ended.objects(), ended.freedBytes());
    } catch (EbbException e) {
      LOG.warn("Ebb job {} was not ended, and expires by itself: {}", jobId, e.getMessage());
    } finally {
      runtime.close();
    }
  }
}
