import type { Command } from "commander";
import type { LabSession } from "../engine/port.ts";
import type { Address } from "../model/index.ts";
import { type Context, durationOption } from "./context.ts";

export interface ExecFlags {
  readonly root?: boolean;
  readonly stdin?: boolean;
  readonly timeout?: number;
  readonly cwd?: string;
}

/** Most bytes of each stream that `--json` holds; the rest is dropped from the middle. */
const JSON_KEEP = 16 << 20;

export function addExecOptions(command: Command): Command {
  return command
    .option("--root", "as root, through sudo where that is needed")
    .option("-i, --stdin", "pass standard input on")
    .option("--cwd <folder>", "in this folder")
    .option("--timeout <duration>", "kill it after this long", (text) => durationOption("--timeout", text));
}

/** Runs a command there, its output passed on as it comes; gives its exit code, or 128 and the signal's number. */
export async function execOn(
  context: Context,
  session: LabSession,
  address: Address,
  words: readonly string[],
  flags: ExecFlags,
): Promise<number> {
  const { term, signals } = context;
  const signal = AbortSignal.any([signals.cancellation.soft, term.closed]);
  const machine = await session.machine(address, signal);
  // Loaded here: the other commands need no SSH.
  const { shCommand } = await import("../transport/index.ts");
  const result = await machine.exec(shCommand(words), {
    root: flags.root === true,
    signal,
    ...(flags.cwd !== undefined && { cwd: flags.cwd }),
    ...(flags.timeout !== undefined && { timeout: flags.timeout }),
    ...(flags.stdin === true && { stdin: term.io.stdin }),
    ...(term.options.json
      ? { keep: JSON_KEEP }
      : {
          keep: 0,
          onStdout: (chunk: Buffer) => term.raw(chunk, "stdout"),
          onStderr: (chunk: Buffer) => term.raw(chunk, "stderr"),
        }),
  });
  const code = result.code ?? 128 + signalNumber(result.signal);
  if (term.options.json) {
    term.json({
      address,
      exit_code: code,
      ...(result.signal !== undefined && { signal: result.signal }),
      stdout: result.stdout.toString("utf8"),
      stderr: result.stderr.toString("utf8"),
      truncated: result.truncated,
      duration_ms: Math.round(result.duration_ms),
    });
  }
  return code;
}

/** Numbers that all Linux architectures share; others end as 128 plus nothing. signal(7) */
const SIGNALS: Readonly<Record<string, number>> = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  ILL: 4,
  ABRT: 6,
  FPE: 8,
  KILL: 9,
  SEGV: 11,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
};

export function signalNumber(name: string | undefined): number {
  return SIGNALS[(name ?? "").replace(/^SIG/, "")] ?? 0;
}
