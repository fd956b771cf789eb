/** Options and words that the commands of `ebb checkpoint` share. */
import { Argument, InvalidArgumentError, Option } from '@commander-js/extra-typings';
import type { StepChoice } from '@ebb/client';
import { CHECKPOINT_BUCKET, CHECKPOINT_STEP_MAX } from '@ebb/protocol';

export function bucketOption() {
  return new Option('--bucket <bucket>', 'where the run is').default(CHECKPOINT_BUCKET);
}

export function runArgument() {
  return new Argument('<run>', 'its name');
}

export function stepArgument(name = 'step') {
  return new Argument(`<${name}>`, 'a whole number').argParser(parseStep);
}

export function stepChoiceArgument() {
  return new Argument('[step]', 'default: the newest one that is not marked bad')
    .argParser((text): StepChoice => (text === 'latest' ? text : parseStep(text)))
    .default('latest' as StepChoice, 'latest');
}

export function parseStep(text: string): number {
  const step = Number(text);
  if (/^\d+$/.test(text) && step <= CHECKPOINT_STEP_MAX) return step;
  throw new InvalidArgumentError('A step is a whole number.');
}
