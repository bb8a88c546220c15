import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CliProcess, type CliResult, labctl, spawnLabctl } from "../support/cli.ts";
import { brokenInit, busyboxInitramfs, busyboxStatic, debianKernel, garbageImage } from "../support/kernels.ts";

/** Emulated, on a machine that does other things too. */
const BOOT = 90_000;

let dir: string;
let kernel: string;
let env: Record<string, string>;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "labctl-boot-test-"));
  kernel = (await debianKernel("x86_64")).image;
  env = { HOME: dir, XDG_CACHE_HOME: join(dir, "cache"), NO_COLOR: "1" };
}, 240_000);

afterAll(() => rm(dir, { recursive: true, force: true }));

function boot(
  args: readonly string[],
  more: { stdin?: string; cwd?: string; env?: Record<string, string> } = {},
): Promise<CliResult> {
  return labctl(["boot", ...args], {
    cwd: more.cwd ?? dir,
    env: { ...env, ...more.env },
    timeout: BOOT,
    ...(more.stdin !== undefined && { stdin: more.stdin }),
  });
}

/** Processes whose command line holds a text; ours are found by the folder that they were started with. */
function processesWith(text: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").includes(text);
      } catch {
        // It ended meanwhile.
        return false;
      }
    })
    .map(Number)
    .filter((pid) => pid !== process.pid);
}

async function gone(text: string, within = 5000): Promise<number[]> {
  for (const until = Date.now() + within; Date.now() < until; ) {
    if (processesWith(text).length === 0) return [];
    await sleep(50);
  }
  return processesWith(text);
}

/** Until the command speaks; rejects with all that was said where labctl ends before. */
async function running(child: CliProcess): Promise<void> {
  let ended = false;
  void child.done.catch(() => undefined).then(() => (ended = true));
  while (!child.stdout.includes("running")) {
    if (ended) throw new Error(`it ended before its command began: ${child.stdout}${child.stderr}`);
    await sleep(50);
  }
}

