/** Telling what happens while it happens. On a terminal the running piece of work is shown too, and then overwritten. */
export class Progress {
  readonly started = Date.now();
  readonly #isTerminal = process.stdout.isTTY === true;
  #running = '';
  #ticker: NodeJS.Timeout | undefined;

  get elapsedSeconds(): number {
    return (Date.now() - this.started) / 1000;
  }

  /** One finished thing. */
  say(line: string): void {
    this.#clear();
    process.stdout.write(`${this.#stamp()} ${line}\n`);
    this.#show();
  }

  /** Says what runs now; the returned function ends it. */
  begin(what: string): () => void {
    this.#running = what;
    const begun = Date.now();
    if (this.#isTerminal) {
      this.#show();
      this.#ticker = setInterval(() => {
        this.#clear();
        this.#running = `${what} … ${Math.round((Date.now() - begun) / 1000)} s`;
        this.#show();
      }, 1000);
    }
    return () => {
      clearInterval(this.#ticker);
      this.#clear();
      this.#running = '';
    };
  }

  #show(): void {
    if (this.#isTerminal && this.#running !== '')
      process.stdout.write(`${this.#stamp()} ${this.#running}`);
  }

  #clear(): void {
    if (this.#isTerminal) process.stdout.write('\r\x1b[K');
  }

  #stamp(): string {
    const seconds = Math.floor(this.elapsedSeconds);
    return `[${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}]`;
  }
}
