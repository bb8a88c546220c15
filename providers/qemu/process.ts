import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { LabError } from "../../src/index.ts";

/**
 * What starts a program that must not outlive labctl. Descriptor 3 is a pipe whose other end only labctl holds: when labctl
 * is gone, in whatever way, `read` comes back and the program is killed. The program itself does not get the descriptor.
 * `exec` in a subshell keeps the program's process id known.
 */
const SUPERVISOR = `
"$@" 3<&- &
program=$!
{ read -r _ <&3; kill -KILL "$program"; } 2>/dev/null </dev/null >/dev/null &
watch=$!
exec 3<&-
trap 'kill -KILL "$program" 2>/dev/null' TERM INT HUP
wait "$program"
status=$?
kill -KILL "$watch" 2>/dev/null
exit "$status"
`;

export interface Ended {
  readonly code: number | undefined;
  readonly signal: string | undefined;
  /** Its last words on stderr. */
  readonly stderr: string;
}

export interface Supervised {
  readonly pid: number;
  /** Never rejects. */
  readonly ended: Promise<Ended>;
  /** Kills it with all that it started, and waits. Again does nothing. */
  stop(): Promise<Ended>;
}

const MOST_STDERR = 16 * 1024;

/** Whether a program is there, by PATH. */
export function hasProgram(program: string): boolean {
  return spawnSync("sh", ["-c", 'command -v "$1"', "sh", program], { stdio: "ignore" }).status === 0;
}

/**
 * Starts a program in a process group of its own, which ends with labctl, also where labctl is killed with SIGKILL.
 * Its stdout and stderr are kept for messages; it has no stdin.
 */
export function supervise(program: string, args: readonly string[]): Supervised {
  const child: ChildProcess = spawn("/bin/sh", ["-c", SUPERVISOR, "labctl-supervisor", program, ...args], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  let stderr = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-MOST_STDERR);
    });
  }
  // The pipe breaks when the other end goes; that is its purpose.
  child.stdio[3]?.on("error", () => undefined);
  const ended = new Promise<Ended>((resolve) => {
    child.once("error", (error) => resolve({ code: undefined, signal: undefined, stderr: error.message }));
    child.once("close", (code, signal) => {
      resolve({ code: code ?? undefined, signal: signal ?? undefined, stderr: stderr.trim() });
    });
  });
  return {
    pid: child.pid ?? 0,
    ended,
    stop: async () => {
      if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
        try {
          process.kill(-child.pid, "SIGKILL");
        } catch (error) {
          // ESRCH: it has ended meanwhile.
          if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
        }
      }
      return ended;
    },
  };
}

/** Runs a small program to its end. @throws LabError E_TIMEOUT */
export async function runBriefly(
  program: string,
  args: readonly string[],
  timeout: number,
  signal?: AbortSignal,
): Promise<Ended> {
  const running = supervise(program, args);
  const limit = AbortSignal.timeout(timeout);
  const any = signal === undefined ? limit : AbortSignal.any([limit, signal]);
  const stopped = new AbortController();
  try {
    const ended = await Promise.race([
      running.ended,
      (any.aborted ? Promise.resolve() : once(any, "abort", { signal: stopped.signal }).catch(() => undefined)).then(
        () => undefined,
      ),
    ]);
    if (ended !== undefined) return ended;
    if (signal?.aborted === true) throw new LabError("E_CANCELLED", "cancelled");
    throw new LabError("E_TIMEOUT", `${program} did not end within ${timeout / 1000} s`);
  } finally {
    stopped.abort();
    await running.stop();
  }
}
