package org.ebb.client;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** The real daemon, from the sources of this checkout, in a process of its own. */
public final class RealNode implements AutoCloseable {
  private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private static final long SETTLE_S = 20;

  private final Path base;
  private final Path repository;
  private final int port;
  private final List<String> flags;
  private final Thread atExit = new Thread(this::destroy);
  private volatile Process process;

  private RealNode(Path repository, Path base, int port, List<String> flags) {
    this.repository = repository;
    this.base = base;
    this.port = port;
    this.flags = flags;
  }

  /** The root of the checkout (or of another, EBB_REPOSITORY), or null when the daemon cannot be run from it. */
  public static Path repository() {
    String other = System.getenv("EBB_REPOSITORY");
    Path at = Path.of(other == null ? "" : other).toAbsolutePath();
    while (at != null && !Files.exists(at.resolve("packages/server/src/main.ts"))) at = at.getParent();
    return at != null && Files.isExecutable(at.resolve("node_modules/.bin/node")) ? at : null;
  }

  /** `flags` are the daemon's own, beside those that say where it lives. */
  public static RealNode start(String memoryLimit, String... flags) throws Exception {
    int port;
    try (java.net.ServerSocket free = new java.net.ServerSocket(0)) {
      port = free.getLocalPort();
    }
    List<String> all = new ArrayList<>(List.of("--memory-limit", memoryLimit));
    all.addAll(List.of(flags));
    RealNode node = new RealNode(repository(), Files.createTempDirectory(Path.of("/dev/shm"), "ebb-real"), port, all);
    try {
      node.start();
    } catch (Exception e) {
      node.close();
      throw e;
    }
    Runtime.getRuntime().addShutdownHook(node.atExit);
    return node;
  }

  public void start() throws Exception {
    List<String> command = new ArrayList<>(List.of(repository.resolve("node_modules/.bin/node").toString(), "--conditions=source",
        "packages/server/src/main.ts", "node", "--data", base.resolve("data").toString(), "--memory-dir", base.resolve("memory").toString(),
        "--listen", "127.0.0.1:" + port, "--s3-listen", "off", "--socket", base.resolve("ebb.sock").toString()));
    command.addAll(flags);
    process = new ProcessBuilder(command).directory(repository.toFile()).redirectErrorStream(true).redirectOutput(base.resolve("log").toFile()).start();
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
    while (true) {
      try {
        if (http("GET", "/readyz").statusCode() == 200) return;
      } catch (IOException e) {
        // not yet
      }
      if (!process.isAlive() || System.nanoTime() > deadline) {
        process.destroyForcibly();
        throw new IllegalStateException("the node did not start: " + Files.readString(base.resolve("log")));
      }
      Thread.sleep(50);
    }
  }

  public HttpResponse<String> http(String method, String path) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(httpUrl() + path)).method(method, HttpRequest.BodyPublishers.noBody()).build();
    return HTTP.send(request, HttpResponse.BodyHandlers.ofString());
  }

  /** Of a metric with its labels the value, without them the sum. */
  public double metric(String name) throws Exception {
    double sum = 0;
    for (String line : http("GET", "/metrics").body().split("\n")) {
      if (line.startsWith(name + " ") || line.startsWith(name + "{")) sum += Double.parseDouble(line.substring(line.lastIndexOf(' ') + 1));
    }
    return sum;
  }

  /** Blobs of anybody, and bytes that are kept or reserved for anybody: recycled files do not count. */
  public String held() throws Exception {
    return "%.0f blobs, %.0f bytes, %.0f of them staged, %.0f jobs".formatted(metric("ebb_tier_blobs"),
        metric("ebb_tier_used_bytes") - metric("ebb_tier_pooled_bytes"), metric("ebb_tier_staged_bytes"), metric("ebb_jobs"));
  }

  public static final String NOTHING_HELD = "0 blobs, 0 bytes, 0 of them staged, 0 jobs";

  /** Waits until the node holds nothing for anybody. Returns what it holds in the end. */
  public String awaitNothingHeld() throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(SETTLE_S);
    while (true) {
      String now = held();
      if (now.equals(NOTHING_HELD) || System.nanoTime() > deadline) return now;
      Thread.sleep(50);
    }
  }

  public String url() {
    return "unix://" + base.resolve("ebb.sock");
  }

  public String httpUrl() {
    return "http://127.0.0.1:" + port;
  }

  public Path memoryDir() {
    return base.resolve("memory");
  }

  /** kill -9. */
  public void kill() throws InterruptedException {
    process.destroyForcibly().waitFor();
  }

  @Override
  public void close() throws Exception {
    destroy();
    Runtime.getRuntime().removeShutdownHook(atExit);
  }

  /** Also at the end of a process that did not close it. */
  private void destroy() {
    try {
      if (process != null) kill();
      try (var files = Files.walk(base)) {
        for (Path path : (Iterable<Path>) files.sorted(java.util.Comparator.reverseOrder())::iterator) Files.deleteIfExists(path);
      }
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
