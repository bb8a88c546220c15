import { basename } from "node:path/posix";
import { sh, type ShellText } from "../../../src/index.ts";

/** A QEMU that runs on a host, by its own command line. */
export interface QemuProcess {
  readonly pid: number;
  readonly argv: readonly string[];
}

/**
 * Prints `pid N ARGV` (base64) for each process whose arguments have that uuid. A pid file proves nothing: numbers are used again.
 * The uuid is read from standard input, so that grep does not find itself.
 */
export function findScript(uuid: string): ShellText {
  return sh`printf %s ${uuid} | grep -szlxF -f - /proc/[0-9]*/cmdline | while IFS= read -r f; do
  printf 'pid %s %s\n' "$(basename "$(dirname "$f")")" "$(base64 <"$f" 2>/dev/null | tr -d '\n')"
done`;
}

/** Pure. The QEMUs that were started with that uuid, among the lines of {@link findScript}. */
export function readProcesses(text: string, uuid: string): readonly QemuProcess[] {
  return text.split("\n").flatMap((line) => {
    const [, pid, encoded] = /^pid (\d+) (\S+)$/.exec(line) ?? [];
    const argv = Buffer.from(encoded ?? "", "base64")
      .toString("utf8")
      .split("\0")
      .slice(0, -1);
    const named = argv.some((word, at) => word === "-uuid" && argv[at + 1] === uuid);
    const qemu = basename(argv[0] ?? "").startsWith("qemu-");
    return named && qemu ? [{ pid: Number(pid), argv }] : [];
  });
}

/**
 * Ends with 0 as soon as no QEMU has that uuid, with 1 after `seconds`. Processes end while grep looks at them: only with -q a match
 * counts more than that error.
 */
export function waitScript(uuid: string, seconds: number): ShellText {
  return sh`i=0
while printf %s ${uuid} | grep -szqxF -f - /proc/[0-9]*/cmdline; do
  i=$((i + 1)); [ $i -lt ${seconds * 5} ] || exit 1
  sleep 0.2
done`;
}

/** Ends a QEMU at once, if that number still is one with that uuid. */
export function killScript(pid: number, uuid: string): ShellText {
  return sh`if printf %s ${uuid} | grep -szqxF -f - ${`/proc/${pid}/cmdline`}; then kill -9 ${pid}; fi`;
}

/**
 * Starts a machine unless one with its uuid runs, and never two at once: whoever starts it holds the lock, and QEMU itself keeps
 * its pid file locked as long as it lives. The console's record of the start before stays as `LOG.1`. It outlives the session.
 */
export function startScript(
  command: ShellText,
  at: {
    readonly uuid: string;
    readonly lock: string;
    readonly log?: string | undefined;
    readonly sockets: readonly string[];
  },
): ShellText {
  const log =
    at.log === undefined
      ? sh`:`
      : sh`mkdir -p -- "$(dirname -- ${at.log})"; [ ! -s ${at.log} ] || mv -f -- ${at.log} ${`${at.log}.1`}`;
  return sh`umask 077; cd /
exec 9>${at.lock}; flock -w 60 9 || { echo "somebody else has been starting it for a minute, or flock is missing" >&2; exit 75; }
if printf %s ${at.uuid} | grep -szqxF -f - /proc/[0-9]*/cmdline; then exit 0; fi
rm -f -- ${at.sockets}
${log}
${command} </dev/null 9>&-`;
}
