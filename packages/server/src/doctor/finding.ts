/** What `ebb doctor` tells: one sentence for each thing it looked at, and what to do where it is not well. */
export const LEVELS = ['ok', 'warn', 'fail'] as const;
export type Level = (typeof LEVELS)[number];

export interface Finding {
  /** `memory`, `data`, `addresses`, or a remote. */
  readonly subject: string;
  readonly check: string;
  readonly level: Level;
  readonly says: string;
}

/** Findings about one subject. */
export class Findings {
  readonly list: Finding[] = [];
  readonly #subject: string;

  constructor(subject: string) {
    this.#subject = subject;
  }

  ok(check: string, says: string): void {
    this.add('ok', check, says);
  }
  warn(check: string, says: string): void {
    this.add('warn', check, says);
  }
  fail(check: string, says: string): void {
    this.add('fail', check, says);
  }
  add(level: Level, check: string, says: string): void {
    this.list.push({ subject: this.#subject, check, level, says });
  }
}

export function worstOf(findings: readonly Finding[]): Level {
  return LEVELS[Math.max(0, ...findings.map(({ level }) => LEVELS.indexOf(level)))] as Level;
}
