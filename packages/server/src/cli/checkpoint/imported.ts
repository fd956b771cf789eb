/** What was taken in from the remote tier, for `ebb checkpoint import` and `ebb sync`. */
import type { RunsImported } from '@ebb/protocol';
import { count, printLine } from '../output.ts';

export async function printImported(runs: RunsImported['runs']): Promise<void> {
  for (const { run, imported, unchanged, latestStep } of runs) {
    const rest = unchanged === 0 ? '' : `, ${unchanged} as they were`;
    const latest = latestStep === null ? 'none to go on from' : `the latest is step ${latestStep}`;
    await printLine(`run ${run}: ${count(imported, 'snapshot')} imported${rest}; ${latest}`);
  }
}

export function printRefused(refused: RunsImported['refused']): void {
  for (const { key, problem } of refused)
    process.stderr.write(`not taken in: ${JSON.stringify(key)} ${problem}\n`);
}
