/** boto3 with its default settings against a real node; what it does is in s3_boto3.py. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { cleanEnv, startNodeProcess } from '../../client/e2e/support/node-process.ts';

const REPO = join(import.meta.dirname, '../../..');
const PYTHON = join(REPO, '.ebb/venv/bin/python');
const SECRET = 'a secret with spaces & signs';

test.each([
  ['with access keys', { EBB_ACCESS_KEY_ID: 'EBBTESTKEY', EBB_SECRET_ACCESS_KEY: SECRET }],
  ['without: any key is taken', {}],
])('boto3 %s', { timeout: 120_000 }, async (_how, env) => {
  expect(existsSync(PYTHON), 'the Python environment is set up: node scripts/setup.mjs').toBe(true);
  await using node = await startNodeProcess({ env });
  const script = join(import.meta.dirname, 's3_boto3.py');
  const { stdout } = await promisify(execFile)(PYTHON, [script], {
    env: {
      ...cleanEnv(),
      S3_URL: node.s3Url,
      AWS_ACCESS_KEY_ID: 'EBBTESTKEY',
      AWS_SECRET_ACCESS_KEY: SECRET,
      AWS_EC2_METADATA_DISABLED: 'true',
    },
  });
  expect(stdout.trim().split('\n').at(-1)).toBe('emptied and deleted');
  expect(node.log()).not.toContain(SECRET);
});
