/** How queries are planned. Every mode sets the same keys, so that one application can change between modes. */
export const MODES = ['forced', 'stock'] as const;
export type Mode = (typeof MODES)[number];

/** Spark's own defaults (3.5). */
const STOCK_PARTITIONS = 200;
const STOCK_BROADCAST_BYTES = 10_485_760;

/**
 * `stock` is Spark as it comes. `forced` makes every join and aggregation shuffle, in a fixed number of partitions: most of
 * TPC-DS broadcasts everything at small scales, and would say nothing about a shuffle.
 */
export function modeSettings(mode: Mode, partitions: number): Record<string, string> {
  const isForced = mode === 'forced';
  return {
    'spark.sql.adaptive.enabled': String(!isForced),
    'spark.sql.autoBroadcastJoinThreshold': String(isForced ? -1 : STOCK_BROADCAST_BYTES),
    'spark.sql.shuffle.partitions': String(isForced ? partitions : STOCK_PARTITIONS),
  };
}
