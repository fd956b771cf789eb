/** Completion of commands, their words and options. Pure: a tree of words in, a script out. */
export interface CompletionWord {
  readonly name: string;
  readonly summary: string;
  readonly options: readonly {
    readonly flag: string;
    readonly means: string;
    readonly choices: readonly string[];
  }[];
  /** Subcommands, and values of arguments with a fixed choice. */
  readonly words: readonly string[];
}

export function completionScript(
  shell: 'bash' | 'zsh' | 'fish',
  commands: readonly CompletionWord[],
): string {
  return { bash, zsh, fish }[shell](commands);
}

function bash(commands: readonly CompletionWord[]): string {
  const cases = commands.map(
    ({ name, options, words }) =>
      `    ${name}) words="${[...words, ...options.map((option) => option.flag), '--help'].join(' ')}" ;;`,
  );
  const values = choices(commands).map(
    ([flag, among]) =>
      `    ${flag}) COMPREPLY=($(compgen -W "${among.join(' ')}" -- "$current")); return ;;`,
  );
  return `# bash completion for ebb: source this, or put it in ~/.local/share/bash-completion/completions/ebb
_ebb() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" words
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${commands.map((command) => command.name).join(' ')} help --help --version" -- "$current"))
    return
  fi
  case "$previous" in
${values.join('\n')}
  esac
  case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
    *) words="" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _ebb ebb
`;
}

function zsh(commands: readonly CompletionWord[]): string {
  const names = commands.map(
    ({ name, summary }) => `    ${quote(`${name}:${summary.replaceAll(':', '\\:')}`)}`,
  );
  const cases = commands.map(({ name, options, words }) => {
    const flags = options.map(({ flag, means, choices }) => {
      const text = means.replaceAll(/[[\]\\]/g, '\\$&').replaceAll(':', '\\:');
      return quote(
        `${flag}[${text}]${choices.length === 0 ? '' : `:value:(${choices.join(' ')})`}`,
      );
    });
    const rest = words.length === 0 ? quote('*:file:_files') : quote(`*:word:(${words.join(' ')})`);
    return `    ${name}) _arguments ${[...flags, rest].join(' ')} ;;`;
  });
  return `#compdef ebb
# zsh completion for ebb: put it as _ebb in a directory of $fpath
_ebb() {
  local -a commands
  commands=(
${names.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe 'command' commands
    return
  fi
  local called=$words[2]
  shift words
  (( CURRENT-- ))
  case $called in
${cases.join('\n')}
  esac
}
compdef _ebb ebb
`;
}

function fish(commands: readonly CompletionWord[]): string {
  const lines = commands.flatMap(({ name, summary, options, words }) => {
    const within = `complete -c ebb -n ${quote(`__fish_seen_subcommand_from ${name}`)}`;
    return [
      `complete -c ebb -n __fish_use_subcommand -f -a ${name} -d ${quote(summary)}`,
      ...words.map((word) => `${within} -a ${word}`),
      ...options
        .filter(({ flag }) => flag.startsWith('--'))
        .map(({ flag, means, choices }) => {
          const values = choices.length === 0 ? '' : ` -x -a ${quote(choices.join(' '))}`;
          return `${within} -l ${flag.slice(2)} -d ${quote(means)}${values}`;
        }),
    ];
  });
  return `# fish completion for ebb: put it in ~/.config/fish/completions/ebb.fish\n${lines.join('\n')}\n`;
}

/** Options with fixed values, each flag once. */
function choices(commands: readonly CompletionWord[]): [string, readonly string[]][] {
  const found = new Map<string, readonly string[]>();
  for (const { flag, choices } of commands.flatMap((command) => command.options)) {
    if (choices.length > 0) found.set(flag, choices);
  }
  return [...found];
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
