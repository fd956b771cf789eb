/** Quantities as people write them in configuration: bytes (`16GiB`, `512 MB`, `4096`) and times (`30s`, `5m`, `250ms`). */
import { StoreError } from './errors.ts';

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
export const TiB = 1024 * GiB;

const BYTE_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: KiB,
  kib: KiB,
  kb: 1000,
  m: MiB,
  mib: MiB,
  mb: 1000 ** 2,
  g: GiB,
  gib: GiB,
  gb: 1000 ** 3,
  t: TiB,
  tib: TiB,
  tb: 1000 ** 4,
};
const TIME_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** @throws {StoreError} `config_invalid`. `k`, `m`, `g` alone mean powers of 1024, as in Spark and the JVM. */
export function parseBytes(text: string | number): number {
  return parseQuantity(text, BYTE_UNITS, 'a number of bytes such as 512MiB or 16GiB');
}

/** Milliseconds. @throws {StoreError} `config_invalid`. */
export function parseDuration(text: string | number): number {
  return parseQuantity(text, TIME_UNITS, 'a time such as 250ms, 30s or 5m');
}

function parseQuantity(
  text: string | number,
  units: Readonly<Record<string, number>>,
  wanted: string,
): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(String(text));
  const factor = match === null ? undefined : units[(match[2] as string).toLowerCase()];
  const value =
    match === null || factor === undefined ? Number.NaN : Math.round(Number(match[1]) * factor);
  if (!Number.isSafeInteger(value))
    throw new StoreError('config_invalid', `"${text}" is not ${wanted}`);
  return value;
}

export function formatBytes(bytes: number): string {
  for (const [unit, size] of [
    ['TiB', TiB],
    ['GiB', GiB],
    ['MiB', MiB],
    ['KiB', KiB],
  ] as const) {
    if (bytes >= size) return `${(bytes / size).toFixed(bytes >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${bytes} B`;
}
