import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** One line of a report: what was measured, and where there is a target, whether it was reached. */
export interface Line {
  readonly what: string;
  readonly value: number;
  /** `ms`, `s`, `x` (a ratio), `us`. */
  readonly unit: string;
  readonly target?: string;
  readonly reached?: boolean;
}

export interface Report {
  readonly lines: readonly Line[];
  /** What could not be measured here, and why. */
  readonly skipped?: readonly string[];
  readonly notes?: readonly string[];
}

/** The program as users start it. */
export const LABCTL = fileURLToPath(new URL("../../bin/labctl.js", import.meta.url));

export interface Timing {
  /** Milliseconds. */
  readonly wall: number;
  /** Milliseconds of user and system time, of the process and its own children. */
  readonly cpu: number;
  readonly code: number;
  readonly output: string;
}

/** Runs a command to its end, no longer than ten minutes. Its CPU time is taken by the shell that starts it (POSIX `times`). */
export function timed(
  argv: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Timing> {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const script = `"$@" 2>&1; code=$?; echo; times; exit $code`;
    const child = spawn("sh", ["-c", script, "sh", ...argv], {
      ...options,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 600_000,
    });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    child.once("error", reject);
    child.once("close", (code) => {
      const wall = performance.now() - started;
      const times = /(\d+)m([\d.]+)s (\d+)m([\d.]+)s\s*$/.exec(text);
      const [, um = "0", us = "0", sm = "0", ss = "0"] = times ?? [];
      const cpu = (Number(um) * 60 + Number(us) + Number(sm) * 60 + Number(ss)) * 1000;
      resolve({ wall, cpu, code: code ?? -1, output: text });
    });
  });
}

/** The same, and an error where the command failed. */
export async function mustTime(
  argv: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Timing> {
  const timing = await timed(argv, options);
  if (timing.code !== 0) throw new Error(`${argv.join(" ")}: exit ${timing.code}\n${timing.output.slice(-2000)}`);
  return timing;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : (high + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/**
 * Runs all of them in turn, several times over, so that what else happens on the machine meets them alike. One round
 * before counts for nothing.
 */
export async function inTurn<K extends string>(
  rounds: number,
  subjects: Readonly<Record<K, () => Promise<Timing>>>,
): Promise<Readonly<Record<K, readonly Timing[]>>> {
  const names = Object.keys(subjects) as K[];
  const all = Object.fromEntries(names.map((name) => [name, [] as Timing[]])) as Record<K, Timing[]>;
  for (let round = 0; round <= rounds; round++) {
    for (const name of names) {
      const timing = await subjects[name]();
      if (round > 0) all[name].push(timing);
    }
  }
  return all;
}

/** Median of the ratios within each round: rounds under load do not distort it. */
export function ratio(of: readonly Timing[], to: readonly Timing[], what: "wall" | "cpu" = "wall"): number {
  return median(of.map((one, i) => one[what] / (to[i]?.[what] ?? Number.NaN)));
}
