/** Running the steps of a set-up: one line when a step starts, one when it ends, everything else into its log file. */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { generatedDir, ROOT, shown } from './paths.mjs';

const STILL_RUNNING_EVERY_MS = 15_000;

/** A step went wrong: which one, why, and where the whole story is. */
export class StepError extends Error {
  constructor(step, message, logFile) {
    super(message);
    this.step = step;
    this.logFile = logFile;
  }
}

export function say(line) {
  process.stdout.write(`${line}\n`);
}

/**
 * Runs `work` as a named step and says how long it took. `work` gets `run(command, args, options)`, which sends
 * the command's output to the step's log and throws a {@link StepError} where the command fails.
 */
export async function runStep(name, title, work) {
  const logFile = path.join(generatedDir('log'), `${name}.log`);
  const log = openSync(logFile, 'w');
  const started = Date.now();
  const elapsed = () => `${((Date.now() - started) / 1000).toFixed(1)} s`;
  say(`… ${name}: ${title}`);
  const ticker = setInterval(
    () => say(`… ${name}: still running, ${elapsed()}`),
    STILL_RUNNING_EVERY_MS,
  );
  try {
    const result = await work({
      run: (command, args, options) => runLogged({ name, log, logFile, command, args, options }),
    });
    say(`✓ ${name}: done in ${elapsed()}`);
    return result;
  } catch (error) {
    if (error instanceof StepError) throw error;
    throw new StepError(name, error instanceof Error ? error.message : String(error), logFile);
  } finally {
    clearInterval(ticker);
    closeSync(log);
  }
}

/** Prints what failed in a way that a person can act on. */
export function sayFailure(error) {
  if (!(error instanceof StepError)) {
    process.stderr.write(`\n✗ ${error?.stack ?? error}\n`);
    return;
  }
  process.stderr.write(`\n✗ ${error.step}: ${error.message}\n`);
  if (error.logFile === undefined) return;
  const tail = readFileSync(error.logFile, 'utf8').trimEnd().split('\n').slice(-15);
  process.stderr.write(`${tail.map((line) => `    ${line}`).join('\n')}\n`);
  process.stderr.write(`  The whole log: ${shown(error.logFile)}\n`);
}

function runLogged({ name, log, logFile, command, args, options = {} }) {
  writeSync(log, `$ ${[command, ...args].join(' ')}\n`);
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: ROOT,
      ...options,
      stdio: ['ignore', log, log],
    });
    child.once('error', (error) =>
      reject(new StepError(name, `cannot start ${command}: ${error.message}`, logFile)),
    );
    child.once('exit', (code, signal) => {
      if (code === 0) resolve();
      else
        reject(new StepError(name, `${command} ended with ${signal ?? `code ${code}`}`, logFile));
    });
  });
}
