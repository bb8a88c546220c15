/**
 * The labctl command line as a process of its own, as users run it: `node bin/labctl.js`, from `dist` (build first).
 *
 *     const { code, stdout, stderr } = await labctl(["plan", "--json"], { cwd, env });
 *     const child = spawnLabctl(["apply", "--auto-approve", "--json"], { cwd, env });
 *     await child.event((event) => event.type === "action.started");
 *     child.kill("SIGKILL");
 *     const { signal } = await child.done;
 *
 * Nothing of the caller's environment is passed on but PATH. Each process leads a group of its own, and `kill` reaches
 * the whole group; one that outlives `timeout` is killed, and `done` rejects.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import type { LabEvent } from "../../src/model/index.ts";

/** LABCTL_PROGRAM: another build than this checkout's, such as an installed package. */
const PROGRAM = process.env["LABCTL_PROGRAM"] ?? join(import.meta.dirname, "../../bin/labctl.js");

export interface CliOptions {
  readonly cwd: string;
  /** In place of this process's own; PATH is added. */
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  /** Milliseconds; default a minute. */
  readonly timeout?: number;
  /** What node itself is told: `--max-old-space-size=40`. */
  readonly nodeArgs?: readonly string[];
  /** What runs node: `["faketime", "-f", "+1y"]`. */
  readonly wrap?: readonly string[];
}

export interface CliResult {
  /** Undefined where a signal ended it. */
  readonly code: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
  readonly stdout: string;
  readonly stderr: string;
  /** Both, as they came. */
  readonly output: string;
}

export interface CliProcess {
  readonly pid: number;
  /** What was printed so far. */
  readonly stdout: string;
  readonly stderr: string;
  /** Resolves at the end, in whatever way; rejects where it took longer than it may. */
  readonly done: Promise<CliResult>;
  /** The events of `--json` so far: whole lines only. */
  readonly events: readonly LabEvent[];
  /** The first event that matches, past or to come; undefined where the process ends without one. */
  event(matches: (event: LabEvent) => boolean): Promise<LabEvent | undefined>;
  /** To the whole group; false where nothing is left of it. */
  kill(signal: NodeJS.Signals): boolean;
}

export function spawnLabctl(args: readonly string[], options: CliOptions): CliProcess {
  const [program = process.execPath, ...rest] = [
    ...(options.wrap ?? []),
    process.execPath,
    ...(options.nodeArgs ?? []),
    PROGRAM,
    ...args,
  ];
  const child = spawn(program, rest, {
    cwd: options.cwd,
    env: { PATH: process.env["PATH"], ...options.env },
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
  });
  return new Running(child, args, options);
}

export function labctl(args: readonly string[], options: CliOptions): Promise<CliResult> {
  return spawnLabctl(args, options).done;
}

interface Waiter {
  readonly matches: (event: LabEvent) => boolean;
  readonly resolve: (event: LabEvent | undefined) => void;
}

const running = new Set<Running>();
process.once("exit", () => {
  for (const one of running) one.kill("SIGKILL");
});

class Running implements CliProcess {
  readonly #child: ChildProcess;
  readonly #events: LabEvent[] = [];
  readonly done: Promise<CliResult>;
  stdout = "";
  stderr = "";
  #output = "";
  #parsed = 0;
  #waiters: Waiter[] = [];
  #ended = false;

  constructor(child: ChildProcess, args: readonly string[], options: CliOptions) {
    this.#child = child;
    running.add(this);
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(options.stdin ?? "");
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
      this.#output += text;
      this.#parse();
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
      this.#output += text;
    });
    const timeout = options.timeout ?? 60_000;
    this.done = new Promise((resolve, reject) => {
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        this.kill("SIGKILL");
      }, timeout);
      const end = (): void => {
        clearTimeout(timer);
        running.delete(this);
        this.#ended = true;
        for (const waiter of this.#waiters) waiter.resolve(undefined);
        this.#waiters = [];
      };
      child.once("error", (error) => {
        end();
        reject(error);
      });
      child.once("close", (code, signal) => {
        end();
        if (late) {
          reject(new Error(`labctl ${args.join(" ")} did not end within ${timeout} ms:\n${this.#output.slice(-4000)}`));
          return;
        }
        resolve({
          code: code ?? undefined,
          signal: signal ?? undefined,
          stdout: this.stdout,
          stderr: this.stderr,
          output: this.#output,
        });
      });
    });
    // Who only waits for an event still learns of a failure by awaiting `done` later.
    this.done.catch(() => undefined);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get events(): readonly LabEvent[] {
    return this.#events;
  }

  event(matches: (event: LabEvent) => boolean): Promise<LabEvent | undefined> {
    const found = this.#events.find(matches);
    if (found !== undefined || this.#ended) return Promise.resolve(found);
    return new Promise((resolve) => this.#waiters.push({ matches, resolve }));
  }

  kill(signal: NodeJS.Signals): boolean {
    if (this.#child.pid === undefined) return false;
    try {
      process.kill(-this.#child.pid, signal);
      return true;
    } catch {
      return false;
    }
  }

  #parse(): void {
    for (;;) {
      const end = this.stdout.indexOf("\n", this.#parsed);
      if (end < 0) return;
      const line = this.stdout.slice(this.#parsed, end);
      this.#parsed = end + 1;
      const event = asEvent(line);
      if (event === undefined) continue;
      this.#events.push(event);
      this.#waiters = this.#waiters.filter((waiter) => {
        if (!waiter.matches(event)) return true;
        waiter.resolve(event);
        return false;
      });
    }
  }
}

function asEvent(line: string): LabEvent | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const value = JSON.parse(line) as Partial<LabEvent>;
    return typeof value.type === "string" && typeof value.run === "string" ? (value as LabEvent) : undefined;
  } catch {
    return undefined;
  }
}
