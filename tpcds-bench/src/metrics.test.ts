import { expect, test } from 'vitest';
import { parseTierBytes } from './metrics.ts';

test('reads the used bytes of each tier out of a Prometheus text', () => {
  const text = `# HELP ebb_tier_used_bytes Bytes in a tier.
# TYPE ebb_tier_used_bytes gauge
ebb_tier_used_bytes{tier="memory"} 1048576
ebb_tier_used_bytes{node="a",tier="disk"} 2.5e6
ebb_tier_capacity_bytes{tier="memory"} 99
`;
  expect(parseTierBytes(text)).toEqual({ memory: 1048576, disk: 2_500_000, remote: 0 });
  expect(parseTierBytes('')).toEqual({ memory: 0, disk: 0, remote: 0 });
});
