import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { findViolation, type HistoryEntry, type Operation, type Value } from './linearizable.ts';

const at = (calledMs: number, answeredMs: number, operation: Operation): HistoryEntry => ({
  ...{ calledMs, answeredMs, operation },
  who: 'test',
});
const write = (value: Value): Operation => ({ kind: 'write', value });
const read = (value: Value): Operation => ({ kind: 'read', value });

describe('a history of one key', () => {
  test('of a value that is read after it was replaced is no register', () => {
    expect(
      findViolation([at(0, 1, write('a')), at(2, 3, write('b')), at(4, 5, read('a'))]),
    ).toContain('read a');
  });

  test('of an acknowledged value that is gone is no register', () => {
    expect(findViolation([at(0, 1, write('a')), at(2, 3, read(null))])).toBeDefined();
  });

  test('of two reads that go back in time is no register', () => {
    const history = [at(0, 10, write('a')), at(1, 2, read('a')), at(3, 4, read(null))];
    expect(findViolation(history)).toBeDefined();
  });

  test('of a condition that held for two at once is no register', () => {
    const swap = (value: string): Operation => ({
      ...{ kind: 'swap', expected: 'a', value, held: true },
    });
    expect(
      findViolation([at(0, 1, write('a')), at(2, 5, swap('b')), at(2, 5, swap('c'))]),
    ).toBeDefined();
  });

  test('of operations without an answer is a register with them and without', () => {
    const lost = at(0, Number.POSITIVE_INFINITY, write('a'));
    expect(findViolation([lost, at(1, 2, read(null)), at(3, 4, read('a'))])).toBeUndefined();
    expect(findViolation([lost, at(1, 2, read(null))])).toBeUndefined();
    expect(findViolation([lost, at(1, 2, read('a')), at(3, 4, read(null))])).toBeDefined();
  });

  test('that a register made is taken, whatever overlaps', () => {
    const step = fc.record({
      kind: fc.constantFrom('read', 'write', 'remove', 'swap'),
      before: fc.integer({ min: 0, max: 30 }),
      after: fc.integer({ min: 0, max: 30 }),
      isLost: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
        let value: Value = null;
        const history = steps.map(({ kind, before, after, isLost }, index) => {
          const moment = index * 10;
          const operation = ((): Operation => {
            if (kind === 'read') return read(value);
            if (kind === 'swap') {
              const expected = index % 2 === 0 ? value : 'never written';
              const held = expected === value;
              const next = `v${index}`;
              if (held) value = next;
              return { kind: 'swap', expected, value: next, held: isLost ? null : held };
            }
            value = kind === 'write' ? `v${index}` : null;
            return write(value);
          })();
          const mayBeLost = isLost && operation.kind !== 'read';
          return at(
            moment - before,
            mayBeLost ? Number.POSITIVE_INFINITY : moment + after,
            operation,
          );
        });
        expect(findViolation(history)).toBeUndefined();
      }),
    );
  });
});
