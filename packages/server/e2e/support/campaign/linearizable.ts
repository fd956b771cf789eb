/**
 * Is a history of one key that of a register? Every operation took effect at one moment between its call and its answer.
 * The search is Wing and Gong's with Lowe's memo of what was tried (as in the checker porcupine), for a single register:
 * "Testing for linearizability", Concurrency and Computation 29(4), 2017.
 *
 * Values are written once each, so that a value that is read names the write it came from.
 *
 * I1  An operation whose answer was lost may take effect at any time after its call, or never.
 * I2  An operation that was refused took no effect, and says nothing, but for a condition that did not hold.
 */

/** What a key holds; null: nothing. */
export type Value = string | null;

export type Operation =
  | { readonly kind: 'read'; readonly value: Value }
  /** A delete writes null. */
  | { readonly kind: 'write'; readonly value: Value }
  /** Writes `value` if `expected` is there; `held` says what came of the condition, null when the answer was lost. */
  | {
      readonly kind: 'swap';
      readonly expected: Value;
      readonly value: Value;
      readonly held: boolean | null;
    };

export interface HistoryEntry {
  readonly operation: Operation;
  readonly who: string;
  /** On a clock that nobody sets. */
  readonly calledMs: number;
  /** Infinity: no answer came (I1). */
  readonly answeredMs: number;
}

/** undefined when it is linearizable; else the longest part of it that is, and what could not come next. */
export function findViolation(
  history: readonly HistoryEntry[],
  { stepsMax = 2_000_000 } = {},
): string | undefined {
  const search = new Search(history, stepsMax);
  return search.succeeds() ? undefined : search.explain();
}

interface Frame {
  readonly value: Value;
  /** What may take effect next, in the order in which it is tried. */
  readonly candidates: readonly number[];
  next: number;
  /** How many operations took effect before it. */
  readonly depth: number;
}

class Search {
  readonly #entries: readonly HistoryEntry[];
  readonly #done: Uint8Array;
  /** Operations in the order in which they took effect. */
  readonly #order: number[] = [];
  /** Sets of operations that took effect, and the value after them, which led nowhere. */
  readonly #tried = new Set<string>();
  readonly #stepsMax: number;
  #unansweredDone = 0;
  #best: readonly number[] = [];

  constructor(history: readonly HistoryEntry[], stepsMax: number) {
    this.#entries = history.toSorted((a, b) => a.calledMs - b.calledMs);
    this.#done = new Uint8Array(history.length);
    this.#stepsMax = stepsMax;
  }

