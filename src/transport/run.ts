import { Readable } from "node:stream";
import { LabError } from "../diagnostics/index.ts";
import { deferred } from "./deferred.ts";
import { Keeper } from "./keeper.ts";
import type { Link, RunningProcess } from "./link.ts";
import type { Become, ExecResult } from "./ports.ts";
import {
  commandWords,
  type Elevation,
  encodeScript,
  killScript,
  newNonce,
  StartFilter,
  SUDO_PROMPT,
  SUDO_READY,
} from "./wire.ts";

export interface RunRequest {
  /** Whole script, environment included; see fullScript(). */
  readonly script: string;
  readonly stdin?: string | Uint8Array | Readable;
  readonly become: Become;
  readonly root: boolean;
  readonly signal?: AbortSignal;
  /** Milliseconds. */
  readonly timeout: number;
  /** Bytes kept of each stream. */
  readonly keep: number;
  readonly onStdout?: (chunk: Buffer) => void;
  readonly onStderr?: (chunk: Buffer) => void;
  readonly urgent?: boolean;
  /** Handed the command's stdout, to hold it (pause, resume) while its reader is behind. */
  readonly onStart?: (stdout: Readable) => void;
}

/** After the process ended: how long outputs may stay open, held by something that it left in the background. */
const LINGER_MS = 500;
/** For sudo to ask, or to start the wrapper. */
const SUDO_START_MS = 20_000;
/** For a command that is to be killed to say which process it is. */
const START_MS = 2_000;
/** For the kill script and the streams to come to their end. */
const KILL_MS = 8_000;

export async function elevationFor(link: Link, root: boolean, become: Become): Promise<Elevation> {
  if (!root || become.method === "none" || (await link.isRoot())) return "none";
  return become.password === undefined ? "sudo" : "sudo-password";
}

/**
 * Runs one script to its end. A non-zero exit is a result. Rejects with E_TIMEOUT, E_CANCELLED (both after the command
 * and all that it started were killed), E_SUDO, E_AUTH (the login has no usable shell), E_DISCONNECTED, and what the
 * link rejects with.
 */
export async function run(link: Link, request: RunRequest): Promise<ExecResult> {
  throwIfCancelled(link, request.signal);
  const elevation = await elevationFor(link, request.root, request.become);
  const process = await link.start(commandWords(elevation), {
    ...(request.signal && { signal: request.signal }),
    ...(request.urgent && { urgent: true }),
  });
  return new Run(link, request, elevation, process).result();
}

export function cancelled(link: Link): LabError {
  return new LabError("E_CANCELLED", "cancelled", { address: link.address });
}

/** Milliseconds. */
export function timedOut(link: Link, timeout: number): LabError {
  return new LabError("E_TIMEOUT", `a command on ${link.name} took longer than ${timeout / 1000} s and was killed`, {
    address: link.address,
    hint: "raise `timeout:` here or `timeouts.command` under `defaults:` if it may take longer",
  });
}

export function throwIfCancelled(link: Link, signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(link);
}

class Run {
  readonly #link: Link;
  readonly #request: RunRequest;
  readonly #elevation: Elevation;
  readonly #process: RunningProcess;
  readonly #nonce = newNonce();
  readonly #outFilter = new StartFilter(this.#nonce);
  readonly #errFilter = new StartFilter(this.#nonce);
  readonly #out: Keeper;
  readonly #err: Keeper;
  readonly #started = performance.now();
  #passwordSent = 0;
  #scriptSent = false;
  #lastOutput = performance.now();
  /** Resolved when the process id is known, or the process ended. */
  readonly #begun = deferred<void>();

  constructor(link: Link, request: RunRequest, elevation: Elevation, process: RunningProcess) {
    this.#link = link;
    this.#request = request;
    this.#elevation = elevation;
    this.#process = process;
    this.#out = new Keeper(request.keep);
    this.#err = new Keeper(request.keep);
  }

