/**
 * Whether the catalog takes changes at all. A disk that refuses to sync is final (wal-keeper.ts, K4); one that refuses writes, or
 * became read-only, may come back: then a change of nothing is tried until one goes through.
 */
import type { StoreError } from '@ebb/protocol';
import type { CatalogConditions } from './catalog-room.ts';

const TRY_MS = 1000;

export class CatalogHealth {
  readonly #conditions: CatalogConditions;
  readonly #tryChange: () => Promise<unknown>;
  #poll: NodeJS.Timeout | undefined;
  #isFinal = false;

  constructor(conditions: CatalogConditions, tryChange: () => Promise<unknown>) {
    this.#conditions = conditions;
    this.#tryChange = tryChange;
  }

  noteFinal(error: StoreError): void {
    this.#isFinal = true;
    clearInterval(this.#poll);
    const reason = `${capital(error.message)}.`;
    this.#conditions.enter('catalog_failed', 'catalog', { reason, error });
  }

  noteFailed(error: StoreError): void {
    if (this.#isFinal) return;
    const reason = `The disk refuses what is written to the catalog (${error.message}); it is tried again every second.`;
    this.#conditions.enter('catalog_failed', 'catalog', { reason, error });
    if (this.#poll !== undefined) return;
    this.#poll = setInterval(() => void this.#tryChange().catch(() => undefined), TRY_MS);
    this.#poll.unref();
  }

  noteCommitted(): void {
    if (this.#poll === undefined || this.#isFinal) return;
    clearInterval(this.#poll);
    this.#poll = undefined;
    this.#conditions.leave('catalog_failed', 'catalog');
  }

  close(): void {
    clearInterval(this.#poll);
    this.#isFinal = true;
  }
}

function capital(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
