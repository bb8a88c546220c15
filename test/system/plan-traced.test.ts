/**
 * `plan` writes nothing, anywhere: shown by what the kernel was asked for, on this machine and on the one that is planned for, and
 * not by comparing what is there before and after.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

/** All that changes a name, a content or the attributes of a file. Content itself: who has opened nothing for writing writes nothing. */
const CALLS =
  "trace=%file,ftruncate,fallocate,fchmod,fchown,fsetxattr,fremovexattr,mount,umount2,bind,connect,sethostname,init_module,finit_module,delete_module";

const CHANGES =
  /^(creat|mkdir|mkdirat|rmdir|unlink|unlinkat|rename|renameat|renameat2|link|linkat|symlink|symlinkat|truncate|ftruncate|fallocate|chmod|fchmod|fchmodat|fchmodat2|chown|fchown|lchown|fchownat|utime|utimes|utimensat|futimesat|mknod|mknodat|setxattr|lsetxattr|fsetxattr|removexattr|lremovexattr|fremovexattr|mount|umount2|sethostname|init_module|finit_module|delete_module)$/;

/**
 * What is no file that stays:
 * - devices: /dev/null, terminals, and /dev/kvm, which is found to work by use;
 * - sshd's own log, which each connection's process opens;
 * - a process's own entries in /proc (sshd shields itself from the kernel's out-of-memory killer there);
 * - pipes and sockets, which have no name.
 */
const NOWHERE =
  /^(\/dev\/(null|tty|zero|pts\/.*|ptmx|kvm)|\/var\/log\/sshd\.log|\/proc\/(self|thread-self|[0-9]+)\/.*)$/;

interface Call {
  readonly name: string;
  readonly path: string;
  readonly line: string;
}

/** Calls that succeeded and that write, from `strace -ff -y -z -s 4096` output. */
function writes(folder: string): Call[] {
  const found: Call[] = [];
  for (const name of readdirSync(folder)) {
    for (const line of readFileSync(join(folder, name), "utf8").split("\n")) {
      const match = /^([a-z0-9_]+)\((.*)$/.exec(line);
      if (match === null) continue;
      const [, call = "", rest = ""] = match;
      const opens = /^(open|openat|openat2)$/.test(call);
      if (opens && !/O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND|O_TMPFILE/.test(rest)) continue;
      if (!opens && !CHANGES.test(call)) continue;
      const path = pathOf(rest);
      if (!NOWHERE.test(path)) found.push({ name: call, path, line });
    }
  }
  return found;
}

/** The path of a call: `AT_FDCWD</cwd>, "name"`, `7</a/file>`, or `"/name"`. */
function pathOf(rest: string): string {
  const [, folder, file] = /^(?:(?:AT_FDCWD|[0-9]+)<([^>]*)>)?(?:, )?(?:"((?:[^"\\]|\\.)*)")?/.exec(rest) ?? [];
  if (file === undefined) return folder ?? rest;
  return file.startsWith("/") || folder === undefined ? file : `${folder}/${file}`;
}

