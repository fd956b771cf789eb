import { expect, test } from 'vitest';
import { SMALL_BODY_BYTES } from '../limits.ts';
import { giveSmallBuffer, takeSmallBuffer } from './small-buffers.ts';

test('a buffer that came back is lent again, and never to two at once', () => {
  const first = takeSmallBuffer(SMALL_BODY_BYTES);
  const second = takeSmallBuffer(40_000);
  expect(second.length).toBe(40_000);
  expect(second.buffer).not.toBe(first.buffer);
  giveSmallBuffer(second);
  const third = takeSmallBuffer(SMALL_BODY_BYTES);
  expect(third.buffer).toBe(second.buffer);
  expect(third.length).toBe(SMALL_BODY_BYTES);
  giveSmallBuffer(third);
  expect(() => giveSmallBuffer(second)).toThrow('comes back once');
  giveSmallBuffer(first);
});

test('a tiny one is a new one each time', () => {
  const tiny = takeSmallBuffer(100);
  giveSmallBuffer(tiny);
  giveSmallBuffer(tiny);
  expect(takeSmallBuffer(100).buffer).not.toBe(takeSmallBuffer(SMALL_BODY_BYTES).buffer);
  expect(takeSmallBuffer(0).length).toBe(0);
});
