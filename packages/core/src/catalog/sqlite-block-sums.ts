/**
 * Checksums of the blocks of blobs that have more than one: what a range is compared with when it is read (store/block-sums.ts,
 * which says how large blocks are). Rows hold runs of them, so that a range of a large blob reads those of its own blocks.
 */
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** A file that was made without it gets it when it is opened. A program of then leaves its rows alone. Persisted, keep stable. */
export const BLOCK_SUMS_SCHEMA = `
  create table if not exists block_sums (
    blob_id integer not null, first_block integer not null, sums blob not null, primary key (blob_id, first_block)
  ) strict, without rowid;
`;

const SUM_BYTES = 4;

export class BlockSumTable {
  readonly #tx: SqliteTransactions;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(tx: SqliteTransactions) {
    this.#tx = tx;
    this.#sql = prepareStatements(tx);
  }

  put(blobId: number, firstBlock: number, sums: readonly number[]): void {
    const bytes = Buffer.allocUnsafe(sums.length * SUM_BYTES);
    for (const [at, sum] of sums.entries()) bytes.writeUInt32LE(sum, at * SUM_BYTES);
    this.#tx.write(this.#sql.put, blobId, firstBlock, bytes);
  }

  find(blobId: number, firstBlock: number): Uint32Array | undefined {
    const row = this.#sql.find.get(blobId, firstBlock) as unknown as [Uint8Array] | undefined;
    if (row === undefined || row[0].length % SUM_BYTES !== 0) return undefined;
    const bytes = Buffer.from(row[0].buffer, row[0].byteOffset, row[0].byteLength);
    return Uint32Array.from({ length: bytes.length / SUM_BYTES }, (_, at) =>
      bytes.readUInt32LE(at * SUM_BYTES),
    );
  }

  drop(blobId: number): void {
    this.#tx.write(this.#sql.drop, blobId);
  }
}

function prepareStatements(tx: SqliteTransactions) {
  return {
    put: tx.prepare('replace into block_sums (blob_id, first_block, sums) values (?, ?, ?)'),
    find: tx.prepare('select sums from block_sums where blob_id = ? and first_block = ?'),
    drop: tx.prepare('delete from block_sums where blob_id = ?'),
  };
}