  async result(): Promise<ExecResult> {
    const { signal, timeout } = this.#request;
    const stop = deferred<LabError>();
    const timers: NodeJS.Timeout[] = [];
    const onAbort = (): void => stop.resolve(cancelled(this.#link));
    try {
      timers.push(setTimeout(() => stop.resolve(timedOut(this.#link, timeout)), timeout));
      signal?.addEventListener("abort", onAbort, { once: true });
      if (signal?.aborted) onAbort();
      this.#listen(stop.resolve, timers);
      const ended = await Promise.race([this.#ended(), stop.promise]);
      if (ended instanceof LabError) {
        await this.#kill();
        throw ended;
      }
      return ended;
    } finally {
      for (const timer of timers) clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      if (this.#request.stdin instanceof Readable) this.#request.stdin.destroy();
      this.#process.destroy();
    }
  }

  #listen(fail: (error: LabError) => void, timers: NodeJS.Timeout[]): void {
    const { stdin, stdout, stderr } = this.#process;
    // The far end may stop reading at any time; how it ended says more than EPIPE.
    stdin.on("error", () => undefined);
    stdout.on("error", () => undefined);
    stderr.on("error", () => undefined);
    this.#request.onStart?.(stdout);
    stdout.on("data", (chunk: Buffer) => {
      this.#lastOutput = performance.now();
      const own = this.#outFilter.push(chunk);
      if (this.#outFilter.started) this.#begun.resolve();
      if (own === undefined) {
        if (!this.#scriptSent && this.#outFilter.preamble.includes(SUDO_READY)) this.#sendScript();
        return;
      }
      this.#out.push(own);
      this.#request.onStdout?.(own);
    });
    stderr.on("data", (chunk: Buffer) => {
      this.#lastOutput = performance.now();
      const own = this.#errFilter.push(chunk);
      if (own === undefined) {
        if (this.#elevation === "sudo-password" && !this.#scriptSent) this.#answerSudo();
        return;
      }
      this.#err.push(own);
      this.#request.onStderr?.(own);
    });
    if (this.#elevation !== "sudo-password") this.#sendScript();
    else {
      timers.push(
        setTimeout(() => {
          if (!this.#scriptSent) fail(this.#sudoError("sudo neither started the command nor asked for a password"));
        }, SUDO_START_MS),
      );
    }
  }

  /** The first question gets the password; a second means that it was wrong. */
  #answerSudo(): void {
    const asked = this.#errFilter.preamble.split(SUDO_PROMPT).length - 1;
    if (asked === 1 && this.#passwordSent === 0) {
      this.#passwordSent = 1;
      this.#process.stdin.write(`${this.#request.become.password?.reveal() ?? ""}\n`);
    } else if (asked > 1 && this.#passwordSent === 1) {
      this.#passwordSent = 2;
      this.#process.stdin.end();
    }
  }

  #sendScript(): void {
    this.#scriptSent = true;
    const data = this.#request.stdin;
    const { stdin } = this.#process;
    stdin.write(encodeScript(this.#nonce, this.#request.script, data !== undefined));
    if (data instanceof Readable) {
      data.once("error", () => stdin.end());
      data.pipe(stdin);
    } else stdin.end(data);
  }

  async #ended(): Promise<ExecResult> {
    const exit = await this.#process.exited;
    await this.#drain();
    if (!this.#outFilter.started && !this.#errFilter.started) throw this.#notStarted(exit.code);
    return {
      code: exit.code,
      signal: exit.signal,
      stdout: this.#out.result(),
      stderr: this.#err.result(),
      truncated: this.#out.truncated || this.#err.truncated,
      duration_ms: performance.now() - this.#started,
    };
  }

  /** Waits for the outputs' ends, but not for what a background process may still print. */
  async #drain(): Promise<void> {
    let closed = false;
    const close = this.#process.closed.then(() => {
      closed = true;
    });
    this.#lastOutput = Math.max(this.#lastOutput, performance.now());
    while (!closed) {
      const quiet = performance.now() - this.#lastOutput;
      if (quiet >= LINGER_MS) {
        if (!this.#process.stdout.isPaused()) return;
        // Its reader holds it back: what is still to come is not lost for that.
        this.#lastOutput = performance.now();
        continue;
      }
      const timer = deferred<void>();
      const id = setTimeout(() => timer.resolve(), LINGER_MS - quiet);
      await Promise.race([close, timer.promise]);
      clearTimeout(id);
    }
  }

  #notStarted(code: number | undefined): LabError {
    const said = this.#said();
    if (this.#elevation !== "none") return this.#sudoError(said);
    return new LabError(
      "E_AUTH",
      `the login on ${this.#link.name} cannot run commands${said === "" ? "" : `: ${said}`}${code === undefined ? "" : ` (exit ${code})`}`,
      {
        address: this.#link.address,
        hint: "give the user a shell (`chsh -s /bin/sh`), and check ForceCommand and its login files",
      },
    );
  }

  #sudoError(said: string): LabError {
    const text = this.#passwordSent > 0 && said === "" ? "the password is wrong" : said;
    const hint =
      this.#passwordSent > 0
        ? "check the password under `become:`"
        : /not found|no such file/i.test(text)
          ? "install sudo there, or log in as root"
          : /password is required|terminal is required|askpass/i.test(text)
            ? "give the password under `become: { password: ... }`, or allow the user sudo without one (NOPASSWD)"
            : "allow the user sudo on that machine, log in as root, or set `become: none`";
    return new LabError("E_SUDO", `no root rights on ${this.#link.name}${text === "" ? "" : `: ${text}`}`, {
      address: this.#link.address,
      hint,
    });
  }

  #said(): string {
    const text = `${this.#errFilter.preamble}\n${this.#outFilter.preamble}`
      .replaceAll(SUDO_PROMPT, "\n")
      .replaceAll(SUDO_READY, "\n");
    const password = this.#request.become.password?.reveal();
    const lines = (password ? text.replaceAll(password, "(sensitive)") : text)
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => line !== "");
    return lines.slice(-3).join("; ").slice(0, 400);
  }

  /** Ends the command and what it started. Never rejects: the reason for killing is what is reported. */
  async #kill(): Promise<void> {
    const process = this.#process;
    // What was asked to start a moment ago cannot be called back: it is let start, and then ended.
    if (this.#scriptSent && !this.#outFilter.started) {
      const timer = setTimeout(() => this.#begun.resolve(), START_MS);
      process.exited.then(
        () => this.#begun.resolve(),
        () => this.#begun.resolve(),
      );
      await this.#begun.promise;
      clearTimeout(timer);
    }
    const pid = this.#errFilter.pid ?? this.#outFilter.pid;
    if (pid === undefined || this.#request.urgent) {
      process.signal("TERM");
      process.signal("KILL");
      return;
    }
    try {
      await run(this.#link, {
        script: killScript(pid),
        become: this.#request.become,
        root: this.#request.root,
        timeout: KILL_MS,
        keep: 4096,
        urgent: true,
      });
    } catch {
      process.signal("TERM");
      process.signal("KILL");
    }
  }
}
