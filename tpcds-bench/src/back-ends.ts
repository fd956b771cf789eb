/** The arms of a comparison. Whatever is not named here is the same for all of them. */
export const BACK_ENDS = ['vanilla', 'vanilla-tuned', 'ebb', 'ebb-limited'] as const;
export type BackEnd = (typeof BACK_ENDS)[number];

export function usesEbb(backEnd: BackEnd): boolean {
  return backEnd === 'ebb' || backEnd === 'ebb-limited';
}

/**
 * `vanilla-tuned` is there so that no gain is claimed that a setting gives: it keeps Spark from writing one temporary file per
 * map task and partition, which is what Spark does by default up to 200 partitions.
 */
export function vanillaSettings(backEnd: BackEnd): Record<string, string> {
  return backEnd === 'vanilla-tuned' ? { 'spark.shuffle.sort.bypassMergeThreshold': '1' } : {};
}
