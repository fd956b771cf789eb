/** The response is an emitter that says `destroyed` as Node's does. Faults: a reader who is gone, memory that others hold. */
import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { expect, test } from 'vitest';
import { holdAnswer } from './held-answer.ts';
import { PeerMemory } from './peer-memory.ts';

const memory = (): PeerMemory => new PeerMemory({ bytesMax: 100, ownBytes: 10, patienceMs: 1e9 });

function responseTo(method: string, more: { destroyed?: boolean } = {}): ServerResponse {
  const parts = { req: { method }, destroyed: false, ...more };
  return Object.assign(new EventEmitter(), parts) as unknown as ServerResponse;
}

test('an answer is counted until its reader has taken it, and not at all when he is gone already', () => {
  const held = memory();
  const response = responseTo('GET');
  holdAnswer(held, response, 60);
  expect(held.bytes).toBe(60);
  response.emit('close');
  expect(held.bytes).toBe(0);
  holdAnswer(held, responseTo('GET', { destroyed: true }), 60);
  expect(held.bytes).toBe(0);
});

test('without memory a read is refused, and a change that was made is answered', () => {
  const held = memory();
  holdAnswer(held, responseTo('GET'), 90);
  for (const method of ['GET', 'HEAD'])
    expect(() => holdAnswer(held, responseTo(method), 60)).toThrow('bytes wait for peers');
  expect(held.bytes).toBe(90);
  for (const method of ['POST', 'PUT', 'DELETE']) {
    const response = responseTo(method);
    holdAnswer(held, response, 60);
    expect(held.bytes).toBe(150);
    response.emit('close');
  }
  expect(held.bytes).toBe(90);
});
