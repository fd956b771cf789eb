import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Command, Option } from '@commander-js/extra-typings';
import { parseNodeAddress } from '@ebb/client';
import { StoreError } from '@ebb/protocol';
import type { AnyCommand } from './command.ts';
import { examples, jsonOption, nodeOption } from './options.ts';
import { printJson, printLine } from './output.ts';

/** Name of the plugin's line in its jar, by the Spark and Scala it is built for. */
const LINES: Readonly<Record<string, readonly string[]>> = {
  '3.5': ['2.12', '2.13'],
  '4': ['2.13'],
};

export function create(): AnyCommand {
  return new Command('spark-conf')
    .addOption(new Option('--spark <version>', 'version of Spark: 3.5, 4.0, 4.1').default('3.5'))
    .addOption(
      new Option('--scala <version>', 'version of Scala')
        .choices(['2.12', '2.13'])
        .default('2.12' as const),
    )
    .option('--plugin-jar <file>', 'the plugin, where it is not the one built in this checkout')
    .addOption(nodeOption)
    .addOption(jsonOption)
    .addHelpText(
      'after',
      examples(
        'ebb spark-conf > ebb.conf && spark-submit --properties-file ebb.conf app.py',
        'ebb spark-conf --spark 4.0 --scala 2.13 --node unix:///run/ebb.sock',
      ),
    )
    .action(async (options) => {
      const { text, tls } = parseNodeAddress(options.node);
      if (tls !== undefined)
        throw new StoreError(
          'unsupported',
          'the Spark plugin speaks no TLS; executors on the host of the node use its socket: --node unix:///PATH',
        );
      const jar =
        options.pluginJar === undefined
          ? findPluginJar(pluginLine(options.spark, options.scala))
          : existingFile(resolve(options.pluginJar));
      const settings = sparkSettings({ node: text, jar });
      if (options.json === true) {
        await printJson(settings);
        return;
      }
      for (const [name, value] of Object.entries(settings)) await printLine(`${name}=${value}`);
    });
}

export function sparkSettings(options: {
  readonly node: string;
  readonly jar: string;
}): Record<string, string> {
  // Spark creates the shuffle manager before it fetches `spark.jars`, so the jar must be on both class paths from the start.
  return {
    'spark.shuffle.manager': 'org.apache.spark.shuffle.ebb.EbbShuffleManager',
    'spark.shuffle.sort.io.plugin.class': 'org.apache.spark.shuffle.ebb.EbbShuffleDataIO',
    'spark.shuffle.ebb.node': options.node,
    // Or idle executors would stay as long as the shuffles that they wrote, which are not theirs.
    'spark.dynamicAllocation.shuffleTracking.enabled': 'false',
    'spark.driver.extraClassPath': options.jar,
    'spark.executor.extraClassPath': options.jar,
  };
}

/** `3.5.7` and 2.12 are the line `3.5_2.12`; all of Spark 4 is one line. @throws `request_invalid` */
export function pluginLine(spark: string, scala: string): string {
  const [major, minor] = spark.split('.');
  const line = major === '4' ? '4' : `${major}.${minor}`;
  if (LINES[line]?.includes(scala) === true) return `${line}_${scala}`;
  const known = Object.entries(LINES).map(
    ([name, scalas]) => `Spark ${name} with Scala ${scalas.join(' or ')}`,
  );
  throw new StoreError(
    'request_invalid',
    `no plugin for Spark ${spark} with Scala ${scala}; there are: ${known.join(', ')}`,
  );
}

function findPluginJar(line: string): string {
  const name = `ebb-spark-${line}.jar`;
  for (let at = import.meta.dirname; ; at = dirname(at)) {
    const clients = join(at, 'clients', 'jvm');
    if (existsSync(clients)) {
      const jar = join(clients, 'dist', name);
      if (existsSync(jar)) return jar;
      const all = line === '3.5_2.12' ? '' : ' -Pall';
      throw new StoreError(
        'not_found',
        `the plugin is not built: ${jar} is missing.\n     Build it with: mvn -q -f ${join(clients, 'pom.xml')}${all} -DskipTests package`,
      );
    }
    if (dirname(at) === at) {
      throw new StoreError(
        'not_found',
        `no ${name} beside this installation; name it with --plugin-jar`,
      );
    }
  }
}

function existingFile(path: string): string {
  if (existsSync(path)) return path;
  throw new StoreError('not_found', `no file ${path}`);
}
