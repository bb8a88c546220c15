import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Address, Machine } from "../../../src/index.ts";
import type { World } from "../../../src/testing/index.ts";
import { LocalLink } from "../../../src/transport/local.ts";
import { LinkMachine } from "../../../src/transport/machine.ts";

/** Shells and userlands that scripts must work with; those that this machine does not have are left out. */
export const SHELLS = ["dash", "bash", "busybox"].filter((name) => which(name) !== undefined);

function which(name: string): string | undefined {
  try {
    return execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
  } catch {
    return undefined;
  }
}

export interface ShellWorld extends World {
  readonly parent: Address;
  readonly machineItself: Machine;
  readonly dir: string;
  close(): Promise<void>;
}

/** This machine through one shell, with busybox also its userland, and a folder to play in. */
export function shellWorld(shell: string): ShellWorld {
  const dir = mkdtempSync(join(tmpdir(), "labctl-host-"));
  const bin = join(dir, ".bin");
  mkdirSync(bin);
  const path = which(shell) ?? "/bin/sh";
  if (shell === "busybox") {
    for (const applet of execFileSync(path, ["--list"], { encoding: "utf8" }).split("\n")) {
      if (applet !== "") symlinkSync(path, join(bin, applet));
    }
  } else symlinkSync(path, join(bin, "sh"));
  const link = new LocalLink("host.a", {
    PATH: shell === "busybox" ? bin : `${bin}:${process.env["PATH"] ?? ""}`,
    HOME: dir,
    XDG_STATE_HOME: join(dir, ".state"),
  });
  const machine = new LinkMachine({ type: "local", address: "host.a", become: { method: "none" } }, link, {
    command: 20_000,
    boot: 1000,
  });
  return {
    parent: "host.a",
    root: dir,
    dir,
    machineItself: machine,
    machine: () => machine,
    async close() {
      await link.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
