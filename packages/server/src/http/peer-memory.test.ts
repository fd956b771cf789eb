import { expect, test, vi } from 'vitest';
import { PeerMemory } from './peer-memory.ts';

function create() {
  const clock = { ms: 0 };
  const onEnded = vi.fn();
  const memory = new PeerMemory({
    ...{ bytesMax: 100, ownBytes: 10, patienceMs: 1_000, now: () => clock.ms, onEnded },
  });
  return { memory, clock, onEnded };
}
const never = (): void => expect.unreachable('it is not to be ended');

test('what is small is granted whatever others hold', () => {
  const { memory } = create();
  memory.hold(100, never);
  expect(() => memory.hold(11, never)).toThrow(expect.objectContaining({ code: 'busy' }));
  expect(memory.hold(10, never).bytes).toBe(10);
  expect(memory.bytes).toBe(100);
});

test('who has stood still for longest makes room, and only when it has for a while', () => {
  const { memory, clock, onEnded } = create();
  const ended: string[] = [];
  memory.hold(40, () => ended.push('first'));
  const moving = memory.hold(40, () => ended.push('moving'));
  clock.ms = 999;
  memory.touch(moving);
  expect(() => memory.hold(40, never)).toThrow(expect.objectContaining({ code: 'busy' }));
  clock.ms = 1_000;
  memory.hold(40, never);
  expect([ended, memory.bytes, onEnded.mock.calls.length]).toEqual([['first'], 80, 1]);
  expect(() => memory.hold(40, never)).toThrow(expect.objectContaining({ code: 'busy' }));
});

test('a hold grows and shrinks, and one that cannot grow stays as it was', () => {
  const { memory } = create();
  const hold = memory.hold(5, never);
  memory.resize(hold, 60);
  const other = memory.hold(30, never);
  expect(() => memory.resize(hold, 80)).toThrow(expect.objectContaining({ code: 'busy' }));
  expect([hold.bytes, memory.bytes]).toEqual([60, 90]);
  memory.release(other);
  memory.resize(hold, 80);
  memory.release(hold);
  memory.release(hold);
  expect(memory.bytes).toBe(0);
});

test('what is larger than all of it is granted when it is alone', () => {
  const { memory } = create();
  const hold = memory.hold(500, never);
  expect(() => memory.assertRoom()).toThrow(expect.objectContaining({ code: 'busy' }));
  memory.release(hold);
  memory.assertRoom();
});
