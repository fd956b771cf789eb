import { Argument, Command } from '@commander-js/extra-typings';
import type { AnyCommand, WholeProgram } from './command.ts';
import { type CompletionWord, completionScript } from './completion-script.ts';
import { examples } from './options.ts';
import { write } from './output.ts';

export function create(wholeProgram: WholeProgram): AnyCommand {
  return new Command('completion')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .addHelpText(
      'after',
      examples(
        'ebb completion bash > ~/.local/share/bash-completion/completions/ebb',
        'ebb completion zsh > ~/.zfunc/_ebb',
        'ebb completion fish > ~/.config/fish/completions/ebb.fish',
      ),
    )
    .action(async (shell) => {
      await write(completionScript(shell, wordsOf(await wholeProgram())));
    });
}

function wordsOf(program: AnyCommand): CompletionWord[] {
  return program.commands.map((command) => ({
    name: command.name(),
    summary: command.description(),
    options: command.options.map((option) => ({
      flag: option.long ?? option.short ?? '',
      means: option.description,
      choices: option.argChoices ?? [],
    })),
    words: [
      ...command.commands.map((child) => child.name()),
      ...command.registeredArguments.flatMap((argument) => argument.argChoices ?? []),
    ],
  }));
}
