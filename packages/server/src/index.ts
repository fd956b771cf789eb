export { VERSION } from './compose.ts';
export {
  type ConfigName,
  configSchema,
  isLoopback,
  loadConfig,
  type NodeConfig,
  type RawConfig,
  SETTINGS,
  type Setting,
} from './config.ts';
export { HTTP_ERRORS } from './http/error-response.ts';
export { createLog, type NodeOptions, type RunningNode, runNode, startNode } from './node.ts';
