/**
 * Jobs: rows of `jobs`, and their tokens beside them. Which objects a job owns is a column of theirs, so a job's row comes and
 * goes by itself.
 */
import type { JobRecord } from './catalog.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

const COLUMNS = 'job_id, label, created_at, heartbeat_ttl, budget';
type JobRow = [string, string, number, number, number | null, string | null];

/** A file that was made without it gets it when it is opened. A program of then leaves its rows alone. Persisted, keep stable. */
export const JOB_TOKENS_SCHEMA = `
  create table if not exists job_tokens (job_id text primary key, token text not null) strict, without rowid;
`;

export class JobTable {
  readonly #tx: SqliteTransactions;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(tx: SqliteTransactions) {
    this.#tx = tx;
    this.#sql = prepareStatements(tx);
  }

  put({ jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes, token }: JobRecord): void {
    this.#tx.write(this.#sql.put, jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes);
    this.#tx.write(this.#sql.putToken, jobId, token);
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
    this.#tx.write(this.#sql.deleteToken, jobId);
  }
}

function toJob([jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes, token]: JobRow): JobRecord {
  return { jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes, token: token ?? '' };
}

function prepareStatements(tx: SqliteTransactions) {
  return {
    put: tx.prepare(`replace into jobs (${COLUMNS}) values (?, ?, ?, ?, ?)`),
    putToken: tx.prepare('replace into job_tokens (job_id, token) values (?, ?)'),
    find: tx.prepare(
      `select ${COLUMNS}, token from jobs left join job_tokens using (job_id) where job_id = ?`,
    ),
    list: tx.prepare(
      `select ${COLUMNS}, token from jobs left join job_tokens using (job_id) order by job_id`,
    ),
    delete: tx.prepare('delete from jobs where job_id = ?'),
    deleteToken: tx.prepare('delete from job_tokens where job_id = ?'),
  };
}
