import { LabError } from "../diagnostics/index.ts";
import { deferred } from "./deferred.ts";
import { Keeper } from "./keeper.ts";
import type { Link } from "./link.ts";
import type { Become, ExecResult } from "./ports.ts";
import { cancelled, run, throwIfCancelled } from "./run.ts";
import type { SharedShells } from "./shared-shell.ts";
import { quoteWord } from "./shell.ts";
import { fullScript, newNonce } from "./wire.ts";

interface Waiting {
  readonly script: string;
  readonly signal: AbortSignal | undefined;
  readonly resolve: (result: ExecResult) => void;
  readonly reject: (error: Error) => void;
}

/** Bytes kept of each stream of one piece, and of all pieces together. */
const KEEP_PIECE = 1 << 20;
const KEEP_ALL = 256 << 20;

/**
 * Gathers the probes that are asked for in one turn of the event loop and sends them as one. Since probes change
 * nothing, a lost connection is met with one more try. Over SSH one shell serves probes that follow each other closely.
 */
export class ProbeBatcher {
  readonly #link: Link;
  readonly #become: Become;
  readonly #timeout: number;
  readonly #waiting = new Map<boolean, Waiting[]>();
  readonly #shells: SharedShells;

  constructor(link: Link, become: Become, timeout: number, shells: SharedShells) {
    this.#link = link;
    this.#become = become;
    this.#timeout = timeout;
    this.#shells = shells;
  }

  probe(script: string, root: boolean, signal: AbortSignal | undefined): Promise<ExecResult> {
    throwIfCancelled(this.#link, signal);
    const { promise, resolve, reject } = deferred<ExecResult>();
    const piece: Waiting = { script, signal, resolve, reject };
    const batch = this.#waiting.get(root);
    if (batch) batch.push(piece);
    else {
      this.#waiting.set(root, [piece]);
      setImmediate(() => {
        const pieces = this.#waiting.get(root) ?? [];
        this.#waiting.delete(root);
        this.#send(pieces, root).catch((error: unknown) => {
          for (const one of pieces) one.reject(error instanceof Error ? error : new Error(String(error)));
        });
      });
    }
    return promise;
  }

  async #send(pieces: readonly Waiting[], root: boolean): Promise<void> {
    const abort = new AbortController();
    let left = pieces.length;
    const offs = pieces.map((piece) => {
      const onAbort = (): void => {
        piece.reject(cancelled(this.#link));
        if (--left === 0) abort.abort();
      };
      if (piece.signal?.aborted) onAbort();
      else piece.signal?.addEventListener("abort", onAbort, { once: true });
      return () => piece.signal?.removeEventListener("abort", onAbort);
    });
    if (left === 0) return;
    try {
      const results = await this.#retried(pieces, root, abort.signal);
      for (const [i, piece] of pieces.entries()) {
        const result = results[i];
        if (result) piece.resolve(result);
        else piece.reject(this.#cutShort());
      }
    } finally {
      for (const off of offs) off();
    }
  }

  async #retried(pieces: readonly Waiting[], root: boolean, signal: AbortSignal): Promise<readonly ExecResult[]> {
    try {
      return await this.#once(pieces, root, signal);
    } catch (error) {
      if (!(error instanceof LabError) || error.code !== "E_DISCONNECTED" || signal.aborted) throw error;
      return await this.#once(pieces, root, signal);
    }
  }

  async #once(pieces: readonly Waiting[], root: boolean, signal: AbortSignal): Promise<readonly ExecResult[]> {
    const mark = newNonce();
    const script = probeScript(
      pieces.map((piece) => piece.script),
      mark,
    );
    const request = { script, signal, timeout: this.#timeout, keep: KEEP_ALL };
    const result = await (this.#link.local
      ? run(this.#link, { ...request, script: fullScript({ script }), become: this.#become, root })
      : this.#shells.run(root, request));
    return splitProbes(result, mark, pieces.length);
  }

  #cutShort(): LabError {
    return new LabError("E_COMMAND_FAILED", `what was read from ${this.#link.name} was cut short`, {
      address: this.#link.address,
      hint: "something ended the shell there (out of memory, a killed process); look at the machine and run again",
    });
  }
}

/**
 * One script of many pieces. Each is evaluated from a quoted word in a subshell, so that neither a syntax error nor
 * `exit` in one reaches another; after each both streams carry the mark, which no content can know.
 */
export function probeScript(scripts: readonly string[], mark: string): string {
  return scripts
    .map((script) => {
      if (script.includes("\0"))
        throw new LabError("E_SPEC_VALUE", "a script holds a NUL byte, which no shell can carry");
      return `( eval ${quoteWord(script)}\n) </dev/null\necho "\n${mark} $?"; echo "\n${mark}" >&2`;
    })
    .join("\n");
}

/** The results of the pieces that ran to their end, in order. */
export function splitProbes(whole: ExecResult, mark: string, count: number): readonly ExecResult[] {
  const results: ExecResult[] = [];
  const end = Buffer.from(`\n${mark}`);
  let outAt = 0;
  let errAt = 0;
  for (let i = 0; i < count; i++) {
    const outEnd = whole.stdout.indexOf(end, outAt);
    const errEnd = whole.stderr.indexOf(end, errAt);
    if (outEnd < 0 || errEnd < 0) break;
    const outLine = whole.stdout.indexOf("\n", outEnd + 1);
    const errLine = whole.stderr.indexOf("\n", errEnd + 1);
    if (outLine < 0 || errLine < 0) break;
    const out = new Keeper(KEEP_PIECE);
    const err = new Keeper(KEEP_PIECE);
    out.push(whole.stdout.subarray(outAt, outEnd));
    err.push(whole.stderr.subarray(errAt, errEnd));
    results.push({
      code: Number.parseInt(whole.stdout.toString("latin1", outEnd + end.length, outLine), 10),
      signal: undefined,
      stdout: out.result(),
      stderr: err.result(),
      truncated: out.truncated || err.truncated,
      duration_ms: whole.duration_ms,
    });
    outAt = outLine + 1;
    errAt = errLine + 1;
  }
  return results;
}
