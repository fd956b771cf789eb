import { describe, expect, test } from 'vitest';
import { compareVersions, findComplaint, parseVersion } from './toolchain.mjs';

describe('parseVersion', () => {
  test.each([
    ['node', 'v20.20.2', [20, 20, 2]],
    ['java', 'openjdk version "17.0.15" 2025-04-15', [17, 0, 15]],
    ['java', 'java version "1.8.0_392"', [8, 0]],
    ['java', 'openjdk version "21" 2023-09-19', [21]],
    ['maven', '\u001b[1mApache Maven 3.8.7\u001b[m', [3, 8, 7]],
    ['python', 'Python 3.13.0rc1', [3, 13, 0]],
    ['python', 'command not found', undefined],
  ])('reads %s from %s', (tool, text, version) => {
    expect(parseVersion(tool, text)).toEqual(version);
  });
});

test('versions compare by number, not by text', () => {
  expect(compareVersions([3, 10], [3, 9])).toBeGreaterThan(0);
  expect(compareVersions([3, 8], [3, 8, 0])).toBe(0);
});

describe('findComplaint', () => {
  test('is silent where the tool will do', () => {
    expect(findComplaint('java', { command: 'java', version: [17, 0, 1] })).toBeUndefined();
    expect(findComplaint('python', { command: 'python3', version: [3, 12, 9] })).toBeUndefined();
  });

  test('says what is needed, what was found, and how to get it', () => {
    const old = findComplaint('maven', { command: 'mvn', version: [3, 6, 3] });
    expect(old).toMatch(
      /Maven 3\.8 or newer is needed; found 3\.6\.3 \(mvn\)\. Install it: .*apt-get install maven/,
    );
    expect(findComplaint('java', { command: 'java' })).toMatch(
      /17 or newer is needed; none was found/,
    );
    expect(findComplaint('python', { command: 'python3', version: [3, 13] })).toMatch(
      /before 3\.13, is needed; found 3\.13/,
    );
  });
});
