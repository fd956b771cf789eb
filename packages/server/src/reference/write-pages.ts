/** `npm run docs`: writes docs/reference, and removes pages that are made no longer. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makePages, REFERENCE_DIR } from './pages.ts';

const pages = await makePages();
mkdirSync(REFERENCE_DIR, { recursive: true });
for (const name of readdirSync(REFERENCE_DIR))
  if (name.endsWith('.md') && !pages.has(name)) rmSync(join(REFERENCE_DIR, name));
for (const [name, text] of pages) writeFileSync(join(REFERENCE_DIR, name), text);
process.stdout.write(`docs/reference: ${[...pages.keys()].join(', ')}\n`);
