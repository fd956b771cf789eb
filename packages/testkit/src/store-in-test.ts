/** Stores that end with the test in which they were opened. */
import type { BucketPolicy } from '@ebb/core';
import { expect, onTestFinished, vi } from 'vitest';
import { openTestStore, type TestStore, type TestStoreOptions } from './test-store.ts';

/** With these buckets, by name. */
export async function openStoreInTest(
  buckets: Readonly<Record<string, BucketPolicy>>,
  options: TestStoreOptions = {},
): Promise<TestStore> {
  const at = await openTestStore(options);
  closeWithTest(at);
  for (const [name, policy] of Object.entries(buckets)) await at.store.createBucket(name, policy);
  return at;
}

/** What a crash leaves, opened again. */
export async function reopen(
  at: TestStore,
  how: Parameters<TestStore['crash']>[0] = {},
): Promise<TestStore> {
  const next = await at.crash(how);
  closeWithTest(next);
  return next;
}

/** Until tier 2 has all that it is owed. */
export async function mirrored(at: TestStore): Promise<void> {
  await vi.waitFor(async () => expect((await at.store.spool()).entries).toBe(0), {
    timeout: 20_000,
  });
}

function closeWithTest(at: TestStore): void {
  onTestFinished(async () => await at.close());
}
