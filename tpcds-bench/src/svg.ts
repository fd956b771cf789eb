/** Charts as plain SVG text: no script, no fonts, no network. Colours are classes, so that the page decides between light and dark. */
interface Bar {
  /** Which colour: the number of the series. */
  series: number;
  value: number;
  /** A darker part at the end of the bar, contained in `value`. */
  part?: number;
  title: string;
}

export interface BarGroup {
  label: string;
  bars: Bar[];
}

const LABEL_WIDTH = 90;
const PLOT_WIDTH = 620;
const VALUE_WIDTH = 70;
const BAR_HEIGHT = 14;
const GROUP_GAP = 12;

/** Horizontal bars in groups; each bar says its value. */
export function renderBars(groups: readonly BarGroup[], format: (value: number) => string): string {
  const max = Math.max(
    ...groups.flatMap((group) => group.bars.map((bar) => bar.value)),
    Number.MIN_VALUE,
  );
  const width = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH;
  const parts: string[] = [];
  let y = 4;
  for (const group of groups) {
    const middle = y + (group.bars.length * (BAR_HEIGHT + 2)) / 2 + 4;
    parts.push(
      `<text class="label" x="${LABEL_WIDTH - 8}" y="${middle}" text-anchor="end">${escapeHtml(group.label)}</text>`,
    );
    for (const bar of group.bars) {
      const length = (bar.value / max) * PLOT_WIDTH;
      const partLength = ((bar.part ?? 0) / max) * PLOT_WIDTH;
      const rect = (x: number, size: number, extra: string): string =>
        `<rect class="s${bar.series}${extra}" x="${x.toFixed(1)}" y="${y}" width="${size.toFixed(1)}" height="${BAR_HEIGHT}"/>`;
      parts.push(
        `<g><title>${escapeHtml(bar.title)}</title>${rect(LABEL_WIDTH, length, '')}`,
        partLength > 0 ? rect(LABEL_WIDTH + length - partLength, partLength, ' part') : '',
        `<text class="value" x="${(LABEL_WIDTH + length + 6).toFixed(1)}" y="${y + BAR_HEIGHT - 3}">${escapeHtml(format(bar.value))}</text></g>`,
      );
      y += BAR_HEIGHT + 2;
    }
    y += GROUP_GAP;
  }
  return `<svg viewBox="0 0 ${width} ${y}" role="img">${parts.join('')}</svg>`;
}

export interface LineSeries {
  series: number;
  name: string;
  points: readonly { x: number; y: number }[];
}

const LINE_HEIGHT = 200;
const AXIS_HEIGHT = 24;
const TICKS = 4;

/** Lines over time, from zero; the axes carry a few round figures. */
export function renderLines(
  lines: readonly LineSeries[],
  options: { formatX: (value: number) => string; formatY: (value: number) => string },
): string {
  const points = lines.flatMap((line) => line.points);
  const xMax = Math.max(...points.map((point) => point.x), Number.MIN_VALUE);
  const yMax = Math.max(...points.map((point) => point.y), Number.MIN_VALUE);
  const xOf = (value: number): string => (LABEL_WIDTH + (value / xMax) * PLOT_WIDTH).toFixed(1);
  const yOf = (value: number): string => (6 + LINE_HEIGHT * (1 - value / yMax)).toFixed(1);
  const parts: string[] = [];
  for (let tick = 0; tick <= TICKS; tick++) {
    const x = (xMax * tick) / TICKS;
    const y = (yMax * tick) / TICKS;
    parts.push(
      `<line class="grid" x1="${LABEL_WIDTH}" x2="${LABEL_WIDTH + PLOT_WIDTH}" y1="${yOf(y)}" y2="${yOf(y)}"/>`,
      `<text class="value" x="${LABEL_WIDTH - 8}" y="${Number(yOf(y)) + 4}" text-anchor="end">${escapeHtml(options.formatY(y))}</text>`,
      `<text class="value" x="${xOf(x)}" y="${LINE_HEIGHT + AXIS_HEIGHT}" text-anchor="middle">${escapeHtml(options.formatX(x))}</text>`,
    );
  }
  for (const line of lines) {
    const path = line.points
      .map((point, i) => `${i === 0 ? 'M' : 'L'}${xOf(point.x)} ${yOf(point.y)}`)
      .join('');
    parts.push(
      `<path class="line l${line.series}" d="${path}"><title>${escapeHtml(line.name)}</title></path>`,
    );
  }
  return `<svg viewBox="0 0 ${LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH} ${LINE_HEIGHT + AXIS_HEIGHT + 8}" role="img">${parts.join('')}</svg>`;
}

export function renderLegend(names: readonly { series: number; name: string }[]): string {
  const items = names.map(
    ({ series, name }) => `<span><i class="b${series}"></i>${escapeHtml(name)}</span>`,
  );
  return `<p class="legend">${items.join('')}</p>`;
}

export function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character);
}
