import type { EbbClient } from '@ebb/client';
import { expect, vi } from 'vitest';

/** Until tier 2 has all that it is owed. */
export async function mirrored(client: EbbClient, timeoutMs: number): Promise<void> {
  await vi.waitFor(async () => expect((await client.status()).mirrorBacklogObjects).toBe(0), {
    ...{ timeout: timeoutMs, interval: 100 },
  });
}
