import type { OnFailure } from "../engine/port.ts";

/** What a recorded command line said of how to apply, beyond what its plan says. */
export interface RecordedFlags {
  readonly onFailure: OnFailure;
  /** `--no-wait` was not given. */
  readonly wait: boolean;
  readonly refresh: boolean;
  readonly force: boolean;
  readonly exclude: readonly string[];
  readonly batch?: number;
}

/** Pure. Reads the words of a recorded apply; what it does not know it passes over. */
export function recordedFlags(argv: readonly string[]): RecordedFlags {
  const all = (name: string): string[] =>
    argv.flatMap((word, at) => {
      if (word === name) return argv.slice(at + 1, at + 2);
      return word.startsWith(`${name}=`) ? [word.slice(name.length + 1)] : [];
    });
  const batch = Number(all("--batch").at(-1));
  return {
    onFailure: onFailureOf(all("--on-failure").at(-1)),
    wait: !argv.includes("--no-wait"),
    refresh: !argv.includes("--no-refresh"),
    force: argv.includes("--force"),
    exclude: all("--exclude"),
    ...(Number.isInteger(batch) && batch > 0 && { batch }),
  };
}

function onFailureOf(text: string | undefined): OnFailure {
  return text === "abort" || text === "rollback" || text === "cleanup" ? text : "continue";
}
