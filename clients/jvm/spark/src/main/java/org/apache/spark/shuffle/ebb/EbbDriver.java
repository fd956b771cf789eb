package org.apache.spark.shuffle.ebb;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.shuffle.api.ShuffleDriverComponents;
import org.ebb.client.EbbException;
import org.ebb.client.EbbNode;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The driver's half: opens the job (the application is the job), keeps it alive, registers and removes shuffles, ends it.
 * Whether this application shuffles through Ebb is decided here, once, when it starts.
 */
final class EbbDriver implements ShuffleDriverComponents {
  private static final Logger LOG = LoggerFactory.getLogger(EbbDriver.class);
  private static final ConcurrentHashMap<String, EbbDriver> BY_APP = new ConcurrentHashMap<>();

  private final SparkConf conf;
  private String appId;
  private EbbRuntime runtime;
  private boolean fallback;
  private ScheduledThreadPoolExecutor heartbeats;

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
      throw new IllegalArgumentException(EbbShuffleDataIO.class.getName() + " works only together with " + EbbSettings.MANAGER + "="
          + EbbShuffleManager.class.getName() + ", which is " + manager);
    }
    appId = conf.getAppId();
    EbbSettings settings = new EbbSettings(conf);
    try {
      if (settings.node.isEmpty()) throw new EbbException("config_invalid", EbbRuntime.missingNode());
      runtime = EbbRuntime.of(conf, "driver");
      runtime.node.session().jobOpen(appId, settings.heartbeatTtlMs, conf.get("spark.app.name", ""));
      startHeartbeats(settings);
    } catch (EbbException e) {
      if (runtime != null) runtime.close();
      runtime = null;
      if (!settings.fallback) throw new IllegalStateException(noNode(settings, e), e);
      LOG.warn("{} Falling back to Spark's own shuffle ({}=true): map outputs of a lost executor are lost with it.", noNode(settings, e), EbbSettings.FALLBACK);
      fallback = true;
    }
    BY_APP.put(appId, this);
    return Map.of();
  }

  private static String noNode(EbbSettings settings, EbbException e) {
    return "Cannot shuffle through the Ebb node at '" + settings.node + "': " + e.getMessage() + ". Start it (`npx ebb node`), correct "
        + EbbSettings.NODE + ", or set " + EbbSettings.FALLBACK + "=true to run with Spark's own shuffle when no node answers.";
  }

  private void startHeartbeats(EbbSettings settings) {
    heartbeats = new ScheduledThreadPoolExecutor(1, task -> {
      Thread thread = new Thread(task, "ebb-heartbeat");
      thread.setDaemon(true);
      return thread;
    });
    long everyMs = Math.max(100, settings.heartbeatTtlMs / 4);
    heartbeats.scheduleWithFixedDelay(() -> heartbeat(settings), everyMs, everyMs, TimeUnit.MILLISECONDS);
  }

  private void heartbeat(EbbSettings settings) {
    try {
      runtime.node.session().jobHeartbeat(appId);
    } catch (EbbException e) {
      if (e.is("job_not_found")) {
        // It expired while the node could not hear us; what it owned is gone, and Spark computes that anew.
        LOG.warn("Ebb node {} no longer knew job {}; opening it again.", runtime.node.url(), appId);
        try {
          runtime.node.session().jobOpen(appId, settings.heartbeatTtlMs, conf.get("spark.app.name", ""));
        } catch (EbbException again) {
          LOG.warn("Ebb job {} could not be opened again: {}", appId, again.getMessage());
        }
      } else {
        LOG.warn("Heartbeat to Ebb node {} failed: {}", runtime.node.url(), e.getMessage());
      }
    } catch (RuntimeException e) {
      LOG.warn("Heartbeat to the Ebb node failed", e);
    }
  }

  boolean isFallback() {
    return fallback;
  }

  void registerShuffle(int shuffleId, int maps, int partitions) {
    EbbNode node = runtime.node;
    try {
      node.retrying(session -> {
        session.shuffleRegister(appId, shuffleId, maps, partitions);
        return null;
      });
    } catch (EbbException e) {
      throw new IllegalStateException("shuffle " + shuffleId + " could not be registered: " + e.getMessage(), e);
    }
  }

  @Override
  public void removeShuffle(int shuffleId, boolean blocking) {
    // Executors let go of their mappings first (EbbShuffleManager.unregisterShuffle), so that the node can recycle the files.
    SparkEnv.get().blockManager().master().removeShuffle(shuffleId, blocking);
    if (fallback) return;
    try {
      runtime.node.session().shuffleRemove(appId, shuffleId);
    } catch (EbbException e) {
      if (!e.is("shuffle_not_found") && !e.is("job_not_found")) {
        LOG.warn("Shuffle {} stays on the Ebb node until the job ends: {}", shuffleId, e.getMessage());
      }
    }
  }

  @Override
  public boolean supportsReliableStorage() {
    return !fallback;
  }

  @Override
  public void cleanupApplication() {
    if (appId != null) BY_APP.remove(appId, this);
    if (heartbeats != null) heartbeats.shutdownNow();
    if (runtime == null) return;
    try {
      var ended = runtime.node.session().jobEnd(appId);
      LOG.info("Ebb job {} ended: {} objects, {} bytes freed", appId, ended.objects(), ended.freedBytes());
    } catch (EbbException e) {
      LOG.warn("Ebb job {} was not ended, and expires by itself: {}", appId, e.getMessage());
    }
  }
}
