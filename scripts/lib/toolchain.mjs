/** The tools a machine must have before anything is installed. All complaints come at once, each with a remedy. */
import { execFile } from 'node:child_process';
import path from 'node:path';

const VERSION_TIMEOUT_MS = 30_000;

/** `least` is inclusive, `below` exclusive. */
export const REQUIRED = {
  node: {
    title: 'Node.js',
    least: [20],
    install: 'https://nodejs.org, or on Debian/Ubuntu: apt-get install nodejs npm',
  },
  java: {
    title: 'Java (JDK)',
    least: [17],
    install:
      'on Debian/Ubuntu: apt-get install openjdk-17-jdk-headless; on macOS: brew install openjdk@17',
  },
  maven: {
    title: 'Maven',
    least: [3, 8],
    install: 'on Debian/Ubuntu: apt-get install maven; on macOS: brew install maven',
  },
  python: {
    title: 'Python',
    least: [3, 11],
    below: [3, 13],
    install:
      'on Debian/Ubuntu: apt-get install python3.11 python3.11-venv; on macOS: brew install python@3.12. ' +
      'If it has another name, set EBB_PYTHON to it',
  },
};

/** `[17, 0, 15]` from what a tool prints about itself; `undefined` where there is no version in it. */
export function parseVersion(tool, text) {
  const pattern = {
    node: /v?(\d+)\.(\d+)\.(\d+)/,
    java: /version "(\d+)(?:\.(\d+))?(?:\.(\d+))?/,
    maven: /Apache Maven (\d+)\.(\d+)(?:\.(\d+))?/,
    python: /Python (\d+)\.(\d+)(?:\.(\d+))?/,
  }[tool];
  const match = pattern.exec(text);
  if (match === null) return undefined;
  const numbers = match
    .slice(1)
    .filter((part) => part !== undefined)
    .map(Number);
  // Up to Java 8 the version was written 1.8.
  return tool === 'java' && numbers[0] === 1 ? numbers.slice(1) : numbers;
}

/** A sentence about what is wrong with a tool, or `undefined` where it will do. */
export function findComplaint(tool, found) {
  const { title, least, below, install } = REQUIRED[tool];
  const wanted = `${title} ${least.join('.')} or newer${below ? `, but before ${below.join('.')},` : ''} is needed`;
  if (found.version === undefined)
    return `${wanted}; ${found.problem ?? 'none was found'}. Install it: ${install}.`;
  if (
    compareVersions(found.version, least) >= 0 &&
    (!below || compareVersions(found.version, below) < 0)
  )
    return undefined;
  return `${wanted}; found ${found.version.join('.')} (${found.command}). Install it: ${install}.`;
}

export function compareVersions(left, right) {
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/**
 * Looks for the named tools, all at once.
 * @returns {Promise<{tools: Record<string, {command: string, version?: number[]}>, complaints: string[]}>}
 */
export async function checkToolchain(names = Object.keys(REQUIRED), env = process.env) {
  const java = env.JAVA_HOME ? path.join(env.JAVA_HOME, 'bin', 'java') : 'java';
  const look = {
    node: () => ({ command: process.execPath, version: parseVersion('node', process.version) }),
    java: () => askVersion('java', java, ['-version']),
    maven: () => askVersion('maven', 'mvn', ['--version']),
    python: () => findPython(env),
  };
  const answers = await Promise.all(names.map(async (name) => [name, await look[name]()]));
  const complaints = answers.map(([name, answer]) => findComplaint(name, answer));
  return {
    tools: Object.fromEntries(answers),
    complaints: complaints.filter((complaint) => complaint !== undefined),
  };
}

/** The first Python that will do; else the first that there is, so that the complaint can name it. */
async function findPython(env) {
  const names = env.EBB_PYTHON
    ? [env.EBB_PYTHON]
    : ['python3', 'python3.12', 'python3.11', 'python'];
  let firstFound;
  for (const name of names) {
    const answer = await askVersion('python', name, ['--version']);
    if (answer.version === undefined) continue;
    firstFound ??= answer;
    if (findComplaint('python', answer) === undefined) return answer;
  }
  return firstFound ?? { command: names[0] };
}

function askVersion(tool, command, args) {
  return new Promise((resolve) => {
    execFile(command, args, { timeout: VERSION_TIMEOUT_MS }, (error, stdout, stderr) => {
      const version = parseVersion(tool, `${stdout}\n${stderr}`);
      if (version !== undefined) return resolve({ command, version });
      const problem =
        error?.code === 'ENOENT' ? undefined : `\`${command} ${args[0]}\` did not tell its version`;
      resolve({ command, ...(problem && { problem }) });
    });
  });
}
