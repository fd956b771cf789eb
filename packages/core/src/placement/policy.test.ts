import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  bytesToFree,
  durabilityOf,
  durabilityOfObject,
  equalPolicies,
  meets,
  resolvePolicy,
  shouldPromote,
  stagingTiers,
} from './policy.ts';

const acks = ['memory', 'disk', 'remote'] as const;
const usage = fc
  .record({ capacityBytes: fc.nat(1_000_000), used: fc.nat(100), pooled: fc.nat(100) })
  .map(({ capacityBytes, used, pooled }) => {
    const usedBytes = Math.floor((capacityBytes * used) / 100);
    return { capacityBytes, usedBytes, pooledBytes: Math.floor((usedBytes * pooled) / 100) };
  });
const marks = fc
  .tuple(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 100 }))
  .map(([a, b]) => ({ high: Math.max(a, b) / 100, low: Math.min(a, b) / 100 }));

describe('policy', () => {
  test('presets mean what they are called, and each part can be said otherwise', () => {
    expect(resolvePolicy({})).toEqual(resolvePolicy({ preset: 'buffered' }));
    expect(resolvePolicy({ preset: 'ephemeral' })).toMatchObject({ ack: 'memory', mirror: false });
    expect(resolvePolicy({ preset: 'buffered' })).toMatchObject({ ack: 'disk', mirror: true });
    expect(resolvePolicy({ preset: 'durable' })).toMatchObject({ ack: 'remote', mirror: true });
    const refined = resolvePolicy({ preset: 'ephemeral', ack: 'disk', ttlMs: 5, quotaBytes: 7 });
    expect(refined).toEqual({
      preset: 'ephemeral',
      ack: 'disk',
      mirror: false,
      ttlMs: 5,
      quotaBytes: 7,
      remote: null,
      revalidateMs: null,
      versioning: 'off',
    });
    expect(equalPolicies(refined, { ...refined })).toBe(true);
    expect(equalPolicies(refined, { ...refined, ttlMs: null })).toBe(false);
    expect(equalPolicies(refined, { ...refined, versioning: 'enabled' })).toBe(false);
  });

  test('what must outlive the host is staged on disk, unless a tier was named', () => {
    expect(stagingTiers(resolvePolicy({ preset: 'ephemeral' }), undefined)).toEqual([0, 1]);
    expect(stagingTiers(resolvePolicy({ preset: 'buffered' }), undefined)).toEqual([1]);
    expect(stagingTiers(resolvePolicy({ preset: 'durable' }), 0)).toEqual([0]);
  });

  test('below the high mark nothing is to be freed, above it as much as leads to the low mark', () => {
    fc.assert(
      fc.property(usage, marks, (now, at) => {
        const live = now.usedBytes - now.pooledBytes;
        const free = bytesToFree(now, at);
        if (live <= now.capacityBytes * at.high) expect(free).toBe(0);
        else {
          expect(live - free).toBeLessThanOrEqual(now.capacityBytes * at.low);
          expect(live - free).toBeGreaterThan(now.capacityBytes * at.low - 1);
        }
      }),
    );
  });

  test('a promotion never brings memory above its low mark, so that it pushes nobody out', () => {
    fc.assert(
      fc.property(usage, marks, fc.nat(200_000), fc.nat(4), (now, at, sizeBytes, readsSeen) => {
        if (!shouldPromote({ sizeBytes, readsSeen }, now, at)) return;
        expect(readsSeen).toBeGreaterThanOrEqual(2);
        const after = { ...now, usedBytes: now.usedBytes + sizeBytes };
        expect(bytesToFree(after, at)).toBe(0);
      }),
    );
  });

  test('durability follows from where copies lie, and is ordered', () => {
    const remote = { name: 'b/k', offset: 0, etag: 'e' };
    expect(durabilityOf({ diskBytes: null, remote: null })).toBe('memory');
    expect(durabilityOf({ diskBytes: 1, remote: null })).toBe('disk');
    expect(durabilityOf({ diskBytes: null, remote })).toBe('remote');
    for (const [i, have] of acks.entries())
      for (const [j, want] of acks.entries()) expect(meets(have, want)).toBe(i >= j);
  });

  test('an object of a mirrored bucket is remote when it is stored under its own name, and not before', () => {
    const remote = { name: 'b/another', offset: 0, etag: 'e' };
    const blobs = [{ diskBytes: null, remote }];
    const of = (preset: 'ephemeral' | 'buffered', remoteEtag: string | null, have = blobs) =>
      durabilityOfObject({ remoteEtag }, have, resolvePolicy({ preset }));
    expect(of('buffered', null)).toBe('disk');
    expect(of('buffered', 'e')).toBe('remote');
    expect(of('ephemeral', null)).toBe('remote');
    expect(of('buffered', null, [])).toBe('disk');
    expect(of('ephemeral', null, [])).toBe('memory');
  });
});
