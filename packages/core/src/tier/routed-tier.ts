/**
 * Several places of tier 2 as one: a name that begins with `|TARGET|` lies in the tier of that target under the rest of the
 * name, every other in the fallback.
 *
 * I1  A target's tier is opened once, with its first name; one that could not be opened is tried again with the next.
 * I2  Closing closes every tier, also when one fails.
 */
import { StoreError } from '@ebb/protocol';
import type {
  RemoteDeleteOptions,
  RemoteHeaders,
  RemoteListOptions,
  RemoteObject,
  RemotePutOptions,
  RemoteReadOptions,
  RemoteRun,
  RemoteSource,
  RemoteTier,
} from './tier.ts';

export interface RoutedTierOptions {
  /** Closed with the routed tier. */
  readonly fallback: RemoteTier;
  /** The target stands between the bars of the name, so it holds none; `bucket` is that of the first name. */
  readonly open: (target: string, bucket: string) => Promise<RemoteTier>;
}

export function createRoutedTier(options: RoutedTierOptions): RemoteTier {
  return new RoutedTier(options);
}

interface Route {
  readonly tier: RemoteTier;
  /** As the tier knows it. */
  readonly name: string;
  /** What to put before a name of the tier; '' of the fallback. */
  readonly mark: string;
}

class RoutedTier implements RemoteTier {
  readonly location: string;
  readonly #fallback: RemoteTier;
  readonly #open: RoutedTierOptions['open'];
  readonly #tiers = new Map<string, Promise<RemoteTier>>();
  /** Of those that are open. */
  readonly #opened = new Map<string, RemoteTier>();
  #isClosed = false;

  constructor({ fallback, open }: RoutedTierOptions) {
    this.location = fallback.location;
    this.#fallback = fallback;
    this.#open = open;
  }

  async put(
    name: string,
    sources: readonly RemoteSource[],
    options?: RemotePutOptions,
  ): Promise<RemoteObject> {
    const { tier, name: rest } = await this.#route(name);
    return await tier.put(rest, sources, options);
  }

  async read(
    name: string,
    target: Uint8Array,
    position: number,
    options?: RemoteReadOptions,
  ): Promise<void> {
    const { tier, name: rest } = await this.#route(name);
    await tier.read(rest, target, position, options);
  }

  async fetch(name: string, file: string, run: RemoteRun): Promise<number> {
    const { tier, name: rest } = await this.#route(name);
    return await tier.fetch(rest, file, run);
  }

  async copy(
    from: string,
    to: string,
    run: Omit<RemoteRun, 'crc32c' | 'signal'>,
  ): Promise<RemoteObject> {
    const [source, copy] = [await this.#route(from), await this.#route(to)];
    if (source.tier === copy.tier) return await source.tier.copy(source.name, copy.name, run);
    const message = `${from} and ${to} lie in two places of tier 2, and neither copies from the other`;
    throw new StoreError('unsupported', message, { from, to });
  }

  async head(name: string): Promise<(RemoteObject & RemoteHeaders) | undefined> {
    const { tier, name: rest } = await this.#route(name);
    return await tier.head(rest);
  }

  async presign(name: string, options: { readonly seconds: number }): Promise<string | undefined> {
    const { tier, name: rest } = await this.#route(name);
    return await tier.presign(rest, options);
  }

  async delete(name: string, options?: RemoteDeleteOptions): Promise<void> {
    const { tier, name: rest } = await this.#route(name);
    await tier.delete(rest, options);
  }

  /** Of a target that is not open yet only what every tier asks for is known: the put has the last word. */
  accepts(name: string): boolean {
    const parsed = parseName(name);
    if (parsed === undefined) return this.#fallback.accepts(name);
    const tier = this.#opened.get(parsed.target);
    return tier === undefined ? /^[^/]+\/./.test(parsed.rest) : tier.accepts(parsed.rest);
  }

  async *list(
    prefix: string,
    options?: RemoteListOptions,
  ): AsyncIterable<RemoteObject & { readonly name: string }> {
    const { tier, name, mark } = await this.#route(prefix);
    for await (const entry of tier.list(name, options)) yield { ...entry, name: mark + entry.name };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const targets = await Promise.allSettled(this.#tiers.values());
    const opened = targets.flatMap((result) =>
      result.status === 'fulfilled' ? [result.value] : [],
    );
    const closed = [this.#fallback, ...opened].map(async (tier) => await tier.close());
    const failed = (await Promise.allSettled(closed)).find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
  }

  async #route(name: string): Promise<Route> {
    const parsed = parseName(name);
    if (parsed === undefined) return { tier: this.#fallback, name, mark: '' };
    const { target, rest } = parsed;
    const [bucket = ''] = rest.split('/', 1);
    return { tier: await this.#tierOf(target, bucket), name: rest, mark: `|${target}|` };
  }

  async #tierOf(target: string, bucket: string): Promise<RemoteTier> {
    if (this.#isClosed) throw new StoreError('draining', 'this tier is closed');
    const known = this.#tiers.get(target);
    if (known !== undefined) return await known;
    const opening = this.#open(target, bucket);
    this.#tiers.set(target, opening);
    try {
      const tier = await opening;
      this.#opened.set(target, tier);
      return tier;
    } catch (error) {
      this.#tiers.delete(target);
      throw error;
    }
  }
}

function parseName(name: string): { readonly target: string; readonly rest: string } | undefined {
  const [, target, rest] = /^\|([^|]+)\|(.*)$/s.exec(name) ?? [];
  return target === undefined || rest === undefined ? undefined : { target, rest };
}