function programs(folder: string): string[] {
  const names = readdirSync(folder).flatMap((name) =>
    [...readFileSync(join(folder, name), "utf8").matchAll(/^execve\("([^"]+)"/gm)].map((match) => match[1] ?? ""),
  );
  return [...new Set(names)];
}

const why = machinesUnavailable();

describe.skipIf(why !== undefined)("property: plan writes nothing, anywhere", () => {
  let machine: TestMachine;
  let lab: Workspace;
  let traces: string;

  /** Follows a process and all that it starts from now on; the returned call ends that. */
  const follow = async (pid: number, into: string): Promise<() => Promise<void>> => {
    const strace: ChildProcess = spawn(
      "strace",
      ["-ff", "-qq", "-y", "-z", "-s", "4096", "-e", CALLS, "-o", join(into, "t"), "-p", String(pid)],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    const ended = new Promise<void>((resolve) => strace.once("close", () => resolve()));
    const until = performance.now() + 10_000;
    while (!/^TracerPid:\s+[1-9]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) {
      if (performance.now() > until) throw new Error("strace did not attach");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return async () => {
      strace.kill("SIGINT");
      await ended;
    };
  };

  const sshd = (): number =>
    Number(execFileSync("pgrep", ["--ns", String(machine.pid), "--nslist", "pid", "-o", "-x", "sshd"]).toString());

  const traced = async (args: readonly string[], code: number): Promise<{ here: string; there: string }> => {
    const here = mkdtempSync(join(traces, "here-"));
    const there = mkdtempSync(join(traces, "there-"));
    const stop = await follow(sshd(), there);
    try {
      const result = await lab.run(args, {
        wrap: ["strace", "-ff", "-qq", "-y", "-z", "-s", "4096", "-e", CALLS, "-o", join(here, "t")],
        timeout: 110_000,
      });
      expect(result.code, result.output).toBe(code);
    } finally {
      await stop();
    }
    return { here, there };
  };

  beforeAll(async () => {
    expect(spawnSync("strace", ["-f", "true"]).status).toBe(0);
    traces = mkdtempSync(join(tmpdir(), "labctl-traces-"));
    machine = await startMachine({ name: "traced", setup: "/etc/init.d/cron stop >/dev/null 2>&1 || :" });
    lab = createWorkspace();
    lab.write("app.conf", "one\n");
    lab.write("lab.yaml", {
      labctl: 1,
      name: "traced",
      secrets: { token: { env: "LAB_TOKEN" } },
      hosts: {
        traced: hostOf(machine, {
          packages: ["sudo"],
          directories: { "/srv/app": { mode: "0750" } },
          files: {
            "/srv/app/app.conf": { source: "./app.conf", mode: "0640" },
            "/srv/app/secret": { content: "${secret.token}", mode: "0600" },
          },
          users: { ci: { comment: "traced", groups: ["games"] } },
          services: { cron: { enabled: true, running: true } },
          sysctl: { "net.ipv4.ip_default_ttl": { value: 77, persist: true } },
          mounts: { "/srv/scratch": { source: "scratch", type: "tmpfs", options: ["size=4m"] } },
          commands: { warm: { run: "touch /srv/app/warm", creates: "/srv/app/warm" } },
        }),
      },
      outputs: { kernel: { value: "${host.traced.kernel}" } },
    });
    lab.env["LAB_TOKEN"] = "canary-traced";
  });
  afterAll(async () => {
    await machine?.stop();
    lab?.remove();
    if (traces !== undefined) rmSync(traces, { recursive: true, force: true });
  });

  const nothing = ({ here, there }: { here: string; there: string }): void => {
    // Positive controls: the traces are of the program and of what it ran over there.
    expect(programs(here).some((path) => path.endsWith("/node"))).toBe(true);
    expect(programs(there).some((path) => path.endsWith("/sh"))).toBe(true);
    expect(writes(here).map((call) => call.line)).toEqual([]);
    expect(writes(there).map((call) => call.line)).toEqual([]);
  };

  test("on a lab that was never applied", async () => {
    nothing(await traced(["plan", "--detailed-exitcode"], 2));
  });

  test("after an apply, with drift of every kind; and the traces of that apply show what they must", async () => {
    const applied = await traced(["apply", "--auto-approve"], 0);
    expect(writes(applied.here).map((call) => call.path)).toContainEqual(expect.stringContaining("/.labctl/lab"));
    expect(writes(applied.there).map((call) => call.path)).toEqual(
      expect.arrayContaining([expect.stringMatching(/^\/srv\/app/), expect.stringMatching(/^\/etc\/fstab/)]),
    );
    nothing(await traced(["plan", "--detailed-exitcode"], 0));
    await machine.exec(
      "echo two >/srv/app/app.conf; chmod 700 /srv/app; usermod -c other ci; /etc/init.d/cron stop; umount /srv/scratch; rm /srv/app/warm; echo 64 >/proc/sys/net/ipv4/ip_default_ttl",
    );
    nothing(await traced(["plan", "--json", "--detailed-exitcode"], 2));
    nothing(await traced(["plan", "--refresh-only"], 0));
    nothing(await traced(["plan", "--destroy"], 0));
  });
});
