/** Counting tests from what the runners write: vitest's JSON and the XML files of Maven's surefire and of pytest. */

/** @typedef {{passed: number, failed: number, skipped: number, failures: string[]}} Counts */

/** @returns {Counts} Files that could not even be loaded count as one failure each. */
export function countVitest(report) {
  const counts = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const file of report.testResults) {
    const failedBefore = counts.failed;
    for (const test of file.assertionResults) {
      if (test.status === 'passed') counts.passed++;
      else if (test.status === 'failed') fail(counts, `${file.name}: ${test.fullName}`);
      else counts.skipped++;
    }
    if (file.status === 'failed' && counts.failed === failedBefore)
      fail(counts, `${file.name}: ${file.message ?? ''}`);
  }
  return counts;
}

/** @returns {Counts} of one `<testsuite>`, as Maven's surefire and pytest write it. */
export function countJUnit(xml) {
  const suite = /<testsuite\b[^>]*>/.exec(xml)?.[0];
  if (suite === undefined) throw new Error('no <testsuite> in a report');
  const read = (name) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(suite)?.[1] ?? 0);
  const [tests, failures, errors, skipped] = ['tests', 'failures', 'errors', 'skipped'].map(read);
  const failed = failures + errors;
  return { passed: tests - failed - skipped, failed, skipped, failures: findFailedCases(xml) };
}

export function addCounts(all) {
  const sum = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const counts of all) {
    for (const name of ['passed', 'failed', 'skipped']) sum[name] += counts[name];
    sum.failures.push(...counts.failures);
  }
  return sum;
}

/**
 * What a suite comes to: a runner that failed without a failing test, or that ran no test at all, is a failure too, so that
 * a suite that broke down can never look like a suite that passed.
 */
export function judgeSuite(counts, exitCode) {
  if (counts.failed > 0) return counts;
  if (exitCode !== 0)
    return fail(counts, `the runner ended with code ${exitCode}, but no test failed`);
  if (counts.passed === 0) return fail(counts, 'no test ran');
  return counts;
}

function fail(counts, what) {
  counts.failed++;
  counts.failures.push(what);
  return counts;
}

function findFailedCases(xml) {
  const cases = xml.split('<testcase').slice(1);
  return cases
    .filter((text) => /<(failure|error)\b/.test(text))
    .map(
      (text) => `${/\bclassname="([^"]*)"/.exec(text)?.[1]}: ${/\bname="([^"]*)"/.exec(text)?.[1]}`,
    );
}
