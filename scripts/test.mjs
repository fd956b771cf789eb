/**
 * `npm test`: sets up, runs every suite to its end, and says what came of it.
 *
 *   npm test                     unit tests, JVM tests with those of the Python client beside them, end-to-end tests
 *   npm test -- unit e2e         some suites
 *
 * The last line is always `N passed, N failed`; the exit code is 0 only if nothing failed, and every suite ran at least one test.
 */
import { closeSync, existsSync, openSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { runForeground, runOwnNode } from './lib/own-node.mjs';
import { CLIENT_VENV_PYTHON, generatedDir, JVM, PYTHON, ROOT, shown } from './lib/paths.mjs';
import { listFiles } from './lib/stamp.mjs';
import { say, sayFailure } from './lib/steps.mjs';
import { addCounts, countJUnit, countVitest, judgeSuite } from './lib/test-counts.mjs';
import { MAVEN_QUIET, STEPS, setUp } from './setup.mjs';

/** Two cores: more workers than that only take memory from Spark. */
const VITEST_WORKERS = 2;
const NOTHING = { passed: 0, failed: 0, skipped: 0, failures: [] };

const SUITES = {
  unit: (stdio) => runVitest('unit', stdio, ['unit']),
  jvm: runMaven,
  python: runPytest,
  e2e: (stdio) => runVitest('e2e', stdio, ['e2e', 'e2e-alone']),
};
/** Side by side with the one before it, which leaves processors idle: what it prints comes when it has ended. */
const BESIDE = new Set(['python']);
/** What a suite needs of the set-up; the others need all of it. */
const STEPS_OF_SUITE = { unit: ['npm'], python: ['npm', 'python-client'] };

process.exitCode = await main(process.argv.slice(2));

async function main(wanted) {
  if (wanted.some((one) => ['-h', '--help', 'help'].includes(one))) {
    say(`npm test                     all suites
npm test -- unit e2e         some of them: ${Object.keys(SUITES).join(', ')}`);
    return 0;
  }
  const names = wanted.length > 0 ? wanted : Object.keys(SUITES);
  const unknown = names.filter((name) => SUITES[name] === undefined);
  try {
    if (unknown.length > 0)
      throw new Error(
        `no such suite: ${unknown.join(', ')}; there are ${Object.keys(SUITES).join(', ')}`,
      );
    await setUp({ only: [...new Set(names.flatMap((name) => STEPS_OF_SUITE[name] ?? STEPS))] });
  } catch (error) {
    sayFailure(error);
    say('0 passed, 1 failed');
    return 1;
  }
  const ordered = Object.keys(SUITES).filter((name) => names.includes(name));
  const results = [];
  for (const [index, name] of ordered.entries()) {
    if (BESIDE.has(name) && index > 0) continue;
    const next = ordered[index + 1];
    const beside = next !== undefined && BESIDE.has(next) ? runBehind(next) : undefined;
    say(`\n── ${name} tests ──`);
    results.push(await timed(name, () => SUITES[name]('inherit')));
    if (beside !== undefined) results.push(await beside());
  }
  return tell(results);
}

async function timed(name, run) {
  const started = Date.now();
  const counts = await run();
  return { name, seconds: (Date.now() - started) / 1000, ...counts };
}

/** Starts it; what is returned waits for its end, and prints what it said. */
function runBehind(name) {
  const log = path.join(generatedDir('test'), `${name}.log`);
  const file = openSync(log, 'w');
  const running = timed(name, () => SUITES[name](['ignore', file, file]));
  return async () => {
    const result = await running;
    closeSync(file);
    say(`\n── ${name} tests ──`);
    process.stdout.write(readFileSync(log));
    return result;
  };
}

function tell(results) {
  const total = addCounts(results);
  say('\nsuite    passed  failed  skipped    time');
  for (const { name, passed, failed, skipped, seconds } of results) {
    const figures = [passed, failed, skipped].map((count) => String(count).padStart(6)).join('  ');
    say(`${name.padEnd(7)}  ${figures}   ${`${seconds.toFixed(0)} s`.padStart(6)}`);
  }
  for (const failure of total.failures) say(`  ✗ ${failure.split('\n')[0]}`);
  say(`${total.passed} passed, ${total.failed} failed`);
  return total.failed === 0 ? 0 : 1;
}

async function runVitest(suite, stdio, projects) {
  const report = path.join(generatedDir('test'), `${suite}.json`);
  rmSync(report, { force: true });
  const code = await runOwnNode(
    [
      path.join(ROOT, 'node_modules', 'vitest', 'vitest.mjs'),
      'run',
      ...projects.map((project) => `--project=${project}`),
      `--max-workers=${VITEST_WORKERS}`,
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${report}`,
    ],
    { stdio },
  );
  const counts = existsSync(report)
    ? countVitest(JSON.parse(readFileSync(report, 'utf8')))
    : { ...NOTHING, failures: [] };
  counts.failures = counts.failures.map((failure) => failure.replace(`${ROOT}/`, ''));
  return judgeSuite(counts, code);
}

async function runMaven(stdio) {
  // Reports of an earlier run must not count for this one.
  for (const file of surefireReports()) rmSync(file);
  // All lines of Spark. One failing module must not hide the tests of the others.
  const code = await runForeground('mvn', [...MAVEN_QUIET, '-Pall', '--fail-at-end', 'test'], {
    cwd: JVM,
    stdio,
  });
  const reports = surefireReports();
  say(`${reports.length} test classes in ${shown(JVM)}`);
  return judgeSuite(addCounts(reports.map((file) => countJUnit(readFileSync(file, 'utf8')))), code);
}

async function runPytest(stdio) {
  const report = path.join(generatedDir('test'), 'python.xml');
  rmSync(report, { force: true });
  const code = await runForeground(
    CLIENT_VENV_PYTHON,
    ['-m', 'pytest', '-q', `--junitxml=${report}`],
    { cwd: PYTHON, stdio },
  );
  const counts = existsSync(report)
    ? countJUnit(readFileSync(report, 'utf8'))
    : { ...NOTHING, failures: [] };
  return judgeSuite(counts, code);
}

function surefireReports() {
  return listFiles(JVM).filter((file) =>
    /\/(surefire|failsafe)-reports\/TEST-[^/]+\.xml$/.test(file),
  );
}
