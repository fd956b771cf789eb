/**
 * A bucket that grows to a million objects: `npm run bench -- many-objects [--objects 1000000]`. How long a page of a
 * listing and a look at one object take as the count grows, what the daemon holds in memory, and how long it takes to be
 * ready again after a clean stop and after `kill -9`. Objects of 1 KiB, written by the client's local path.
 */
import { parseArgs } from 'node:util';
import { type EbbClient, openClient } from '@ebb/client';
import { startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { HEAP_FLAGS, inFlight, quantile, timed, verdict } from './support/figures.ts';
import { anonymousMiBOf } from './support/process-usage.ts';

const { values: options } = parseArgs({
  options: {
    objects: { type: 'string', default: '1000000' },
    'node-flags': { type: 'string', default: '' },
  },
});
const OBJECTS = Number(options.objects);
/** Shares of the objects at which it is measured. */
const STEPS = [0.01, 0.1, 0.25, 0.5, 1];
const PAGE = 1000;
const RSS_MIB_MOST = 300;
const BODY = Buffer.alloc(1024, 'a small object ');

await using node = await startNodeProcess({
  // Each takes a page of tmpfs.
  memoryLimit: `${Math.ceil((OBJECTS * 4096 * 1.5) / 2 ** 20) + 256}MiB`,
  nodeFlags: [...HEAP_FLAGS, ...options['node-flags'].split(' ').filter(Boolean)],
  args: ['--log-level=info'],
});
let written = 0;
{
  await using client = await openClient({ node: node.unixUrl });
  await client.buckets.create('many', { preset: 'ephemeral' });
  for (const step of STEPS) {
    const upTo = Math.round(OBJECTS * step);
    const from = written;
    const tookMs = await timed(() =>
      inFlight(128, upTo - from, async (n) => {
        await client.put('many', keyOf(from + n), BODY);
      }),
    );
    written = upTo;
    await tell(client, ((upTo - from) / tookMs) * 1000);
  }
}
await restart('clean stop', () => node.stop());
await restart('kill -9', () => node.kill());
await node.stop();

async function tell(client: EbbClient, putsPerSecond: number): Promise<void> {
  const [pages, looks]: [number[], number[]] = [[], []];
  for (let n = 0; n < 60; n++)
    pages.push(
      await timed(() => client.list('many', { startAfter: keyOf(somewhere(n)), limit: PAGE })),
    );
  for (let n = 0; n < 1000; n++)
    looks.push(await timed(() => client.head('many', keyOf(somewhere(n)))));
  const rssMiB = anonymousMiBOf(node.pid);
  console.log(
    `${written.toLocaleString('en').padStart(10)} objects   put ${Math.round(putsPerSecond).toLocaleString('en').padStart(7)}/s` +
      `   page of ${PAGE} p50 ${quantile(pages, 0.5).toFixed(1)} p99 ${quantile(pages, 0.99).toFixed(1)} ms` +
      `   stat p50 ${quantile(looks, 0.5).toFixed(2)} p99 ${quantile(looks, 0.99).toFixed(2)} ms` +
      `   RSS ${rssMiB} MiB, ${verdict(rssMiB, RSS_MIB_MOST)}`,
  );
}

async function restart(how: string, end: () => Promise<unknown>): Promise<void> {
  const endMs = await timed(end);
  const startMs = await timed(() => node.start());
  await using client = await openClient({ node: node.unixUrl });
  const { objects } = await client.status();
  if (objects !== OBJECTS) throw new Error(`after ${how}: ${objects} of ${OBJECTS} objects`);
  for (let n = 0; n < 100; n++) {
    const got = await client.get('many', keyOf(somewhere(n)));
    if (!Buffer.from(await got.bytes()).equals(BODY)) throw new Error(`after ${how}: wrong bytes`);
  }
  console.log(
    `after ${how}: ended in ${(endMs / 1000).toFixed(2)} s, ready in ${(startMs / 1000).toFixed(2)} s, ` +
      `all ${objects.toLocaleString('en')} objects there, RSS ${anonymousMiBOf(node.pid)} MiB`,
  );
}

/** Spread over what is written, and the same in every run. */
function somewhere(n: number): number {
  return (n * 7_919_317) % written;
}

function keyOf(n: number): string {
  return `d${String(n % 100).padStart(2, '0')}/${String(n).padStart(9, '0')}`;
}
