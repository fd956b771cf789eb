export type * from './catalog/catalog.ts';
export { type Clock, systemClock } from './clock.ts';
export type * from './store/object-store.ts';
export type {
  LocalBlob,
  LocalTier,
  LocalTierUsage,
  Mover,
  RemoteTier,
  RemoteTierCapabilities,
} from './tier/tier.ts';
