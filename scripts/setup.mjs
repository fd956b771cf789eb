/**
 * Installs what a fresh clone needs, and nothing twice: npm packages (with their own current Node), a Python
 * environment with Spark and the TPC-DS generator, one with the Python client, the Spark plugin, and the TPC-DS queries.
 *
 * Runs on plain Node 20 before anything is installed, so it must import nothing but Node and its own files.
 * The branches below touch different things and run side by side; the two that use Maven run one after the
 * other, since two Mavens filling one local repository can spoil it.
 *
 *   node scripts/setup.mjs                  everything
 *   node scripts/setup.mjs --only npm,jvm   some steps
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { isInstalled } from './lib/npm-packages.mjs';
import {
  CLIENT_VENV,
  CLIENT_VENV_PYTHON,
  JVM,
  OWN_NODE,
  PYTHON,
  QUERIES,
  ROOT,
  VENV,
  VENV_PYTHON,
} from './lib/paths.mjs';
import { dropStamp, hashText, hashTree, isStamped, listFiles, writeStamp } from './lib/stamp.mjs';
import { runStep, StepError, say, sayFailure } from './lib/steps.mjs';
import { checkToolchain, REQUIRED } from './lib/toolchain.mjs';

// awscli 1.46.3 and boto3 1.44.5 take the same botocore.
const PYTHON_PACKAGES = ['pyspark==3.5.9', 'tpcgen-cli==4.0.0', 'boto3==1.44.5', 'awscli==1.46.3'];
const PYTHON_BUILD_PACKAGES = ['setuptools==80.9.0', 'wheel==0.45.1'];
const QUERIES_ARTIFACT = 'org.apache.spark:spark-sql_2.12:3.5.7:jar:tests';
const COPY_GOAL = 'org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy';
/** A Maven build that says nothing but what is wrong, and never asks. */
export const MAVEN_QUIET = ['-q', '-B', '-ntp'];

export const STEPS = ['npm', 'python', 'python-client', 'jvm', 'queries'];
/** What Spark's benchmarks need: not the environment with PyTorch. */
export const SPARK_STEPS = ['npm', 'python', 'jvm', 'queries'];
/** Steps that need fewer tools than Spark does. */
const TOOLS_OF_STEP = { npm: ['node'], 'python-client': ['node', 'python'] };
const PIP_INSTALL = '-m pip --disable-pip-version-check install --progress-bar off'.split(' ');

