export { createTestCa, type Issued, type TestCa } from './certificates.ts';
export { catalogConformance } from './conformance/catalog.ts';
export { catalogEventsConformance } from './conformance/catalog-events.ts';
export { localTierConformance, remoteTierConformance } from './conformance/tier.ts';
export {
  type FaultyProxy,
  type ProxiedRequest,
  type ProxyFault,
  startFaultyProxy,
} from './faulty-proxy.ts';
export { smallTmpfs, tempDir } from './temp-dir.ts';
export { createTestClock, type TestClock } from './test-clock.ts';
export * from './test-store.ts';
