import path from 'node:path';
import { defineConfig } from 'vitest/config';

const e2e = { testTimeout: 300_000, hookTimeout: 300_000 };
const E2E = ['packages/*/e2e/**/*.test.ts', 'tpcds-bench/e2e/**/*.test.ts'];
/** One after the other, when the rest has ended: they measure, take all of the machine, or run Spark. */
const ALONE = [
  'packages/server/e2e/{campaign,descriptors,s3-bench}.test.ts',
  'tpcds-bench/e2e/**/*.test.ts',
];

// `source` makes `@ebb/*` resolve to src/index.ts, so tests run with no build.
export default defineConfig({
  resolve: { conditions: ['source'] },
  ssr: { resolve: { conditions: ['source'] } },
  test: {
    // Waits that say nothing else end after half a minute, not after vitest's one second.
    setupFiles: [path.join(import.meta.dirname, 'scripts/lib/patient-waits.ts')],
    expect: { poll: { timeout: 30_000 } },
    projects: [
      {
        extends: true,
        test: { name: 'unit', include: ['packages/*/src/**/*.test.ts', 'tpcds-bench/src/**/*.test.ts', 'scripts/**/*.test.ts'], testTimeout: 60_000 },
      },
      {
        extends: true,
        test: { ...e2e, name: 'e2e', include: E2E, exclude: ALONE },
      },
      {
        extends: true,
        test: { ...e2e, name: 'e2e-alone', include: ALONE, fileParallelism: false, sequence: { groupOrder: 1 } },
      },
    ],
  },
});
