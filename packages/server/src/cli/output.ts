/** Standard output: tables for people, JSON for machines; it waits where the reader is slow. */
import { once } from 'node:events';
import { CONDITION_EFFECTS, type NodeCondition } from '@ebb/protocol';
import { type Column, formatTable } from './table.ts';

export async function write(data: string | Uint8Array): Promise<void> {
  if (!process.stdout.write(data)) await once(process.stdout, 'drain');
}

/** Resolves when the bytes were taken: then the buffer is free. */
export function writeTaken(data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(data, (error) => (error ? reject(error) : resolve()));
  });
}

export async function printLine(text: string): Promise<void> {
  await write(`${text}\n`);
}

export async function printJson(value: unknown): Promise<void> {
  await printLine(JSON.stringify(value, null, process.stdout.isTTY ? 2 : 0));
}

export async function printTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
): Promise<void> {
  const styled = process.stdout.isTTY === true && process.env['NO_COLOR'] === undefined;
  for (const line of formatTable(rows, columns, { styled })) await printLine(line);
}

/** `name  value` lines; what is undefined is left out. */
export async function printFacts(
  facts: Readonly<Record<string, string | undefined>>,
): Promise<void> {
  const shown = Object.entries(facts).filter(([, value]) => value !== undefined);
  const width = Math.max(...shown.map(([name]) => name.length));
  for (const [name, value] of shown) await printLine(`${name.padEnd(width)}  ${value}`);
}

/** What the node is in, each with what it means and what to do. */
export async function printConditions(conditions: readonly NodeCondition[]): Promise<void> {
  for (const { name, subject, effect, sinceMs, reason, whatToDo } of conditions) {
    await printLine(`! ${name} (${subject}), for ${formatAge(Date.now() - sinceMs)}: ${reason}`);
    await printLine(`  ${CONDITION_EFFECTS[effect].means} ${whatToDo}`);
  }
}

/** For people, in their time zone: `2026-11-22 14:03:09`. */
export function formatTime(ms: number): string {
  const date = new Date(ms);
  const local = new Date(ms - date.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19).replace('T', ' ');
}

export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** `1 object`, `2 objects`. */
export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}
