/**
 * Ids that are given out once: of blobs, versions and writes.
 *
 * D1  Ids are reserved on disk in blocks, and a block is durable before its first id is handed out: after a power cut no id
 *     may come again, since files and tier 2 know them. What was reserved and not used is a gap.
 * D2  The next block is reserved ahead of need, so that nobody waits for the disk but the first.
 */
import type { StatementSync } from 'node:sqlite';
import { assert } from '@ebb/protocol';
import type { SqliteTransactions } from './sqlite-transactions.ts';

const BLOCK = 65_536;
const PER_CALL_MAX = BLOCK;

export class IdAllocator {
  readonly #tx: SqliteTransactions;
  readonly #durable: () => Promise<void>;
  readonly #setReserved: StatementSync;
  #next: number;
  #reserved: number;
  #reservation: Promise<void> | undefined;

  /** `durable` resolves when all that was committed before is; ids up to `reserved` may have been handed out before. */
  constructor(
    tx: SqliteTransactions,
    options: { readonly reserved: number; readonly durable: () => Promise<void> },
  ) {
    this.#tx = tx;
    this.#durable = options.durable;
    this.#setReserved = tx.prepare("update meta set value = ? where name = 'ids_reserved'");
    this.#next = options.reserved + 1;
    this.#reserved = options.reserved;
  }

  /** The first of `count` ids. */
  async take(count: number): Promise<number> {
    assert(Number.isInteger(count) && count >= 1, 'ids are asked for in whole numbers from 1');
    assert(count <= PER_CALL_MAX, `at most ${PER_CALL_MAX} ids a call`);
    while (this.#next + count - 1 > this.#reserved) await this.#reserve();
    const first = this.#next;
    this.#next += count;
    // (D2) A failure shows up when the block is needed.
    if (this.#reserved - this.#next < BLOCK / 2) this.#reserve().catch(() => undefined);
    return first;
  }

  #reserve(): Promise<void> {
    this.#reservation ??= this.#reserveBlock().finally(() => {
      this.#reservation = undefined;
    });
    return this.#reservation;
  }

  async #reserveBlock(): Promise<void> {
    const reserved = this.#reserved + BLOCK;
    await this.#tx.change(() => this.#tx.write(this.#setReserved, reserved));
    await this.#durable();
    this.#reserved = reserved;
  }
}
