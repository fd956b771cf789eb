import type { AnyCommand } from './commands.ts';
import { createPinCommand } from './pinning.ts';

export function create(): AnyCommand {
  return createPinCommand('pin', true);
}
