/** Every metric that a node offers, from the registry that a node has. Nothing is read: gauges are only described. */
import type { CheckpointService } from '@ebb/checkpoint';
import { Conditions, type ObjectStore } from '@ebb/core';
import type { ShuffleService } from '@ebb/shuffle';
import type { BufferPool } from '../http/buffer-pool.ts';
import type { PeerMemory } from '../http/peer-memory.ts';
import { createMetrics } from '../metrics.ts';

export interface MetricDescription {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly help: string;
}

export function listMetrics(): readonly MetricDescription[] {
  const metrics = createMetrics(new Conditions());
  const unread = {} as unknown;
  metrics.attachBodies({
    pieces: unread as BufferPool,
    held: unread as PeerMemory,
    frames: { heldBytes: 0 },
  });
  metrics.attach({
    store: unread as ObjectStore,
    shuffles: unread as ShuffleService,
    checkpoints: unread as CheckpointService,
    connections: () => 0,
  });
  return metrics.registry.getMetricsAsArray().map((metric) => ({
    name: metric.name,
    // The types of prom-client leave the label names out.
    labels: (metric as { labelNames?: readonly string[] }).labelNames ?? [],
    type: String(metric.type),
    help: metric.help,
  }));
}
