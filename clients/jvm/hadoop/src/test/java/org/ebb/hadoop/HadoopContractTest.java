package org.ebb.hadoop;

import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.contract.AbstractContractBulkDeleteTest;
import org.apache.hadoop.fs.contract.AbstractContractContentSummaryTest;
import org.apache.hadoop.fs.contract.AbstractContractCreateTest;
import org.apache.hadoop.fs.contract.AbstractContractDeleteTest;
import org.apache.hadoop.fs.contract.AbstractContractEtagTest;
import org.apache.hadoop.fs.contract.AbstractContractGetEnclosingRoot;
import org.apache.hadoop.fs.contract.AbstractContractGetFileStatusTest;
import org.apache.hadoop.fs.contract.AbstractContractMkdirTest;
import org.apache.hadoop.fs.contract.AbstractContractOpenTest;
import org.apache.hadoop.fs.contract.AbstractContractRenameTest;
import org.apache.hadoop.fs.contract.AbstractContractRootDirectoryTest;
import org.apache.hadoop.fs.contract.AbstractContractSeekTest;
import org.apache.hadoop.fs.contract.AbstractContractUnbufferTest;
import org.apache.hadoop.fs.contract.AbstractContractVectoredReadTest;
import org.apache.hadoop.fs.contract.AbstractFSContract;
import org.junit.runner.RunWith;
import org.junit.runners.Suite;

/**
 * Hadoop's own contract tests against a real daemon: through its files, and once more through the connection where bytes move.
 * Left out are those of what ebb:// declares not to have: append and concat.
 */
@RunWith(Suite.class)
@Suite.SuiteClasses({
  HadoopContractTest.BulkDelete.class,
  HadoopContractTest.ContentSummary.class,
  HadoopContractTest.Create.class,
  HadoopContractTest.Delete.class,
  HadoopContractTest.Etag.class,
  HadoopContractTest.GetEnclosingRoot.class,
  HadoopContractTest.GetFileStatus.class,
  HadoopContractTest.Mkdir.class,
  HadoopContractTest.Open.class,
  HadoopContractTest.Rename.class,
  HadoopContractTest.RootDirectory.class,
  HadoopContractTest.Seek.class,
  HadoopContractTest.Unbuffer.class,
  HadoopContractTest.VectoredRead.class,
  HadoopContractTest.OpenThroughConnection.class,
  HadoopContractTest.SeekThroughConnection.class,
  HadoopContractTest.CreateThroughConnection.class,
  HadoopContractTest.VectoredReadThroughConnection.class,
})
public class HadoopContractTest {
  private static final String[] THROUGH_CONNECTION = {"fs.ebb.local.files", "false"};

  public static class BulkDelete extends AbstractContractBulkDeleteTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class ContentSummary extends AbstractContractContentSummaryTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Create extends AbstractContractCreateTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Delete extends AbstractContractDeleteTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Etag extends AbstractContractEtagTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class GetEnclosingRoot extends AbstractContractGetEnclosingRoot {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class GetFileStatus extends AbstractContractGetFileStatusTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Mkdir extends AbstractContractMkdirTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Open extends AbstractContractOpenTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Rename extends AbstractContractRenameTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class RootDirectory extends AbstractContractRootDirectoryTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Seek extends AbstractContractSeekTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class Unbuffer extends AbstractContractUnbufferTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class VectoredRead extends AbstractContractVectoredReadTest {
    public VectoredRead(String bufferType) {
      super(bufferType);
    }

    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf);
    }
  }

  public static class OpenThroughConnection extends AbstractContractOpenTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf, THROUGH_CONNECTION);
    }
  }

  public static class SeekThroughConnection extends AbstractContractSeekTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf, THROUGH_CONNECTION);
    }
  }

  public static class CreateThroughConnection extends AbstractContractCreateTest {
    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf, THROUGH_CONNECTION);
    }
  }

  public static class VectoredReadThroughConnection extends AbstractContractVectoredReadTest {
    public VectoredReadThroughConnection(String bufferType) {
      super(bufferType);
    }

    @Override
    protected AbstractFSContract createContract(Configuration conf) {
      return new EbbContract(conf, THROUGH_CONNECTION);
    }
  }
}
