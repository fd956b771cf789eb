/**
 * Builds S3 programs of others to test against, under `.ebb/tools`: MinIO, which the conformance suite runs against too;
 * versitygw, which the S3 benchmark measures beside it; rclone; Caddy, as a proxy in front; and a small program that uses
 * MinIO's Go client. Needs Go and the network, and nothing else needs it.
 *
 *   npm run setup:peers                       all
 *   npm run setup:peers -- --only rclone      some
 */
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { generatedDir, ROOT } from './lib/paths.mjs';
import { hashText, hashTree, isStamped, writeStamp } from './lib/stamp.mjs';
import { runStep, say, sayFailure } from './lib/steps.mjs';

const MINIO_GO = path.join(ROOT, 'packages', 'server', 'e2e', 'minio-go');
/** Pinned, so that a test fails for our changes and not for theirs. */
const MODULES = {
  minio: 'github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c',
  rclone: 'github.com/rclone/rclone@v1.70.3',
  caddy: 'github.com/caddyserver/caddy/v2/cmd/caddy@v2.10.2',
  versitygw: 'github.com/versity/versitygw/cmd/versitygw@v1.8.0',
};
const PEERS = [...Object.keys(MODULES), 'minio-go'];

async function setUpPeer(name) {
  const tools = generatedDir('tools');
  const output = path.join(tools, name);
  const module = MODULES[name];
  const key = module === undefined ? hashTree(MINIO_GO) : hashText(module);
  if (isStamped(name, key)) {
    say(`✓ ${name}: reused`);
    return;
  }
  await runStep(name, `building ${module ?? 'e2e/minio-go'} with Go`, async ({ run }) => {
    const env = { ...process.env, GOBIN: tools, GOFLAGS: '-buildvcs=false -modcacherw' };
    if (module === undefined) await run('go', ['build', '-o', output, '.'], { cwd: MINIO_GO, env });
    else await run('go', ['install', module], { cwd: tools, env });
    writeStamp(name, key, [output]);
  });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const at = process.argv.indexOf('--only');
  const only = at === -1 ? PEERS : (process.argv[at + 1] ?? '').split(',');
  const unknown = only.filter((name) => !PEERS.includes(name));
  try {
    if (unknown.length > 0)
      throw new Error(`no such peer: ${unknown.join(', ')}; there are ${PEERS.join(', ')}`);
    for (const name of only) await setUpPeer(name);
  } catch (error) {
    sayFailure(error);
    process.exitCode = 1;
  }
}
