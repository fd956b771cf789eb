import { expect, test } from 'vitest';
import { listenForStop, ONE_SIGNAL_MS } from './stop-signals.ts';

test('a signal that comes to the group and is passed on besides is one; one that comes later is another', () => {
  let at = 1000;
  const heard: string[] = [];
  const end = listenForStop(
    {
      onFirst: (name) => heard.push(`first ${name}`),
      onAgain: (name) => heard.push(`again ${name}`),
    },
    { now: () => at },
  );
  try {
    process.emit('SIGTERM', 'SIGTERM');
    at += 5;
    process.emit('SIGTERM', 'SIGTERM');
    at += ONE_SIGNAL_MS - 6;
    process.emit('SIGINT', 'SIGINT');
    expect(heard).toEqual(['first SIGTERM']);
    at += 1;
    process.emit('SIGINT', 'SIGINT');
    expect(heard).toEqual(['first SIGTERM', 'again SIGINT']);
  } finally {
    end();
  }
});
