import { describe, expect, test } from 'vitest';
import { checkReadConditions, parseWriteCondition, rangeApplies } from './conditions.ts';

const subject = { etag: 'a1-ff', createdAtMs: Date.UTC(2026, 10, 22, 12, 0, 0, 500) };
const before = new Date(subject.createdAtMs - 2000).toUTCString();
const at = new Date(subject.createdAtMs).toUTCString();

describe('reads', () => {
  test.each([
    [{}, 'proceed'],
    [{ 'if-match': '"a1-ff"' }, 'proceed'],
    [{ 'if-match': '*' }, 'proceed'],
    [{ 'if-match': '"x", "a1-ff"' }, 'proceed'],
    [{ 'if-match': 'W/"a1-ff"' }, 'failed'],
    [{ 'if-match': '"a1"' }, 'failed'],
    [{ 'if-none-match': '"a1-ff"' }, 'not-modified'],
    [{ 'if-none-match': 'W/"a1-ff"' }, 'not-modified'],
    [{ 'if-none-match': '*' }, 'not-modified'],
    [{ 'if-none-match': '"other"' }, 'proceed'],
    [{ 'if-modified-since': at }, 'not-modified'],
    [{ 'if-modified-since': before }, 'proceed'],
    [{ 'if-none-match': '"other"', 'if-modified-since': at }, 'proceed'],
    [{ 'if-unmodified-since': at }, 'proceed'],
    [{ 'if-unmodified-since': before }, 'failed'],
    [{ 'if-modified-since': 'no date' }, 'proceed'],
  ])('%j: %s', (headers, decision) => expect(checkReadConditions(headers, subject)).toBe(decision));

  test.each([
    [undefined, true],
    ['"a1-ff"', true],
    ['W/"a1-ff"', false],
    ['"other"', false],
    [at, true],
    [before, false],
  ])('If-Range %j applies: %s', (header, applies) =>
    expect(rangeApplies(header, subject)).toBe(applies),
  );
});

describe('writes', () => {
  test('take * or one strong ETag, with quotes or without', () => {
    expect(parseWriteCondition({})).toEqual({});
    expect(parseWriteCondition({ 'if-none-match': '*' })).toEqual({ ifNoneMatch: true });
    expect(parseWriteCondition({ 'if-none-match': '"a1-ff"' })).toEqual({ ifNoneMatch: 'a1-ff' });
    expect(parseWriteCondition({ 'if-match': '"a1-ff"' })).toEqual({ ifMatch: 'a1-ff' });
    expect(parseWriteCondition({ 'if-match': 'a1-ff' })).toEqual({ ifMatch: 'a1-ff' });
    expect(parseWriteCondition({ 'if-match': ' * ' })).toEqual({ ifMatch: '*' });
  });
  test.each([
    { 'if-match': '"a", "b"' },
    { 'if-match': 'W/"a"' },
    { 'if-match': '"*"' },
    { 'if-match': '' },
    { 'if-none-match': '*, "a"' },
    { 'if-none-match': 'W/"a"' },
    { 'if-match': '"a"', 'if-none-match': '*' },
    { 'if-unmodified-since': at },
  ])('%j is refused rather than ignored', (headers) => {
    expect(() => parseWriteCondition(headers)).toThrow();
  });
});
