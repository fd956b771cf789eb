import { nextTurn } from '../next-turn.ts';

/** Steps of a loop over the parts of one object: a few milliseconds, when each looks a blob up. */
const STEPS_A_TURN = 256;

/** In a loop that may be long: lets others have their turn after each `stepsAtOnce` steps. */
export function takesTurns(step: number, stepsAtOnce = STEPS_A_TURN): Promise<void> | undefined {
  return step % stepsAtOnce === stepsAtOnce - 1 ? nextTurn() : undefined;
}
