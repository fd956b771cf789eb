/**
 * What a test waits for may come late on a busy machine. vitest gives up after one second; here a wait that says nothing else
 * ends after half a minute, which costs nothing where what is waited for comes.
 */
import { vi } from 'vitest';

const { waitFor } = vi;
vi.waitFor = (callback, options) =>
  waitFor(callback, typeof options === 'number' ? options : { timeout: 30_000, ...options });
