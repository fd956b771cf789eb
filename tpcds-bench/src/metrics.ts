/** How many bytes lie in which tier, over time: read from a node's `/metrics` while the bench runs, for the report. */
import { setTimeout as sleep } from 'node:timers/promises';

export const TIERS = ['memory', 'disk', 'remote'] as const;
export type TierBytes = Record<(typeof TIERS)[number], number>;

export interface TierSample extends TierBytes {
  backend: string;
  /** Since the bench began. */
  seconds: number;
}

const GAUGE = /^ebb_tier_used_bytes\{[^}]*\btier="(memory|disk|remote)"[^}]*\}\s+(\S+)/gm;
const SAMPLE_EVERY_MS = 500;

/** Reads the gauge `ebb_tier_used_bytes{tier="…"}` out of a Prometheus text; a tier that is not there holds nothing. */
export function parseTierBytes(text: string): TierBytes {
  const bytes: TierBytes = { memory: 0, disk: 0, remote: 0 };
  for (const [, tier, value] of text.matchAll(GAUGE))
    bytes[tier as keyof TierBytes] += Number(value);
  return bytes;
}

interface Sampled {
  readTierBytes(signal?: AbortSignal): Promise<TierBytes>;
}

/** Samples nodes until disposed. A node that does not answer leaves a gap, not an error. */
export class TierSampler implements AsyncDisposable {
  readonly samples: TierSample[] = [];
  readonly #abort = new AbortController();
  readonly #loops: Promise<void>[] = [];
  readonly #started: number;

  constructor(started: number) {
    this.#started = started;
  }

  watch(backend: string, node: Sampled): void {
    this.#loops.push(this.#sample(backend, node));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await Promise.all(this.#loops);
  }

  async #sample(backend: string, node: Sampled): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      const seconds = (Date.now() - this.#started) / 1000;
      const bytes = await node.readTierBytes(signal).catch(() => undefined);
      if (bytes !== undefined) this.samples.push({ backend, seconds, ...bytes });
      await sleep(SAMPLE_EVERY_MS, undefined, { signal }).catch(() => {});
    }
  }
}
