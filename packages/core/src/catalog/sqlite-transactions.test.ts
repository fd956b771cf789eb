import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { isStoreError } from '@ebb/protocol';
import { tempDir } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import { SqliteTransactions } from './sqlite-transactions.ts';

test('a transaction that cannot begin refuses its change by a code of ours, and the next one goes on', async () => {
  const file = join(await tempDir(), 'test.sqlite');
  const other = open(file);
  other.exec('create table t (n integer)');
  const database = open(file);
  const hooks = { onCommitted: () => undefined, onRollback: () => undefined };
  const transactions = new SqliteTransactions(database, hooks);
  const insert = transactions.prepare('insert into t (n) values (?)');
  const change = (n: number): Promise<void> =>
    transactions.change(() => transactions.write(insert, n));

  other.exec('begin immediate');
  const refused = await change(1).catch((caught: unknown) => caught);
  expect(isStoreError(refused, 'data_directory_in_use')).toBe(true);
  other.exec('rollback');
  await change(2);
  expect(transactions.prepare('select n from t').all()).toEqual([[2]]);
});

function open(file: string): DatabaseSync {
  const database = new DatabaseSync(file, { timeout: 0 });
  onTestFinished(() => database.close());
  return database;
}
