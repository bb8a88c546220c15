import { PassThrough } from "node:stream";
import { LabError } from "../diagnostics/index.ts";
import { type Deferred, deferred } from "./deferred.ts";
import { Keeper } from "./keeper.ts";
import type { Link } from "./link.ts";
import type { Become, ExecResult } from "./ports.ts";
import { cancelled, run, throwIfCancelled, timedOut } from "./run.ts";
import { fullScript, newNonce } from "./wire.ts";

/** How long a shell waits for the next script. Milliseconds. */
const IDLE_MS = 500;
/** A shell as such has no end of its own; each script has. */
const DAY_MS = 24 * 3600 * 1000;
/** The exit code of a shell that could not take a whole script, and ran none of it. */
const NOT_TAKEN = 125;

/**
 * Runs scripts one after another: a line with a mark and the number of bytes, then the script, which ends with the mark. One
 * that was cut off on its way never runs. head may read ahead: nothing follows before both outputs carry the mark. What a
 * script does to variables, directory, umask and traps ends with it.
 */
export const LOOP = `while read -r labctl_pn labctl_pm; do
  labctl_ps=$(head -c "$labctl_pm")
  case "$labctl_ps" in *"#$labctl_pn") ;; *) exit ${NOT_TAKEN};; esac
  ( eval "$labctl_ps" ) </dev/null
  echo "
$labctl_pn $?"; echo "
$labctl_pn" >&2
done`;

export interface SharedRequest {
  readonly script: string;
  readonly signal: AbortSignal | undefined;
  /** Milliseconds. */
  readonly timeout: number;
  /** Bytes kept of each stream. */
  readonly keep: number;
}

/**
 * The shells of one machine that stay for a moment after a script, since a new session costs the far end more than most
 * scripts do: a process of sshd, sudo, two shells. Between a plan and its end a machine is read and written several times.
 */
export class SharedShells {
  readonly #link: Link;
  readonly #become: Become;
  /** At most one for root and one for the login; a script that finds it busy gets a shell of its own. */
  readonly #resting = new Map<boolean, SharedShell>();
  /** False once a machine's tools were found not to do for this. */
  #fit = true;

