/** Tier 2 on an object store: the conformance suite against Ebb's own S3 surface, and against MinIO where there is one. */
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { openS3Tier, parseS3Location, type S3Tier } from '@ebb/core';
import { remoteTierConformance } from '@ebb/testkit';
import { afterAll, beforeAll, describe } from 'vitest';
import { type ObjectStore, objectStores } from './support/object-store.ts';

let count = 0;
for (const { name, start } of objectStores()) {
  describe(name, () => {
    let store: ObjectStore;
    beforeAll(async () => {
      store = await start();
    });
    afterAll(async () => {
      await store[Symbol.asyncDispose]();
    });
    remoteTierConformance('an S3 tier', {
      open: async () => {
        count++;
        return await Promise.resolve(
          openS3Tier({
            target: parseS3Location(`s3://tier/test-${count}?endpoint=${store.url}`, {
              allowsEndpoint: true,
            }),
            credentials: store.credentials,
            names: 'bucket/key',
          }),
        );
      },
    });
  });
}
