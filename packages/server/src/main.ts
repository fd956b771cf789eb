/** The `ebb` command. Only what the command line names is loaded, and compiled code is cached. */
import { enableCompileCache } from 'node:module';

enableCompileCache();
const { runCli } = await import('./cli/program.ts');
process.exitCode = await runCli(process.argv.slice(2));
