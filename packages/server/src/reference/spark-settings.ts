/**
 * The `spark.shuffle.ebb.*` settings of the Spark plugin. Names, kinds, defaults and bounds come from the one Java file that
 * reads them; what they mean comes from the table in clients/jvm/README.md. The two must agree, or there is no page.
 */

export interface SparkSetting {
  readonly name: string;
  readonly kind: string;
  /** As the Java says it; '' where there is none. */
  readonly default: string;
  readonly bounds: string;
  readonly means: string;
}

const PREFIX = 'spark.shuffle.ebb.';

/** By the getter of SparkConf. `bounded` is the file's own, over getSizeAsBytes. */
const KINDS: Readonly<Record<string, string>> = {
  get: 'text',
  getBoolean: 'true or false',
  getInt: 'number',
  getLong: 'number',
  getDouble: 'number',
  getTimeAsMs: 'time',
  getTimeAsSeconds: 'time',
  getSizeAsBytes: 'size',
  bounded: 'size',
};

/** @throws {Error} when the Java names a setting that is not understood here, or the README does not match */
export function parseSparkSettings(java: string, readme: string): readonly SparkSetting[] {
  const constants = new Map(
    [...java.matchAll(/static final String (\w+) = PREFIX \+ "([\w.]+)";/g)].map(
      ([, constant, name]) => [constant as string, name as string],
    ),
  );
  const found = new Map<string, Omit<SparkSetting, 'means'>>();
  const reads =
    /(?:conf\.(get\w*)\(|\b(bounded)\(conf, )(?:PREFIX \+ )?(?:"([\w.]+)"|(\w+)), ([^;]*?)\)(?:\.\w+\(\))*;/g;
  for (const [, getter, own, literal, constant, rest] of java.matchAll(reads)) {
    const name = literal ?? constants.get(constant as string);
    // Settings of Spark's own are read in the same way.
    if (name === undefined || name.startsWith('spark.')) continue;
    const [otherwise = '', ...bounds] = (rest as string).split(', ');
    found.set(name, {
      name: PREFIX + name,
      kind: KINDS[getter ?? (own as string)] ?? 'text',
      default: otherwise.replaceAll('"', ''),
      bounds: bounds.map((bound) => shownBytes(bound, name)).join(' to '),
    });
  }
  const meanings = readMeanings(readme);
  const complaints = [
    ...missing(
      namedIn(java),
      found.keys(),
      'is named in the Java, and no line that reads it was found',
    ),
    ...missing(found.keys(), meanings.keys(), 'is not in the table of clients/jvm/README.md'),
    ...missing(meanings.keys(), found.keys(), 'is in the table of clients/jvm/README.md alone'),
  ];
  for (const [name, { default: otherwise }] of found) {
    const told = meanings
      .get(name)
      ?.default.replaceAll('`', '')
      .replace(/^none$/, '');
    if (told !== undefined && told !== otherwise)
      complaints.push(`${PREFIX}${name} has the default "${otherwise}", the README says "${told}"`);
  }
  if (complaints.length > 0) throw new Error(complaints.join('\n'));
  return [...found].map(([name, setting]) => ({
    ...setting,
    means: (meanings.get(name) as { means: string }).means,
  }));
}

/** Every name behind the prefix, whatever is done with it. */
function namedIn(java: string): Set<string> {
  return new Set([
    ...[...java.matchAll(/PREFIX \+ "([\w.]+)"/g)].map(([, name]) => name as string),
    ...[...java.matchAll(/\bbounded\(conf, "([\w.]+)"/g)].map(([, name]) => name as string),
  ]);
}

function readMeanings(readme: string): Map<string, { default: string; means: string }> {
  const rows = readme.matchAll(/^\| `spark\.shuffle\.ebb\.([\w.]+)` \| (.*?) \| (.*?) \|$/gm);
  return new Map(
    [...rows].map(([, name, otherwise, means]) => [
      name as string,
      { default: otherwise as string, means: means as string },
    ]),
  );
}

function missing(wanted: Iterable<string>, among: Iterable<string>, why: string): string[] {
  const known = new Set(among);
  return [...wanted].filter((name) => !known.has(name)).map((name) => `${PREFIX}${name} ${why}`);
}

/** `4 << 10` as `4k`. */
function shownBytes(bound: string, name: string): string {
  const match = /^(\d+) << ([123])0$/.exec(bound);
  if (match === null) throw new Error(`the bound "${bound}" of ${PREFIX}${name} is not understood`);
  return `${match[1]}${'kmg'[Number(match[2]) - 1]}`;
}
