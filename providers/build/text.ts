import { distance } from "fastest-levenshtein";
import { type ExecResult, LabError, type Machine, ShellText, shJoin } from "../../src/index.ts";

/** The names that come near one that is not there: nearest first, at most `count`. */
export function nearest(name: string, names: Iterable<string>, count = 5): readonly string[] {
  const wanted = name.toLowerCase();
  const most = Math.max(2, Math.floor(wanted.length / 3));
  return [...new Set(names)]
    .map((candidate) => {
      const text = candidate.toLowerCase();
      const far = distance(wanted, text);
      // What contains the name, or is contained, is near whatever its length.
      const inside = wanted.length >= 3 && (text.includes(wanted) || (text.length >= 3 && wanted.includes(text)));
      return { candidate, far: inside ? Math.min(far, most) : far };
    })
    .filter(({ far }) => far <= most)
    .sort((a, b) => a.far - b.far || (a.candidate < b.candidate ? -1 : 1))
    .slice(0, count)
    .map(({ candidate }) => candidate);
}

/** The last lines that say something. */
export function lastLines(output: Buffer | string, count = 5): string {
  return output
    .toString()
    .split(/\r?\n|\r/)
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .slice(-count)
    .join("\n")
    .slice(-800);
}

/** Names of people's files stay within a message. */
export function list(names: readonly string[]): string {
  return names.length === 0 ? "none" : names.join(", ");
}

/**
 * Runs a script of ours on a build server, as the login itself. The braces make the shell parse all of it before it
 * runs any: what was cut off on its way runs not at all.
 */
export async function runScript(
  machine: Machine,
  script: ShellText,
  options: Omit<NonNullable<Parameters<Machine["exec"]>[1]>, "root"> = {},
): Promise<ExecResult> {
  return await machine.exec(shJoin([new ShellText("{"), script, new ShellText("exit 0\n}\n")]), {
    ...options,
    root: false,
  });
}

/** Throws E_DISK_FULL where that is what the output says, else E_COMMAND_FAILED, unless the script ended with 0. */
export function requireSuccess(machine: Machine, result: ExecResult, what: string): ExecResult {
  if (result.code === 0) return result;
  const said = lastLines(result.stderr.length > 0 ? result.stderr : result.stdout);
  throw commandFailure(machine, what, said, result.code);
}

export function commandFailure(machine: Machine, what: string, said: string, code?: number): LabError {
  const full = DISK_FULL.test(said);
  return new LabError(
    full ? "E_DISK_FULL" : "E_COMMAND_FAILED",
    `${what} failed${code === undefined || code === 0 ? "" : ` (exit code ${code})`}${said === "" ? "" : `: ${said}`}`,
    {
      address: machine.address,
      hint: full
        ? "free some space on the build server and run again"
        : /permission denied|not permitted/i.test(said)
          ? "the login must be allowed to write below the build server's `workdir`"
          : "look at the build server, then run again",
    },
  );
}

/** What tools say when a disk or a quota is full; GNU tar counts bytes. */
export const DISK_FULL =
  /no space left on device|disk quota exceeded|ENOSPC|EDQUOT|not enough space on the disk|wrote only \d+ of \d+ bytes/i;
