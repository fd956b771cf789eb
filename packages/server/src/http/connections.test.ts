import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { planDescriptors } from '../descriptors.ts';
import { Connections } from './connections.ts';

function socketOf(connections: Connections): Socket {
  const socket = Object.assign(new EventEmitter(), {
    destroyed: false,
    destroy() {
      socket.destroyed = true;
      socket.emit('close');
    },
  });
  connections.add(socket as unknown as Socket);
  return socket as unknown as Socket;
}

test('the one that has been silent for longest makes place for a new one', () => {
  const connections = new Connections({ connectionsMax: 3, reserved: 1 });
  const [first, second, third] = [1, 2, 3].map(() => socketOf(connections)) as [
    Socket,
    Socket,
    Socket,
  ];
  connections.begin(first);
  connections.end(first);
  socketOf(connections);
  expect([first.destroyed, second.destroyed, third.destroyed]).toEqual([false, true, false]);
  expect(connections.size).toBe(3);
});

test('requests at work leave room for probes, and are told to come again', () => {
  const connections = new Connections({ connectionsMax: 4, reserved: 2 });
  for (let n = 0; n < 2; n++) connections.begin(socketOf(connections));
  const next = socketOf(connections);
  expect(() => connections.begin(next)).toThrow(expect.objectContaining({ code: 'busy' }));
  connections.begin(next, { isProbe: true });
  connections.end(next);
  expect(connections.size).toBe(3);
});

test('when all are at work, a new one is ended and those go on', () => {
  const connections = new Connections({ connectionsMax: 2, reserved: 0 });
  const busy = [1, 2].map(() => {
    const socket = socketOf(connections);
    connections.begin(socket);
    return socket;
  });
  expect(socketOf(connections).destroyed).toBe(true);
  expect(busy.map(({ destroyed }) => destroyed)).toEqual([false, false]);
  busy[0]?.destroy();
  expect(connections.size).toBe(1);
});

test('files and connections together fit any limit of descriptors', () => {
  for (const limit of [128, 256, 1024, 4096, 1_048_576, Number.POSITIVE_INFINITY]) {
    const { handlesMax, connectionsMax } = planDescriptors(limit);
    expect(2 * handlesMax + connectionsMax).toBeLessThanOrEqual(limit - 64);
    expect(Math.min(handlesMax, connectionsMax)).toBeGreaterThan(3);
  }
  expect(planDescriptors(1_048_576)).toEqual({ handlesMax: 256, connectionsMax: 4096 });
});
