import type { AnyCommand } from './command.ts';
import { createPinCommand } from './pinning.ts';

export function create(): AnyCommand {
  return createPinCommand('unpin', false);
}
