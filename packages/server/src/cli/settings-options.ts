/** The settings of a node as options of a command: `ebb node`, and `ebb doctor`, which looks at what they say. */
import { loadConfig, type NodeConfig } from '../config.ts';
import { type ConfigName, type RawConfig, SETTINGS } from '../config-schema.ts';
import type { AnyCommand } from './command.ts';

export function addSettings(command: AnyCommand): AnyCommand {
  command.option(
    '--config <file>',
    'JSON file with settings; stronger are the environment, then flags',
  );
  for (const { flag, means, default: otherwise } of SETTINGS)
    command.option(flag, `${means} (default: ${otherwise})`);
  return command;
}

/** @throws {StoreError} `config_invalid`, with every complaint */
export function loadSettings(command: AnyCommand): NodeConfig {
  const { config: file, ...given }: RawConfig & { config?: string } = command.opts();
  const flags = Object.fromEntries(SETTINGS.map(({ name }) => [name, given[name as ConfigName]]));
  return loadConfig({ flags, file });
}
