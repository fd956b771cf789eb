/** Begins a put and is killed in the midst of it: a process of its own for s3-tier.test.ts, with credentials from its environment. */
import { openS3Tier, parseS3Location } from '@ebb/core';

const [location, uploadJournal, file, length] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
];
const tier = openS3Tier({
  target: parseS3Location(location, { allowsEndpoint: true }),
  names: 'bucket/key',
  uploadJournal,
});
await tier.put('b/killed', [{ file, offset: 0, length: Number(length), crc32c: null }]);
