import { Command } from '@commander-js/extra-typings';
import { type ConfigName, loadConfig, type RawConfig, SETTINGS } from '../config.ts';
import type { AnyCommand } from './command.ts';
import { examples } from './options.ts';
import { followParent } from './parent.ts';

export function create(): AnyCommand {
  const command = new Command('node')
    .option('--config <file>', 'JSON file with settings; stronger are the environment, then flags')
    .addHelpText(
      'after',
      `
Every setting is also a name in the file (memoryLimit) and in the environment (EBB_MEMORY_LIMIT).
The node is ready when GET /readyz answers 200. SIGTERM and SIGINT drain it; a second one ends it at once.
${examples(
  'ebb node',
  'ebb node --data /var/lib/ebb --memory-limit 4GiB --disk-limit 200GiB',
  'ebb node --data /tmp/ebb --listen 127.0.0.1:0 --socket /tmp/ebb.sock',
)}`,
    ) as AnyCommand;
  for (const { flag, means, default: otherwise } of SETTINGS) {
    command.option(flag, `${means} (default: ${otherwise})`);
  }
  return command.action(async () => {
    const { config: file, ...given }: RawConfig & { config?: string } = command.opts();
    const flags = Object.fromEntries(SETTINGS.map(({ name }) => [name, given[name as ConfigName]]));
    const config = loadConfig({ flags, file });
    followParent();
    const { runNode } = await import('../node.ts');
    process.exitCode = await runNode(config);
  });
}