describe("a command in a guest", () => {
  it("has its own stdin, stdout and stderr, the folder one stands in, and exits as it did", async () => {
    await writeFile(join(dir, "given.txt"), "from the host\n");
    const script =
      "cat given.txt; cat; echo to stderr >&2; echo again >/dev/stderr; echo made > made.txt; uname -r; exit 7";
    const { code, stdout, stderr } = await boot([kernel, "--", "sh", "-c", script], { stdin: "piped\nin\n" });
    const { release } = await debianKernel("x86_64");
    expect(stdout).toBe(`from the host\npiped\nin\n${release}\n`);
    expect(stderr).toContain("to stderr\nagain\n");
    expect(stderr).not.toContain("Linux version");
    expect(code).toBe(7);
    expect(await readFile(join(dir, "made.txt"), "utf8")).toBe("made\n");
  });

  it("passes bytes through as they are, many of them, both ways, and 255", async () => {
    const bytes = randomBytes(700_000).toString("base64");
    const digest = createHash("sha256").update(bytes).digest("hex");
    const { code, stdout } = await boot([kernel, "--", "sh", "-c", "cat; exit 255"], { stdin: bytes });
    expect(createHash("sha256").update(stdout).digest("hex")).toBe(digest);
    expect(code).toBe(255);
  });

  it("ends as 128 and the signal's number where one killed it; words arrive as they are", async () => {
    const { code, stdout } = await boot([
      kernel,
      "--",
      "sh",
      "-c",
      'printf "%s|" "$@"; kill -TERM $$',
      "sh",
      "a b",
      "it's",
      "$HOME",
      "*",
    ]);
    expect(stdout).toBe("a b|it's|$HOME|*|");
    expect(code).toBe(128 + 15);
  });

  it("sees other folders as they were given: to read only, or to write", async () => {
    const folders = { read: join(dir, "only, read"), write: join(dir, "to write") };
    for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true });
    const script = `touch '${folders.read}/x' && echo wrote; touch '${folders.write}/x' && echo wrote; touch /etc/labctl-was-here && echo wrote`;
    const { code, stdout } = await boot([
      kernel,
      "--share",
      folders.read,
      "--share",
      `${folders.write}:rw`,
      "--",
      "sh",
      "-c",
      script,
    ]);
    expect(stdout).toBe("wrote\n");
    expect(code).not.toBe(0);
    expect([
      existsSync(join(folders.read, "x")),
      existsSync(join(folders.write, "x")),
      existsSync("/etc/labctl-was-here"),
    ]).toEqual([false, true, false]);
  });

  it("has a copy of the folder and serial lines where the kernel can do no better, and says so", async () => {
    const bare = join(dir, "bare");
    await mkdir(bare);
    await writeFile(join(dir, "packed.txt"), "packed\n");
    const { code, stdout, stderr } = await boot([
      kernel,
      "--modules",
      bare,
      "--busybox",
      await busyboxStatic(),
      "--",
      "sh",
      "-c",
      "cat packed.txt; echo err >&2; touch packed.txt || exit 9",
    ]);
    expect(stdout).toBe("packed\n");
    expect(stderr).toContain("err\n");
    expect(stderr).toContain("serial lines carry the output");
    expect(stderr).toContain("the programs of this machine are not in the guest");
    expect(code).toBe(9);
  });

  it("without one, is told of user space; --json tells all", async () => {
    const { code, stdout } = await boot([
      kernel,
      "--json",
      "--cpus",
      "1",
      "--memory",
      "512M",
      "--console-log",
      "console.txt",
    ]);
    const report = JSON.parse(stdout) as Record<string, unknown>;
    expect(report).toMatchObject({
      verdict: "exited",
      exit: 0,
      exit_code: 0,
      started: true,
      machine: "q35",
      events: [],
      kernel: { arch: "x86_64" },
    });
    expect(code).toBe(0);
    // Recorded from the first byte.
    expect(await readFile(join(dir, "console.txt"), "utf8")).toContain("Linux version");
  });

  it("gets a terminal where there is one", async () => {
    const line = `stty rows 40 cols 91; exec "$@"`;
    const program = process.env["LABCTL_PROGRAM"] ?? join(import.meta.dirname, "../../bin/labctl.js");
    const inner = `sh -c '${line}' sh '${process.execPath}' '${program}' boot '${kernel}' -- sh -c 'tty; stty size; read x; echo "got $x"; exit 5'`;
    const { spawn } = await import("node:child_process");
    const child = spawn("script", ["-qec", inner, "/dev/null"], {
      cwd: dir,
      env: { ...process.env, ...env, TERM: "xterm" },
    });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (text.includes("40 91")) child.stdin.write("typed\r");
    });
    const code = await new Promise<number | null>((resolve) => {
      const timer = setTimeout(() => child.kill("SIGKILL"), BOOT);
      child.once("close", (status) => {
        clearTimeout(timer);
        resolve(status);
      });
    });
    expect(text).toContain("/dev/hvc0");
    expect(text).toContain("got typed");
    expect(code).toBe(5);
  });
});

describe("a machine that does not come up", () => {
  it("is reported at once where init dies, with the lines that matter", async () => {
    const initrd = await busyboxInitramfs({ init: brokenInit("init-exits") });
    const { code, stderr } = await boot([kernel, "--initrd", initrd, "--append", "rdinit=/init", "--", "true"]);
    expect(stderr).toContain("init died: it exited with 3");
    expect(stderr).toContain("do_exit");
    expect(stderr).toContain("[E_BOOT_CRASHED]");
    expect(code).toBe(7);
  });

  it("is reported at once where it finds no root", async () => {
    const { code, stdout } = await boot([kernel, "--json", "--append", "rdinit=/nowhere", "--", "true"]);
    const report = JSON.parse(stdout) as {
      verdict: string;
      exit: number;
      cause: { kind: string };
      error: { code: string };
    };
    expect(report).toMatchObject({
      verdict: "crashed",
      exit: 7,
      started: false,
      cause: { kind: "no-root" },
      error: { code: "E_BOOT_CRASHED" },
    });
    expect(code).toBe(7);
  });

  it("is reported when it hangs without a word, and not waited for", async () => {
    const initrd = await busyboxInitramfs({ init: brokenInit("silent-hang") });
    const began = Date.now();
    const { code, stderr } = await boot([
      kernel,
      "--initrd",
      initrd,
      "--append",
      "rdinit=/init",
      "--silence",
      "4s",
      "--",
      "true",
    ]);
    expect(stderr).toContain("nothing more was printed on the console");
    expect(stderr).toContain("Run /init as init process");
    expect(stderr).toContain("[E_BOOT_HUNG]");
    expect(code).toBe(7);
    expect(Date.now() - began).toBeLessThan(60_000);
  });

  it("is told from a machine that is only late", async () => {
    const { code, stderr } = await boot([kernel, "--timeout", "500ms", "--", "true"]);
    expect(stderr).toContain("[E_BOOT_HUNG]");
    expect(stderr).toContain("--timeout");
    expect(code).toBe(7);
  });

  it("is told from one that dies while the command runs", async () => {
    const { code, stdout, stderr } = await boot([
      kernel,
      "--",
      "sh",
      "-c",
      "echo before; echo c > /proc/sysrq-trigger",
    ]);
    expect(stdout).toBe("before\n");
    expect(stderr).toContain("Kernel panic - not syncing: sysrq triggered crash");
    expect(stderr).toContain("sysrq_handle_crash");
    expect(stderr).toContain("[E_GUEST_CRASHED]");
    expect(code).toBe(6);
  });

  it("is told from one that stands still while the command runs, however quiet that is", async () => {
    // Ours, and nobody else's: other tests have machines too.
    const mark = `labctl.mark=${process.pid}-stop`;
    const child = spawnLabctl(
      ["boot", kernel, "--append", mark, "--silence", "10s", "--", "sh", "-c", "echo running; sleep 1000"],
      {
        cwd: dir,
        env,
        timeout: BOOT,
      },
    );
    await running(child);
    // Quiet for longer than that: not a hang.
    await sleep(11_000);
    expect(child.stderr).toBe("");
    const machines = processesWith(mark).filter((pid) =>
      readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("qemu-system"),
    );
    expect(machines).toHaveLength(1);
    for (const pid of machines) process.kill(pid, "SIGSTOP");
    const { code, stderr } = await child.done;
    expect(stderr).toContain("[E_GUEST_HUNG]");
    expect(code).toBe(6);
  });

  it("is stopped where the command takes too long", async () => {
    const { code, stderr } = await boot([kernel, "--command-timeout", "1s", "--", "sleep", "1000"]);
    expect(stderr).toContain("[E_TIMEOUT]");
    expect(code).toBe(6);
  });
});

