/**
 * File descriptors are shared by connections, files that are kept open, the catalog and workers. How many there are is known
 * at the start, so each gets its part, and none can take the others'.
 */
import { readFileSync } from 'node:fs';
import { CONNECTIONS_MAX, DESCRIPTORS_RESERVED, HANDLES_PER_TIER_MAX } from './limits.ts';

export interface DescriptorPlan {
  /** Open files of each local tier. */
  readonly handlesMax: number;
  /** Connections of all listeners together. */
  readonly connectionsMax: number;
}

/** A quarter for files, the rest for connections, less what the process itself needs. */
export function planDescriptors(limit: number): DescriptorPlan {
  const left = Math.max(32, limit - DESCRIPTORS_RESERVED);
  return {
    handlesMax: Math.min(HANDLES_PER_TIER_MAX, Math.floor(left / 8)),
    connectionsMax: Math.min(CONNECTIONS_MAX, Math.floor((left * 5) / 8)),
  };
}

/** Node raises the soft limit to the hard one when it starts. */
export function readDescriptorLimit(): number {
  try {
    const match = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
    return match === null ? Number.POSITIVE_INFINITY : Number(match[1]);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