  constructor(link: Link, become: Become) {
    this.#link = link;
    this.#become = become;
    link.crowded?.add(() => {
      for (const shell of this.#resting.values()) shell.leave();
      this.#resting.clear();
    });
  }

  /**
   * As run(), for a script of labctl's own that reads nothing from stdin and leaves nothing running. That a signal ended it
   * shows in its exit code alone. Rejects with E_DISCONNECTED also where the shell was ended from outside.
   */
  async run(root: boolean, request: SharedRequest): Promise<ExecResult> {
    throwIfCancelled(this.#link, request.signal);
    const result = this.#fit ? await this.#shared(root, request) : undefined;
    if (result !== undefined) return result;
    this.#fit = false;
    const { script, signal, timeout, keep } = request;
    return await run(this.#link, {
      script: fullScript({ script }),
      become: this.#become,
      root,
      timeout,
      keep,
      ...(signal && { signal }),
    });
  }

  async #shared(root: boolean, request: SharedRequest): Promise<ExecResult | undefined> {
    const resting = this.#resting.get(root);
    this.#resting.delete(root);
    const shell = resting?.alive === true ? resting : new SharedShell(this.#link, this.#become, root);
    const result = await shell.run(request);
    if (this.#resting.has(root)) shell.leave();
    else if (shell.alive) {
      this.#resting.set(root, shell);
      shell.rest();
    }
    return result;
  }
}

class SharedShell {
  readonly #link: Link;
  readonly #input = new PassThrough();
  readonly #stop = new AbortController();
  readonly #ended: Promise<ExecResult | Error>;
  #alive = true;
  #script: RunningScript | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(link: Link, become: Become, root: boolean) {
    this.#link = link;
    this.#ended = run(link, {
      script: fullScript({ script: LOOP }),
      stdin: this.#input,
      become,
      root,
      signal: this.#stop.signal,
      timeout: DAY_MS,
      keep: 0,
      onStdout: (chunk) => this.#script?.out(chunk),
      onStderr: (chunk) => this.#script?.err(chunk),
    }).catch((error: unknown) => (error instanceof Error ? error : new Error(String(error))));
    void this.#ended.then(() => {
      this.#alive = false;
      clearTimeout(this.#timer);
    });
  }

  /** True where another script may be given to it. */
  get alive(): boolean {
    return this.#alive;
  }

  /** Undefined: nothing was run, since the machine's tools do not do for this. */
  async run(request: SharedRequest): Promise<ExecResult | undefined> {
    clearTimeout(this.#timer);
    const { signal, timeout } = request;
    const mark = newNonce();
    const running = new RunningScript(mark, request.keep);
    this.#script = running;
    const stopped = deferred<LabError>();
    const onAbort = (): void => stopped.resolve(cancelled(this.#link));
    const timer = setTimeout(() => stopped.resolve(timedOut(this.#link, timeout)), timeout);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      const script = Buffer.from(`${fullScript({ script: request.script })}\n#${mark}`);
      this.#input.write(Buffer.concat([Buffer.from(`${mark} ${script.length}\n`), script]));
      const first = await Promise.race([running.done.promise, this.#ended.then(whyEnded(this.#link)), stopped.promise]);
      if (!(first instanceof LabError)) return first;
      if (this.#alive) await this.#close();
      throw first;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      this.#script = undefined;
    }
  }

  /** Waits a moment for the next script. */
  rest(): void {
    this.#timer = setTimeout(() => this.leave(), IDLE_MS);
  }

  /** Lets it end by itself: it has nothing to do. */
  leave(): void {
    clearTimeout(this.#timer);
    this.#alive = false;
    this.#input.end();
  }

  /** Ends it, with all that it started. */
  async #close(): Promise<void> {
    this.#alive = false;
    this.#stop.abort();
    await this.#ended;
  }
}

/** Why a shell ended while it had a script to run. */
function whyEnded(link: Link): (end: ExecResult | Error) => LabError | undefined {
  return (end) => {
    if (end instanceof LabError) return end;
    if (!(end instanceof Error) && end.code === NOT_TAKEN) return undefined;
    return new LabError("E_DISCONNECTED", `a shell on ${link.name} was ended from outside`, {
      address: link.address,
      retryable: true,
      ...(end instanceof Error && { cause: end }),
      hint: "look for what kills processes there (out of memory, an administrator), then run again",
    });
  };
}

/** Gathers what one script prints, until both outputs carry its mark. */
class RunningScript {
  readonly done: Deferred<ExecResult> = deferred<ExecResult>();
  readonly #started = performance.now();
  readonly #out: Output;
  readonly #err: Output;

  constructor(mark: string, keep: number) {
    this.#out = new Output(mark, keep);
    this.#err = new Output(mark, keep);
  }

  out(chunk: Buffer): void {
    this.#out.push(chunk);
    this.#settle();
  }

  err(chunk: Buffer): void {
    this.#err.push(chunk);
    this.#settle();
  }

  #settle(): void {
    const out = this.#out.end();
    const err = this.#err.end();
    if (out === undefined || err === undefined) return;
    this.done.resolve({
      code: Number.parseInt(out.rest, 10),
      signal: undefined,
      stdout: out.bytes,
      stderr: err.bytes,
      truncated: out.truncated || err.truncated,
      duration_ms: performance.now() - this.#started,
    });
  }
}

class Output {
  readonly #mark: Buffer;
  readonly #kept: Keeper;
  /** The last bytes, which may be the beginning of the mark; not in #kept yet. */
  #tail: Buffer = Buffer.alloc(0);
  #end: string | undefined;

  constructor(mark: string, keep: number) {
    this.#mark = Buffer.from(`\n${mark}`);
    this.#kept = new Keeper(keep);
  }

  push(chunk: Buffer): void {
    if (this.#end !== undefined) return;
    const all = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk]);
    const at = all.indexOf(this.#mark);
    const line = at < 0 ? -1 : all.indexOf(10, at + this.#mark.length);
    const sure = at >= 0 ? at : Math.max(0, all.length - this.#mark.length);
    this.#kept.push(all.subarray(0, sure));
    this.#tail = all.subarray(sure);
    if (line >= 0) this.#end = all.toString("latin1", at + this.#mark.length, line);
  }

  /** What followed the mark, and all before it; undefined while it has not come. */
  end(): { readonly rest: string; readonly bytes: Buffer; readonly truncated: boolean } | undefined {
    if (this.#end === undefined) return undefined;
    return { rest: this.#end, bytes: this.#kept.result(), truncated: this.#kept.truncated };
  }
}
