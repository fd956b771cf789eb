/** The little Markdown that the reference pages need. */

/** A page with its title, where it comes from, and paragraphs. */
export function page(title: string, madeFrom: string, ...parts: readonly string[]): string {
  const note = `<!-- Made from ${madeFrom} by \`npm run docs\`. Edit that, not this. -->`;
  return `${[`# ${title}`, note, ...parts].join('\n\n')}\n`;
}

/** Cells are Markdown, except that a bar does not end them. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}

export function code(text: string): string {
  return `\`${text}\``;
}

/** Text as it stands, where Markdown would take `<name>` for HTML. What stands between backticks is left alone. */
export function plain(text: string): string {
  return text
    .split('`')
    .map((part, at) => (at % 2 === 0 ? part.replaceAll('<', '\\<') : part))
    .join('`');
}