describe("what cannot be booted", () => {
  it("is refused before anything is started, each with its code", async () => {
    const arm = (await debianKernel("aarch64")).image;
    const cases: readonly (readonly [readonly string[], number, string])[] = [
      [["/nowhere/bzImage"], 3, "E_SOURCE_FILE"],
      [[await garbageImage(), "--", "true"], 3, "E_BOOT_IMAGE"],
      [[arm, "--arch", "x86_64"], 3, "E_IMAGE_ARCH"],
      [[kernel, "--initrd", "/nowhere/initrd"], 3, "E_SOURCE_FILE"],
      [[kernel, "--initrd", await garbageImage()], 3, "E_BOOT_IMAGE"],
      [[kernel, "--share", "/nowhere"], 3, "E_SOURCE_FILE"],
      [[kernel, "--machine", "virt"], 3, "E_USAGE"],
      [[kernel, "--memory", "much"], 3, "E_USAGE"],
      [[], 3, "E_USAGE"],
    ];
    for (const [args, exit, expected] of cases) {
      const { code, stderr } = await boot(args);
      expect([args, code, stderr.match(/\[(E_\w+)\]/)?.[1]]).toEqual([args, exit, expected]);
    }
  });

  it("says which package brings QEMU", async () => {
    const { code, stderr } = await boot([kernel], { env: { PATH: join(dir, "empty") } });
    expect(stderr).toContain("qemu-system-x86");
    expect(stderr).toContain("[E_QEMU_MISSING]");
    expect(code).toBe(5);
  });
});

describe("nothing is left behind", () => {
  for (const [name, signal, exit] of [
    ["killed with SIGKILL", "SIGKILL", undefined],
    ["stopped with Ctrl-C", "SIGINT", 130],
  ] as const) {
    it(`when labctl is ${name}`, async () => {
      // Everything that belongs to this run has its temporary folder on its command line.
      const place = join(dir, signal);
      await mkdir(place);
      const child = spawnLabctl(["boot", kernel, "--", "sh", "-c", "echo running; sleep 1000"], {
        cwd: dir,
        env: { ...env, TMPDIR: place },
        timeout: BOOT,
      });
      await running(child);
      const names = processesWith(place).map((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").trim());
      expect(names).toContain("qemu-system-x86");
      expect(names).toContain("virtiofsd");
      process.kill(child.pid, signal);
      const { code } = await child.done;
      expect(code).toBe(exit);
      expect(await gone(place)).toEqual([]);
      // What could still tidy up did so.
      if (signal === "SIGINT") expect(readdirSync(place)).toEqual([]);
    });
  }
});
