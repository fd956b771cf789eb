/**
 * Loaded before the node: from SIGUSR2 on fdatasync of the catalog's files fails with EIO, as on a disk that lost its writes.
 * Everything else is real.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const real = fs.fdatasync;
let fails = false;
process.on('SIGUSR2', () => {
  fails = true;
});
fs.fdatasync = (fd, done) => {
  if (fails && fs.readlinkSync(`/proc/self/fd/${fd}`).includes('/catalog.sqlite'))
    setImmediate(done, Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' }));
  else real(fd, done);
};
syncBuiltinESMExports();
