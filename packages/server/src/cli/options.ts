/** Options and phrases that commands share. */
import { InvalidArgumentError, Option } from '@commander-js/extra-typings';
import { ACKS, parseBytes, parseDuration } from '@ebb/protocol';

export const nodeOption = new Option(
  '--node <url>',
  'address of the node: http://HOST:PORT, https://HOST:PORT or unix:///PATH',
)
  .env('EBB_NODE')
  .default('http://127.0.0.1:9700');
/** Every command with `--node` has them: program.ts. */
export const tlsOptions: readonly Option[] = [
  new Option('--ca-file <file>', 'CA of the node’s certificate, as PEM, with https://').env(
    'EBB_CA_FILE',
  ),
  new Option('--cert-file <file>', 'certificate to show to the node, as PEM').env('EBB_CERT_FILE'),
  new Option('--key-file <file>', 'its private key, as PEM').env('EBB_KEY_FILE'),
];
export const jsonOption = new Option('--json', 'print JSON');
export const recursiveOption = new Option('-r, --recursive', 'all objects under this prefix');
export const jobOption = new Option('--job <id>', 'job that owns what is stored');
export const ackOption = new Option(
  '--ack <level>',
  'what must hold before the command returns',
).choices(ACKS as ['memory', 'disk', 'remote']);

export function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}`;
}

export function bytesArgument(text: string): number {
  return argument(() => parseBytes(text));
}
export function durationArgument(text: string): number {
  return argument(() => parseDuration(text));
}
export function countArgument(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('Give a whole number from 1.');
  return value;
}

/** `name=value`, again and again. */
export function pairArgument(
  text: string,
  before: Record<string, string> = {},
): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Write name=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

function argument<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}
