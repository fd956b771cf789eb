/** Begins a put and is killed in the midst of it: a process of its own for s3-tier.test.ts. */
import { openS3Tier, parseS3Location } from '@ebb/core';

const [location, credentials, uploadJournal, file, length] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string,
];
const tier = openS3Tier({
  target: parseS3Location(location, { allowsEndpoint: true }),
  credentials: JSON.parse(credentials),
  names: 'bucket/key',
  uploadJournal,
});
await tier.put('b/killed', [{ file, offset: 0, length: Number(length), crc32c: null }]);
