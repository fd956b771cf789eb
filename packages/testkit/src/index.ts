export { type HttpAnswer, startAnsweringServer } from './answering-server.ts';
export { bytesOf } from './bytes-of.ts';
export {
  type Carelessness,
  type CarelessStore,
  startCarelessStore,
} from './careless-store.ts';
export { createTestCa, type Issued, type TestCa } from './certificates.ts';
export { codeOf } from './code-of.ts';
export { catalogConformance } from './conformance/catalog.ts';
export { catalogEventsConformance } from './conformance/catalog-events.ts';
export { localTierConformance, putFile, remoteTierConformance } from './conformance/tier.ts';
export {
  type FaultyProxy,
  type ProxiedRequest,
  type ProxyFault,
  startFaultyProxy,
} from './faulty-proxy.ts';
export { mirrored, openStoreInTest, reopen } from './store-in-test.ts';
export { openStrangerNode, type StrangerNode, type StrangerOptions } from './stranger-node.ts';
export { smallTmpfs, tempDir } from './temp-dir.ts';
export { createTestClock, type TestClock } from './test-clock.ts';
export * from './test-store.ts';
