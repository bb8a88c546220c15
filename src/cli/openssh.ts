import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { sshAlias, sshConfigText, type SshWay } from "../transport/index.ts";
import { signalNumber } from "./exec.ts";

export interface SshRun {
  /** Undefined: a shell on this machine. */
  readonly way: SshWay | undefined;
  /** As ssh takes it: joined with spaces, for the login's shell to read. Empty: a session. */
  readonly command: readonly string[];
  /** Further settings, as `ssh -o` takes them. */
  readonly options: readonly string[];
  readonly tty: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal: AbortSignal;
}

/**
 * Runs OpenSSH's client on this process's terminal and gives its exit code: that of the command, or 255 where ssh itself failed. How the
 * way is taken stands in a file that only its owner can read, and that is gone afterwards. Rejects with E_CONNECT where
 * there is no ssh.
 */
export async function runOpenSsh(request: SshRun): Promise<number> {
  const { way, command } = request;
  if (way === undefined) {
    const shell = request.env["SHELL"] ?? "/bin/sh";
    return runHere(shell, command.length === 0 ? ["-i"] : ["-c", command.join(" ")], request);
  }
  const folder = await mkdtemp(join(tmpdir(), "labctl-ssh-"));
  try {
    const config = join(folder, "config");
    await writeFile(config, sshConfigText(way), { mode: 0o600 });
    return await runHere("ssh", sshWords(config, way, request), request);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Pure. The words after `ssh`. */
export function sshWords(
  config: string,
  way: SshWay,
  { options, tty, command }: Pick<SshRun, "options" | "tty" | "command">,
): string[] {
  return [
    "-F",
    config,
    ...options.flatMap((one) => ["-o", one]),
    ...(tty ? ["-t"] : []),
    sshAlias(way),
    ...(command.length === 0 ? [] : ["--", ...command]),
  ];
}

function runHere(program: string, words: readonly string[], { env, signal }: SshRun): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: "inherit", env: { ...env } });
    const end = (): void => void child.kill("SIGTERM");
    signal.addEventListener("abort", end, { once: true });
    child.once("error", (cause) => {
      signal.removeEventListener("abort", end);
      reject(
        new LabError("E_CONNECT", `${program} cannot be run here: ${cause.message}`, {
          cause,
          hint: "install OpenSSH's client (openssh-client), or use `labctl exec`, which needs none",
        }),
      );
    });
    child.once("close", (code, name) => {
      signal.removeEventListener("abort", end);
      resolve(code ?? 128 + signalNumber(name ?? undefined));
    });
  });
}
