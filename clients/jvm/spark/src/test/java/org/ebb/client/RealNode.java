package org.ebb.client;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** The real daemon, from the sources of this checkout, in a process of its own. */
public final class RealNode implements AutoCloseable {
  private final Path base;
  private final Path repository;
  private final int port;
  private final String memoryLimit;
  private Process process;

  private RealNode(Path repository, Path base, int port, String memoryLimit) {
    this.repository = repository;
    this.base = base;
    this.port = port;
    this.memoryLimit = memoryLimit;
  }

  /** The root of the checkout (or of another, EBB_REPOSITORY), or null when the daemon cannot be run from it. */
  public static Path repository() {
    String other = System.getenv("EBB_REPOSITORY");
    Path at = Path.of(other == null ? "" : other).toAbsolutePath();
    while (at != null && !Files.exists(at.resolve("packages/server/src/main.ts"))) at = at.getParent();
    return at != null && Files.isExecutable(at.resolve("node_modules/.bin/node")) ? at : null;
  }

  public static RealNode start(String memoryLimit) throws Exception {
    int port;
    try (java.net.ServerSocket free = new java.net.ServerSocket(0)) {
      port = free.getLocalPort();
    }
    RealNode node = new RealNode(repository(), Files.createTempDirectory(Path.of("/dev/shm"), "ebbreal"), port, memoryLimit);
    node.start();
    return node;
  }

  public void start() throws Exception {
    process = new ProcessBuilder(List.of(repository.resolve("node_modules/.bin/node").toString(), "--conditions=source",
        "packages/server/src/main.ts", "node", "--data", base.resolve("data").toString(), "--memory-dir", base.resolve("memory").toString(),
        "--memory-limit", memoryLimit, "--listen", "127.0.0.1:" + port, "--socket", base.resolve("ebb.sock").toString()))
        .directory(repository.toFile()).redirectErrorStream(true).redirectOutput(base.resolve("log").toFile()).start();
    HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    HttpRequest ready = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + "/readyz")).build();
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
    while (true) {
      try {
        if (http.send(ready, HttpResponse.BodyHandlers.discarding()).statusCode() == 200) return;
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
    kill();
    try (var files = Files.walk(base)) {
      for (Path path : (Iterable<Path>) files.sorted(java.util.Comparator.reverseOrder())::iterator) Files.deleteIfExists(path);
    }
  }
}
