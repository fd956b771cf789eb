/** What the surfaces need of a running node. Made in compose.ts; surfaces take it and make nothing themselves. */
import type { CheckpointService } from '@ebb/checkpoint';
import type { Conditions, ObjectStore, PrefixSnapshots } from '@ebb/core';
import type { ShuffleService } from '@ebb/shuffle';
import type { Logger } from 'pino';
import type { HostProofs } from './host-proofs.ts';
import type { Metrics } from './metrics.ts';
import type { RemoteChoice } from './remotes.ts';

/** `read_only`: ready, but every change is refused, by a condition that says why. */
export type NodeState = 'starting' | 'ready' | 'read_only' | 'draining';

/** What the node knows about itself. */
export interface NodeFacts {
  readonly version: string;
  readonly startedAtMs: number;
  /** Changes with each start. */
  readonly instanceId: number;
  readonly socketPath: string | null;
  readonly jobHeartbeatTtlMs: number;
  readonly state: () => NodeState;
  /** Frame connections now. */
  readonly connections: () => number;
  readonly conditions: Conditions;
}

export interface Services {
  readonly store: ObjectStore;
  readonly shuffles: ShuffleService;
  readonly checkpoints: CheckpointService;
  readonly prefixSnapshots: PrefixSnapshots;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly node: NodeFacts;
  readonly hostProofs: HostProofs;
  readonly remotes: RemoteChoice;
}
