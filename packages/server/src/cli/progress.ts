/** One line on standard error that grows while bytes travel; nothing when nobody watches. */
import { formatBytes } from '@ebb/protocol';

export interface Progress {
  /** Bytes of this transfer so far. */
  add(bytes: number): void;
  /** More is expected than was said at the start. */
  expect(bytes: number): void;
  end(): void;
}

/** A transfer shorter than this shows nothing. */
const SHOW_AFTER_MS = 500;
const REDRAW_MS = 100;

export function createProgress(
  label: string,
  terminal: { isTTY?: boolean; columns?: number; write(text: string): unknown } = process.stderr,
  nowMs: () => number = () => performance.now(),
): Progress {
  const startedMs = nowMs();
  let doneBytes = 0;
  let totalBytes = 0;
  let drawnMs = startedMs + SHOW_AFTER_MS - REDRAW_MS;
  let drawn = false;
  return {
    add(bytes) {
      doneBytes += bytes;
      const now = nowMs();
      if (terminal.isTTY !== true || now - drawnMs < REDRAW_MS) return;
      drawnMs = now;
      drawn = true;
      const line = formatProgress({ label, doneBytes, totalBytes, elapsedMs: now - startedMs });
      terminal.write(
        `\r\x1b[K${Array.from(line)
          .slice(0, (terminal.columns ?? 80) - 1)
          .join('')}`,
      );
    },
    expect(bytes) {
      totalBytes += bytes;
    },
    end() {
      if (drawn) terminal.write('\r\x1b[K');
    },
  };
}

const BAR_CELLS = 24;

export function formatProgress(state: {
  readonly label: string;
  readonly doneBytes: number;
  /** 0: unknown. */
  readonly totalBytes: number;
  readonly elapsedMs: number;
}): string {
  const { label, doneBytes, totalBytes, elapsedMs } = state;
  const bytesPerMs = doneBytes / Math.max(elapsedMs, 1);
  const rate = `${formatBytes(Math.round(bytesPerMs * 1000))}/s`;
  if (totalBytes === 0) return `${label}  ${formatBytes(doneBytes)}  ${rate}`;
  const part = Math.min(doneBytes / totalBytes, 1);
  const cells = Math.floor(part * BAR_CELLS);
  const bar = '█'.repeat(cells) + '░'.repeat(BAR_CELLS - cells);
  const leftSeconds = Math.ceil((totalBytes - doneBytes) / Math.max(bytesPerMs, 1e-9) / 1000);
  const left = part < 1 && leftSeconds < 360_000 ? `  ${leftSeconds} s left` : '';
  return `${label}  ${bar} ${Math.floor(part * 100)}%  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}  ${rate}${left}`;
}