  succeeds(): boolean {
    const needed = this.#entries.filter(isAnswered).length;
    const stack: Frame[] = [this.#open(null)];
    for (let steps = 0; stack.length > 0; steps++) {
      if (this.#order.length - this.#unansweredDone === needed) return true;
      if (steps > this.#stepsMax)
        throw new Error(`no judgement within ${this.#stepsMax} steps\n${this.explain()}`);
      const frame = stack.at(-1) as Frame;
      this.#undoTo(frame.depth);
      const index = frame.candidates[frame.next++];
      if (index === undefined) {
        stack.pop();
        continue;
      }
      const value = apply((this.#entries[index] as HistoryEntry).operation, frame.value);
      if (value === undefined) continue;
      this.#take(index);
      const key = `${this.#done.join('')}${value ?? ''}`;
      if (this.#tried.has(key)) continue;
      this.#tried.add(key);
      stack.push(this.#open(value));
    }
    return needed === 0;
  }

  explain(): string {
    const told = this.#entries.map(
      (entry, index) => `${this.#best.includes(index) ? '·' : '✗'} ${show(entry)}`,
    );
    return `no order explains these operations (· are explained):\n  ${told.join('\n  ')}`;
  }

  /**
   * What changes nothing takes effect as soon as it can: an order in which it comes later is an order with it here, too. What
   * had no answer is tried last, and only where somebody sees it next: unseen, it may as well never have been.
   */
  #open(value: Value): Frame {
    const depth = this.#order.length;
    let candidates = this.#findNext();
    const idle = (index: number): boolean => {
      const { operation } = this.#entries[index] as HistoryEntry;
      return isIdle(operation) && apply(operation, value) !== undefined;
    };
    for (let taken = candidates.filter(idle); taken.length > 0; taken = candidates.filter(idle)) {
      for (const index of taken) this.#take(index);
      candidates = this.#findNext();
    }
    const answered = candidates.filter((index) => isAnswered(this.#entries[index]));
    const unanswered = this.#findSeen(candidates, value);
    return {
      ...{ value, candidates: [...answered, ...unanswered], next: 0 },
      depth: Math.max(depth, this.#order.length),
    };
  }

  /** Takes one of the operations without an answer that lead to one value, where that value explains what comes next. */
  #findSeen(candidates: readonly number[], value: Value): number[] {
    const found = new Map<Value, number>();
    for (const index of candidates) {
      const entry = this.#entries[index] as HistoryEntry;
      const after = isAnswered(entry) ? undefined : apply(entry.operation, value);
      if (after === undefined || after === value || found.has(after)) continue;
      const isSeen = candidates.some((other) => {
        const { operation } = this.#entries[other] as HistoryEntry;
        if (other === index || operation.kind === 'write') return false;
        if (operation.kind === 'swap' && operation.held !== false)
          return operation.expected === after;
        return apply(operation, after) !== undefined && apply(operation, value) === undefined;
      });
      if (isSeen) found.set(after, index);
    }
    return [...found.values()];
  }

  #take(index: number): void {
    this.#done[index] = 1;
    this.#order.push(index);
    if (!isAnswered(this.#entries[index])) this.#unansweredDone++;
    if (this.#order.length > this.#best.length) this.#best = [...this.#order];
  }

  #undoTo(depth: number): void {
    while (this.#order.length > depth) {
      const index = this.#order.pop() as number;
      this.#done[index] = 0;
      if (!isAnswered(this.#entries[index])) this.#unansweredDone--;
    }
  }

  /** Those that may take effect next: called before the first answer of all that have not taken effect. */
  #findNext(): number[] {
    let firstAnswerMs = Number.POSITIVE_INFINITY;
    for (const [index, { answeredMs }] of this.#entries.entries())
      if (this.#done[index] === 0) firstAnswerMs = Math.min(firstAnswerMs, answeredMs);
    const next: number[] = [];
    for (const [index, { calledMs }] of this.#entries.entries())
      if (this.#done[index] === 0 && calledMs <= firstAnswerMs) next.push(index);
    return next;
  }
}

function isAnswered(entry: HistoryEntry | undefined): boolean {
  return entry !== undefined && entry.answeredMs !== Number.POSITIVE_INFINITY;
}

/** Whether it changes nothing where it has the answer that it had. */
function isIdle(operation: Operation): boolean {
  return operation.kind === 'read' || (operation.kind === 'swap' && operation.held === false);
}

/** The value after it; undefined: it cannot have had this answer now. */
function apply(operation: Operation, value: Value): Value | undefined {
  if (operation.kind === 'read') return operation.value === value ? value : undefined;
  if (operation.kind === 'write') return operation.value;
  const holds = operation.expected === value;
  if (operation.held !== null && operation.held !== holds) return undefined;
  return holds ? operation.value : value;
}

function show({ operation, who, calledMs, answeredMs }: HistoryEntry): string {
  const until = answeredMs === Number.POSITIVE_INFINITY ? 'no answer' : answeredMs.toFixed(1);
  const { kind, value } = operation;
  const what =
    operation.kind === 'swap'
      ? `swap ${operation.expected ?? 'nothing'} → ${value ?? 'nothing'} (${operation.held === null ? '?' : operation.held ? 'held' : 'did not hold'})`
      : `${kind} ${value ?? 'nothing'}`;
  return `${calledMs.toFixed(1)}–${until} ${who}: ${what}`;
}
