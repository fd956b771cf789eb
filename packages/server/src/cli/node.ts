import { Command } from '@commander-js/extra-typings';
import type { AnyCommand } from './command.ts';
import { examples } from './options.ts';
import { followParent } from './parent.ts';
import { addSettings, loadSettings } from './settings-options.ts';

export function create(): AnyCommand {
  const command = new Command('node').addHelpText(
    'after',
    `
Every setting is also a name in the file (memoryLimit) and in the environment (EBB_MEMORY_LIMIT).
The node is ready when GET /readyz answers 200. SIGTERM and SIGINT drain it; one that comes again, two seconds or more after the first, ends it at once. One
that comes during the start ends it within seconds. SIGHUP reads the certificate anew, and without one drains as well. Exit code 2 means that trying again does not help.
Where objects are on a disk that is not mounted below --data, the start is refused so: mount it, or make the file that the message names when that disk is gone for good.
${examples(
  'ebb node',
  'ebb node --data /var/lib/ebb --memory-limit 4GiB --disk-limit 200GiB',
  'ebb node --data /tmp/ebb --listen 127.0.0.1:0 --socket /tmp/ebb.sock',
)}`,
  ) as AnyCommand;
  addSettings(command);
  return command.action(async () => {
    const config = loadSettings(command);
    followParent();
    const { runNode } = await import('../node.ts');
    const { reportStartFailure } = await import('../start-failure.ts');
    try {
      process.exitCode = await runNode(config);
    } catch (error) {
      // At once: should a part that was opened on the way not close, a supervisor would wait for this process for ever.
      process.exit(reportStartFailure(error));
    }
  });
}
