/** Columns as wide as their widest cell. */
export interface Column<Row> {
  readonly title: string;
  readonly cell: (row: Row) => string;
  /** Numbers read better flush right. */
  readonly right?: boolean;
}

export function formatTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  options: { readonly styled: boolean },
): string[] {
  const titles = columns.map((column) => column.title.toUpperCase());
  const cells = rows.map((row) => columns.map((column) => printable(column.cell(row))));
  const widths = columns.map((_, at) =>
    Math.max(...[titles, ...cells].map((line) => Array.from(line[at] as string).length)),
  );
  const toLine = (line: readonly string[]): string =>
    line
      .map((text, at) => {
        const room = ' '.repeat((widths[at] as number) - Array.from(text).length);
        return columns[at]?.right === true ? room + text : text + room;
      })
      .join('  ')
      .trimEnd();
  const head = toLine(titles);
  return [options.styled ? `\x1b[1m${head}\x1b[0m` : head, ...cells.map(toLine)];
}

/** Keys may hold what a terminal would obey. */
export function printable(text: string): string {
  return text.replaceAll(
    // oxlint-disable-next-line no-control-regex -- these are what is looked for
    /[\0-\x1f\x7f-\x9f]/g,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
