import type { Catalog } from '../catalog/catalog.ts';

const ID_BLOCK = 256;

/** Takes ids in blocks, the next one ahead of need, so that most calls find one without asking the catalog. */
export class IdBlocks {
  readonly #catalog: Catalog;
  #next = 0;
  #end = 0;
  #spare: number | undefined;
  #refill: Promise<void> | undefined;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  take(): number | undefined {
    if (this.#next === this.#end) {
      if (this.#spare === undefined) return undefined;
      this.#next = this.#spare;
      this.#end = this.#spare + ID_BLOCK;
      this.#spare = undefined;
    }
    // A failure shows when the ids are needed.
    if (this.#spare === undefined && this.#refill === undefined)
      this.#fetch().catch(() => undefined);
    return this.#next++;
  }

  async next(): Promise<number> {
    for (;;) {
      const id = this.take();
      if (id !== undefined) return id;
      await this.#fetch();
    }
  }

  #fetch(): Promise<void> {
    this.#refill ??= this.#catalog
      .nextIds(ID_BLOCK)
      .then((first) => {
        this.#spare = first;
      })
      .finally(() => {
        this.#refill = undefined;
      });
    return this.#refill;
  }
}
