package org.ebb.hadoop;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.DelegateToFileSystem;
import org.apache.hadoop.fs.Path;

/** {@link EbbFileSystem} for FileContext: `fs.AbstractFileSystem.ebb.impl`. */
public final class EbbFs extends DelegateToFileSystem {
  public EbbFs(URI uri, Configuration conf) throws IOException, URISyntaxException {
    super(uri, new EbbFileSystem(), conf, EbbFileSystem.SCHEME, false);
  }

  /** In one step also with `overwrite`, where the default deletes first. */
  @Override
  public void renameInternal(Path from, Path to, boolean overwrite) throws IOException {
    ((EbbFileSystem) fsImpl).renameTo(from, to, overwrite);
  }

  @Override
  public int getUriDefaultPort() {
    return -1;
  }
}
