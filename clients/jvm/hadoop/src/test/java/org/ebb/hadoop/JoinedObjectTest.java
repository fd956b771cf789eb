package org.ebb.hadoop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileRange;
import org.apache.hadoop.fs.Path;
import org.ebb.client.RealNode;
import org.ebb.client.RealNodeExtension;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Objects of many extents, as multipart uploads make them: 20 times the same 5 MiB, and a short end. */
@Timeout(120)
class JoinedObjectTest {
  private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private static final int PART_BYTES = 5 << 20;
  private static final int PARTS = 20;
  private static final byte[] PART = EbbFileSystemTest.random(1, PART_BYTES);
  private static final byte[] END = EbbFileSystemTest.random(2, 1000);
  private String s3;

  private String call(String method, String target, String body, String... headers) throws Exception {
    HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(s3 + target)).method(method, HttpRequest.BodyPublishers.ofString(body));
    for (int i = 0; i < headers.length; i += 2) request.header(headers[i], headers[i + 1]);
    HttpResponse<String> answer = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    assertEquals(200, answer.statusCode(), answer::body);
    return answer.body();
  }

  private static String find(String xml, String element) {
    Matcher found = Pattern.compile("<" + element + ">(.*?)</" + element + ">").matcher(xml);
    assertTrue(found.find(), xml);
    return found.group(1).replace("&quot;", "\"");
  }

  private static byte expected(long position) {
    return position < (long) PARTS * PART_BYTES ? PART[(int) (position % PART_BYTES)] : END[(int) (position - (long) PARTS * PART_BYTES)];
  }

  private static byte[] expected(long from, int bytes) {
    byte[] all = new byte[bytes];
    for (int i = 0; i < bytes; i++) all[i] = expected(from + i);
    return all;
  }

  @Test
  void isReadAsOneFile() throws Exception {
    RealNodeExtension.assumeThere();
    int port;
    try (ServerSocket free = new ServerSocket(0)) {
      port = free.getLocalPort();
    }
    s3 = "http://127.0.0.1:" + port;
    try (RealNode node = RealNode.start("64MiB", "--s3-listen", "127.0.0.1:" + port);
        EbbFileSystem direct = SharedNode.fileSystem(node, "joined");
        EbbFileSystem connected = SharedNode.fileSystem(node, "joined", "fs.ebb.local.files", "false")) {
      EbbFileSystemTest.write(direct, "/part", PART);
      EbbFileSystemTest.write(direct, "/end", END);
      join();
      long size = (long) PARTS * PART_BYTES + END.length;
      for (EbbFileSystem fs : List.of(direct, connected)) {
        assertEquals(size, fs.getFileStatus(new Path("/whole")).getLen());
        try (FSDataInputStream in = fs.open(new Path("/whole"))) {
          byte[] piece = new byte[3 << 20];
          for (long at = 0; at < size; at += piece.length) {
            int bytes = (int) Math.min(piece.length, size - at);
            in.readFully(piece, 0, bytes);
            assertArrayEquals(expected(at, bytes), java.util.Arrays.copyOf(piece, bytes), "from " + at);
          }
          assertEquals(-1, in.read());
          List<FileRange> ranges = new ArrayList<>();
          for (int i = 1; i <= PARTS; i++) ranges.add(FileRange.createFileRange((long) i * PART_BYTES - 500, 1000));
          in.readVectored(ranges, ByteBuffer::allocateDirect);
          for (FileRange range : ranges) {
            assertEquals(ByteBuffer.wrap(expected(range.getOffset(), range.getLength())), range.getData().get());
          }
        }
      }
    }
  }

  private void join() throws Exception {
    String upload = find(call("POST", "/joined/whole?uploads", ""), "UploadId");
    StringBuilder done = new StringBuilder("<CompleteMultipartUpload>");
    for (int i = 1; i <= PARTS + 1; i++) {
      String source = "/joined/" + (i <= PARTS ? "part" : "end");
      String copied = call("PUT", "/joined/whole?partNumber=" + i + "&uploadId=" + upload, "", "x-amz-copy-source", source);
      done.append("<Part><PartNumber>").append(i).append("</PartNumber><ETag>").append(find(copied, "ETag")).append("</ETag></Part>");
    }
    call("POST", "/joined/whole?uploadId=" + upload, done.append("</CompleteMultipartUpload>").toString());
  }
}
