import type { Readable, Writable } from "node:stream";

/** A stream that text goes to: process.stdout, or a test's. */
export interface OutStream extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

export interface InStream extends Readable {
  readonly isTTY?: boolean;
}

/** What a command is run in: the process, or what a test makes up. */
export interface Io {
  readonly stdin: InStream;
  readonly stdout: OutStream;
  readonly stderr: OutStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly now: () => Date;
}

export interface TerminalOptions {
  /** `--no-color`. */
  readonly color: boolean;
  /** -v, -vv */
  readonly verbose: number;
  readonly json: boolean;
  readonly logFormat: "text" | "json";
}

const DEFAULT_WIDTH = 100;

/** The one place that output goes through: knows colour, width and whether somebody watches. */
export class Terminal {
  readonly io: Io;
  readonly options: TerminalOptions;
  readonly #closed: AbortController;

  constructor(io: Io, options: TerminalOptions, closed?: AbortController) {
    this.io = io;
    this.options = options;
    this.#closed = closed ?? new AbortController();
    if (closed !== undefined) return;
    for (const stream of [io.stdout, io.stderr]) {
      stream.on("error", (error: Error) => {
        // The reader went away (`labctl logs | head`). An apply goes on; what only prints stops, see `closed`.
        if ("code" in error && (error.code === "EPIPE" || error.code === "ERR_STREAM_DESTROYED")) this.#closed.abort();
        else if (stream === io.stdout) this.#closed.abort(error);
      });
    }
  }

  /** The same terminal, told otherwise. */
  with(options: TerminalOptions): Terminal {
    return new Terminal(this.io, options, this.#closed);
  }

  /** Aborts when nobody reads the output any more. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  out(text: string): void {
    if (!this.closed.aborted && text !== "") this.io.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  }

  /** Bytes as they are: what a remote command printed. */
  raw(chunk: Uint8Array | string, stream: "stdout" | "stderr" = "stdout"): void {
    if (!this.closed.aborted) this.io[stream].write(chunk);
  }

  err(text: string): void {
    if (!this.closed.aborted && text !== "") this.io.stderr.write(text.endsWith("\n") ? text : `${text}\n`);
  }

  json(data: unknown): void {
    this.out(JSON.stringify(data, null, 2));
  }

  line(data: unknown): void {
    this.out(JSON.stringify(data));
  }

  /** Columns of the terminal; undefined where the output goes to a file or a pipe and is never cut. */
  get columns(): number | undefined {
    return this.io.stdout.isTTY === true ? (this.io.stdout.columns ?? DEFAULT_WIDTH) : undefined;
  }

  get rows(): number {
    return this.io.stdout.rows ?? 24;
  }

  get width(): number {
    return Math.max(40, Math.min(this.columns ?? DEFAULT_WIDTH, 160));
  }

  get color(): boolean {
    return useColor(this.io, this.options.color, this.io.stdout);
  }

  get errColor(): boolean {
    return useColor(this.io, this.options.color, this.io.stderr);
  }

  /** A live view can be drawn: a terminal that is watched, and nobody asked for lines. */
  get live(): boolean {
    const { env, stdout } = this.io;
    return (
      stdout.isTTY === true &&
      !isSet(env["CI"]) &&
      env["TERM"] !== "dumb" &&
      !this.options.json &&
      this.options.logFormat === "text" &&
      this.options.verbose === 0
    );
  }

  /** Somebody is there to answer a question. */
  get interactive(): boolean {
    return this.io.stdin.isTTY === true && this.io.stdout.isTTY === true && !this.options.json;
  }
}

/** https://no-color.org and https://force-color.org: set and not empty. */
function useColor(io: Io, wanted: boolean, stream: OutStream): boolean {
  const force = io.env["FORCE_COLOR"];
  if (!wanted || isSet(io.env["NO_COLOR"])) return false;
  if (force !== undefined && force !== "") return force !== "0" && force !== "false";
  return stream.isTTY === true && io.env["TERM"] !== "dumb";
}

function isSet(value: string | undefined): boolean {
  return value !== undefined && value !== "" && value !== "0" && value !== "false";
}