/** Sets up the named steps; `quiet` leaves out what was found in order. @throws {StepError} */
export async function setUp({ only = STEPS, quiet = false } = {}) {
  const started = Date.now();
  const remark = quiet ? () => {} : say;
  remark(`Ebb: setting up (${only.join(', ')}) …`);
  const { tools, complaints } = await checkToolchain(toolsFor(only));
  if (complaints.length > 0) throw new StepError('tools', complaints.join('\n  '));
  const versions = Object.entries(tools).map(
    ([tool, { version }]) => `${tool} ${version.join('.')}`,
  );
  remark(`✓ tools: ${versions.join(', ')}`);

  const reused = [];
  const wanted = (step, isDone) => {
    if (!only.includes(step)) return false;
    const done = isDone();
    if (done) reused.push(step);
    return !done;
  };
  // All branches settle before a failure is told: nothing goes on in the background after this function ends.
  const branches = await Promise.allSettled([
    wanted('npm', isInstalled) ? installNpmPackages() : undefined,
    preparePythons(wanted, tools.python?.command),
    prepareJvm(wanted, tools.python?.command),
  ]);
  const failed = branches.find((branch) => branch.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  if (reused.length > 0) remark(`✓ reused: ${reused.join(', ')}`);
  remark(`✓ set-up took ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

/** Everything but the steps named above ends in Spark, which needs all tools. */
function toolsFor(steps) {
  return [...new Set(steps.flatMap((step) => TOOLS_OF_STEP[step] ?? Object.keys(REQUIRED)))];
}

async function installNpmPackages() {
  await runStep('npm', 'installing the packages of package-lock.json', async ({ run }) => {
    // Not `npm ci`: newer npms refuse a lock that was made where a registry lacks the binaries of other platforms. This
    // takes the versions of the lock just so, fetches what this platform needs besides, and leaves the lock as it is.
    await run('npm', ['install', '--no-save', '--no-audit', '--no-fund']);
    // Some npm set-ups hold install scripts back, and the `node` package gets its binary from one.
    if (!existsSync(OWN_NODE)) await run('npm', ['rebuild', 'node', '--ignore-scripts=false']);
    await run(OWN_NODE, ['--version']);
  });
}

/** One after the other: two pips at once only wait for the network together. */
async function preparePythons(wanted, python) {
  await preparePython(wanted, python);
  await preparePythonClient(wanted, python);
}

async function preparePython(wanted, python) {
  const key = hashText(...PYTHON_PACKAGES, ...PYTHON_BUILD_PACKAGES);
  if (!wanted('python', () => isStamped('python', key))) return;
  await runStep(
    'python',
    `a virtual environment with ${PYTHON_PACKAGES.join(', ')}`,
    async ({ run }) => {
      dropStamp('python');
      rmSync(VENV, { recursive: true, force: true });
      await run(python, ['-m', 'venv', VENV]);
      // pyspark comes as a source package; setuptools turns it into a wheel here, without fetching its own again.
      await run(VENV_PYTHON, [...PIP_INSTALL, ...PYTHON_BUILD_PACKAGES]);
      await run(VENV_PYTHON, [...PIP_INSTALL, '--no-build-isolation', ...PYTHON_PACKAGES]);
      writeStamp('python', key, [VENV_PYTHON, path.join(VENV, 'bin', 'tpcgen-cli')]);
    },
  );
}

/** The client is installed as its sources lie here: a change of them needs no set-up, one of its metadata does. */
async function preparePythonClient(wanted, python) {
  const requirements = readdirSync(PYTHON)
    .filter((name) => /^requirements-test.*\.txt$/.test(name))
    .sort()
    .map((name) => path.join(PYTHON, name));
  const sources = [...requirements, path.join(PYTHON, 'pyproject.toml')];
  const key = hashText(...sources.map((file) => readFileSync(file, 'utf8')));
  if (!wanted('python-client', () => isStamped('python-client', key))) return;
  await runStep(
    'python-client',
    'a virtual environment with the Python client',
    async ({ run }) => {
      dropStamp('python-client');
      rmSync(CLIENT_VENV, { recursive: true, force: true });
      await run(python, ['-m', 'venv', CLIENT_VENV]);
      await run(CLIENT_VENV_PYTHON, [
        ...PIP_INSTALL,
        ...requirements.flatMap((file) => ['-r', file]),
      ]);
      // hatchling is among the requirements: nothing is fetched to build with.
      const local = ['--no-deps', '--no-build-isolation', '--editable', PYTHON];
      await run(CLIENT_VENV_PYTHON, [...PIP_INSTALL, ...local]);
      await run(CLIENT_VENV_PYTHON, ['-c', 'import ebb']);
      writeStamp('python-client', key, [CLIENT_VENV_PYTHON]);
    },
  );
}

async function prepareJvm(wanted, python) {
  await prepareQueries(wanted, python);
  const key = hashTree(JVM, { skip: ['target', 'dist'] });
  if (!wanted('jvm', () => isStamped('jvm', key))) return;
  await runStep('jvm', 'building the Spark plugin with Maven', async ({ run }) => {
    dropStamp('jvm');
    if (!existsSync(path.join(JVM, 'pom.xml'))) throw new Error('clients/jvm/pom.xml is missing');
    await run('mvn', [...MAVEN_QUIET, '-DskipTests', 'package'], { cwd: JVM });
    writeStamp('jvm', key, findJars());
  });
}

function findJars() {
  const jars = listFiles(path.join(JVM, 'dist')).filter((file) => file.endsWith('.jar'));
  if (jars.length === 0) throw new Error('the build left no jar in clients/jvm/dist');
  return jars;
}

async function prepareQueries(wanted, python) {
  const key = hashText(QUERIES_ARTIFACT);
  if (!wanted('queries', () => isStamped('queries', key))) return;
  await runStep('queries', `TPC-DS queries out of ${QUERIES_ARTIFACT}`, async ({ run }) => {
    dropStamp('queries');
    rmSync(QUERIES, { recursive: true, force: true });
    mkdirSync(QUERIES, { recursive: true });
    const jarDir = path.join(QUERIES, 'jar');
    await run('mvn', [
      ...MAVEN_QUIET,
      COPY_GOAL,
      `-Dartifact=${QUERIES_ARTIFACT}`,
      `-DoutputDirectory=${jarDir}`,
    ]);
    const [jar] = listFiles(jarDir);
    // A jar is a zip file, and Python unpacks those.
    await run(python, ['-c', UNPACK_QUERIES, jar, QUERIES]);
    rmSync(jarDir, { recursive: true });
    writeStamp('queries', key, [path.join(QUERIES, 'q67.sql')]);
  });
}

const UNPACK_QUERIES = `
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as jar:
    for name in jar.namelist():
        if name.startswith('tpcds/q') and name.endswith('.sql'):
            (pathlib.Path(sys.argv[2]) / pathlib.Path(name).name).write_bytes(jar.read(name))
`;

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.chdir(ROOT);
  const at = process.argv.indexOf('--only');
  const only = at === -1 ? STEPS : (process.argv[at + 1] ?? '').split(',');
  const unknown = only.filter((step) => !STEPS.includes(step));
  try {
    if (unknown.length > 0)
      throw new Error(`no such step: ${unknown.join(', ')}; there are ${STEPS.join(', ')}`);
    await setUp({ only });
  } catch (error) {
    sayFailure(error);
    process.exitCode = 1;
  }
}
