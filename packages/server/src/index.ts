export { VERSION } from './compose.ts';
export { isLoopback, loadConfig, type NodeConfig } from './config.ts';
export {
  type ConfigName,
  configSchema,
  type RawConfig,
  SETTINGS,
  type Setting,
} from './config-schema.ts';
export { HTTP_ERRORS } from './http/error-response.ts';
export { createLog, type NodeOptions, type RunningNode, runNode, startNode } from './node.ts';
