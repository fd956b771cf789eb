/** What a command of `ebb` is: each file with a `create` is one (commands.ts lists them). */
import type { Command } from '@commander-js/extra-typings';

// oxlint-disable-next-line no-explicit-any -- the parser's type parameters differ for every command
export type AnyCommand = Command<any, any, any>;

export interface CommandModule {
  create(program: WholeProgram): AnyCommand;
}

/** The program that a command is part of, with all its commands loaded: for those that tell about others. */
export type WholeProgram = () => Promise<AnyCommand>;
