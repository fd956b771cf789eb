/** Jobs: rows of `jobs`. Which objects a job owns is a column of theirs, so a job's row comes and goes by itself. */
import type { JobRecord } from './catalog.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

const COLUMNS = 'job_id, label, created_at, heartbeat_ttl, budget';
type JobRow = [string, string, number, number, number | null];

export class JobTable {
  readonly #tx: SqliteTransactions;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(tx: SqliteTransactions) {
    this.#tx = tx;
    this.#sql = prepareStatements(tx);
  }

  put({ jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes }: JobRecord): void {
    this.#tx.write(this.#sql.put, jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes);
  }

  find(jobId: string): JobRecord | undefined {
    const row = this.#sql.find.get(jobId);
    return row === undefined ? undefined : toJob(row as unknown as JobRow);
  }

  list(): JobRecord[] {
    return (this.#sql.list.all() as unknown as JobRow[]).map(toJob);
  }

  delete(jobId: string): void {
    this.#tx.write(this.#sql.delete, jobId);
  }
}

function toJob([jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes]: JobRow): JobRecord {
  return { jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes };
}

function prepareStatements(tx: SqliteTransactions) {
  return {
    put: tx.prepare(`replace into jobs (${COLUMNS}) values (?, ?, ?, ?, ?)`),
    find: tx.prepare(`select ${COLUMNS} from jobs where job_id = ?`),
    list: tx.prepare(`select ${COLUMNS} from jobs order by job_id`),
    delete: tx.prepare('delete from jobs where job_id = ?'),
  };
}
