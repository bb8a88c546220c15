import { existsSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabError } from "../../src/diagnostics/index.ts";
import { Sensitive } from "../../src/model/index.ts";
import { createMachinePool, type Machine, type ResettablePool, sh, userScript } from "../../src/transport/index.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

let host: TestMachine;
let pool: ResettablePool;
let remote: Machine;
let local: Machine;

/** Login shells that are no POSIX shells, where they are installed. */
const otherShells = (
  [
    ["fishy", "/usr/bin/fish"],
    ["seashell", "/usr/bin/tcsh"],
    ["zshell", "/usr/bin/zsh"],
  ] as const
).filter(([, shell]) => existsSync(shell));

beforeAll(async () => {
  host = await startMachine({
    name: "exec",
    users: {
      lab: { sudo: "nopasswd" },
      asks: { sudo: "password", password: "right pass'word $x" },
      nosudo: {},
      noshell: { shell: "/usr/sbin/nologin" },
      chatty: { shell: "/bin/bash", sudo: "nopasswd" },
      busy: { shell: "/usr/local/bin/ash" },
      ...Object.fromEntries(otherShells.map(([user, shell]) => [user, { shell, sudo: "nopasswd" as const }])),
    },
    setup: [
      "printf 'echo noise from bashrc; echo more >&2\\n' >/home/chatty/.bashrc",
      "ln -s /bin/busybox /usr/local/bin/ash",
    ].join("\n"),
  });
  pool = createMachinePool({ env: host.env });
  remote = pool.machine(host.connection());
  local = pool.machine({ type: "local", address: "host.here", become: { method: "none" } });
});
afterAll(async () => {
  await pool.close();
  await host.stop();
});

const failure = async (promise: Promise<unknown>): Promise<LabError> => {
  try {
    await promise;
  } catch (error) {
    return error as LabError;
  }
  throw new Error("it did not fail");
};
/** Processes of the machine that run `sleep N`. */
const sleepers = async (mark: string): Promise<string> => (await host.exec(`pgrep -f '^sleep ${mark}' || true`)).stdout;

describe.each([["ssh"], ["local"]])("exec over %s", (kind) => {
  const machine = (): Machine => (kind === "ssh" ? remote : local);

  test("gives exit code, streams, environment, directory and stdin exactly", async () => {
    const value = "a'b\"c\n$(id) `id` \\ é\u0081😀 \n";
    const data = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7) % 256));
    const result = await machine().exec(sh`printf %s "$V" >&2; pwd >&2; cat; exit 7`, {
      env: { V: new Sensitive(value) },
      cwd: "/usr",
      stdin: data,
    });
    expect(result.code).toBe(7);
    expect(result.stderr.toString()).toBe(`${value}/usr\n`);
    expect(result.stdout.equals(data)).toBe(true);
    expect(result.truncated).toBe(false);
  });

  test("stdin is closed where none is given", async () => {
    expect((await machine().exec(sh`cat; echo end`)).stdout.toString()).toBe("end\n");
  });

  test("a script longer than any command line", async () => {
    const text = "x".repeat(3_000_000);
    const result = await machine().exec(sh`printf %s ${text} | wc -c`);
    expect(result.stdout.toString().trim()).toBe("3000000");
  });

  test("keeps head and tail, and streams all", async () => {
    let seen = 0;
    const result = await machine().exec(sh`echo head; head -c 3000000 /dev/zero; echo tail`, {
      keep: 1000,
      onStdout: (chunk) => {
        seen += chunk.length;
      },
    });
    expect(seen).toBe(3_000_010);
    expect(result.truncated).toBe(true);
    expect(result.stdout.length).toBe(1000);
    expect(result.stdout.toString("latin1").startsWith("head\n")).toBe(true);
    expect(result.stdout.toString("latin1").endsWith("tail\n")).toBe(true);
  });

  test("a signal is a result, not an error", async () => {
    const result = await machine().exec(sh`kill -KILL $$`, { root: false });
    expect([result.code, result.signal]).toEqual([undefined, "SIGKILL"]);
  });

  test("something left in the background does not hold the result", async () => {
    const started = performance.now();
    const result = await machine().exec(sh`sleep 30.5 & echo done`);
    expect(result.stdout.toString()).toBe("done\n");
    expect(performance.now() - started).toBeLessThan(5000);
    await machine().exec(userScript("pkill -f '^sleep 30.5'"));
  });

  test("an environment name that is none is refused", async () => {
    const error = await failure(machine().exec(sh`true`, { env: { "A;id": "x" } }));
    expect(error.code).toBe("E_SPEC_VALUE");
  });
});

describe("ending a command", () => {
  test.each([
    ["a plain one", false, "sleep 711", "711"],
    ["one in a group of its own", false, "timeout 1000 sleep 712 & wait", "712"],
    ["one that ignores TERM", false, "trap '' TERM; sleep 713; sleep 713", "713"],
    ["one of root", true, "sleep 714 & timeout 1000 sleep 714; wait", "714"],
  ])("timeout kills %s with all that it started", async (_what, root, script, mark) => {
    const error = await failure(remote.exec(userScript(script), { timeout: 400, root }));
    expect(error.code).toBe("E_TIMEOUT");
    expect(error.retryable).toBe(false);
    expect(await sleepers(mark)).toBe("");
  });

  test("abort kills it and gives E_CANCELLED", async () => {
    const abort = new AbortController();
    const running = remote.exec(sh`sleep 715 & sleep 715`, { signal: abort.signal });
    setTimeout(() => abort.abort(), 300);
    expect((await failure(running)).code).toBe("E_CANCELLED");
    expect(await sleepers("715")).toBe("");
    expect((await failure(remote.exec(sh`true`, { signal: abort.signal }))).code).toBe("E_CANCELLED");
  });

  test("also where the server has no room for one more session", async () => {
    const narrow = await startMachine({ name: "narrow", maxSessions: 1 });
    const own = createMachinePool({ env: narrow.env });
    try {
      const error = await failure(own.machine(narrow.connection()).exec(sh`sleep 716 & sleep 716`, { timeout: 500 }));
      expect(error.code).toBe("E_TIMEOUT");
      expect((await narrow.exec("pgrep -f '^sleep 716' || true")).stdout).toBe("");
    } finally {
      await own.close();
      await narrow.stop();
    }
  });
});

describe("root", () => {
  const as = (user: string, password?: string): Machine =>
    pool.machine(
      host.connection({
        user,
        become: { method: "sudo", ...(password !== undefined && { password: new Sensitive(password) }) },
      }),
    );

  test("through sudo, and not where it is not asked for", async () => {
    expect((await remote.exec(sh`id -u`)).stdout.toString()).toBe("0\n");
    expect((await remote.exec(sh`id -un`, { root: false })).stdout.toString()).toBe("lab\n");
  });

  test("with a password, which does not stray into the script's stdin", async () => {
    const machine = as("asks", "right pass'word $x");
    const result = await machine.exec(sh`id -u; cat`, { stdin: "data" });
    expect(result.stdout.toString()).toBe("0\ndata");
    // And where sudo does not ask, although a password is given.
    const free = as("lab", "not needed");
    expect((await free.exec(sh`id -u; cat`, { stdin: "data" })).stdout.toString()).toBe("0\ndata");
    expect((await free.exec(sh`cat; echo end`)).stdout.toString()).toBe("end\n");
  });

  test.each([
    ["a wrong password", "asks", "wrong one", /password/],
    ["a missing password", "asks", undefined, /password is required/],
    ["a user without sudo", "nosudo", undefined, /sudo|password/],
  ])("%s gives E_SUDO with a hint, without the password", async (_what, user, password, expected) => {
    const error = await failure(as(user, password).exec(sh`id`));
    expect(error.code).toBe("E_SUDO");
    expect(`${error.message} ${error.hint ?? ""}`).toMatch(expected);
    expect(`${error.message} ${error.hint ?? ""}`).not.toContain("wrong one");
  });

  test("sudo that is not installed", async () => {
    await host.exec("mv /usr/bin/sudo /usr/bin/sudo.away");
    const error = await failure(remote.exec(sh`id`));
    await host.exec("mv /usr/bin/sudo.away /usr/bin/sudo");
    expect(error.code).toBe("E_SUDO");
    expect(error.hint).toMatch(/install sudo/);
  });

  test("a login without a shell says so", async () => {
    const error = await failure(as("noshell").exec(sh`id`, { root: false }));
    expect(error.code).toBe("E_AUTH");
    expect(error.message).toMatch(/cannot run commands.*not available/);
  });

  test.each(["chatty", "busy", ...otherShells.map(([user]) => user)])(
    "noise of login files and other shells do not matter (%s)",
    async (user) => {
      const result = await as(user).exec(sh`echo out; echo err >&2; cat`, { root: false, stdin: "in" });
      expect([result.stdout.toString(), result.stderr.toString()]).toEqual(["out\nin", "err\n"]);
      if (user !== "busy") expect((await as(user).exec(sh`id -u`)).stdout.toString()).toBe("0\n");
    },
  );
});

describe("probes", () => {
  test("of one turn travel together, each on its own", async () => {
    const before = (await host.exec("grep -c 'Starting session: command' /var/log/sshd.log")).stdout;
    const results = await Promise.all([
      remote.probe(sh`printf 'no newline'; exit 3`),
      remote.probe(userScript("if ( then")),
      remote.probe(sh`head -c 3000 /dev/urandom; printf '\n\n'; echo e >&2`),
      remote.probe(sh`cat; cd /; X=1; echo "[$Y]"; Y=2`),
      remote.probe(sh`echo "[$Y]"; true`),
    ]);
    const after = (await host.exec("grep -c 'Starting session: command' /var/log/sshd.log")).stdout;
    expect(Number(after) - Number(before)).toBe(1);
    expect(results.map((result) => result.code)).toEqual([3, 2, 0, 0, 0]);
    expect(results[0]?.stdout.toString()).toBe("no newline");
    expect(results[1]?.stderr.toString()).toMatch(/[Ss]yntax error/);
    expect(results[2]?.stdout.length).toBe(3002);
    expect(results[2]?.stderr.toString()).toBe("e\n");
    expect(results[3]?.stdout.toString()).toBe("[]\n");
    expect(results[4]?.stdout.toString()).toBe("[]\n");
  });

  test("a lost connection is met with one more try", async () => {
    const probing = remote.probe(sh`[ -e /run/was-cut ] || { touch /run/was-cut; sleep 5; }; echo fine`);
    await expect.poll(async () => (await host.exec("ls /run")).stdout).toContain("was-cut");
    await host.cut();
    expect((await probing).stdout.toString()).toBe("fine\n");
  });

  test("aborting one leaves the others", async () => {
    const abort = new AbortController();
    const [first, second] = [remote.probe(sh`sleep 0.5; echo 1`, { signal: abort.signal }), remote.probe(sh`echo 2`)];
    setTimeout(() => abort.abort(), 50);
    expect((await failure(first)).code).toBe("E_CANCELLED");
    expect((await second).stdout.toString()).toBe("2\n");
  });
});

test("hundreds of calls may share one signal without a warning", async () => {
  const warnings: Error[] = [];
  const note = (warning: Error): void => void warnings.push(warning);
  process.on("warning", note);
  const { signal } = new AbortController();
  await Promise.all(Array.from({ length: 100 }, () => remote.probe(sh`true`, { signal })));
  await Promise.all(Array.from({ length: 20 }, () => remote.exec(sh`true`, { signal, root: false })));
  process.off("warning", note);
  expect(warnings).toEqual([]);
});

test("no secret stands on a command line while a command runs", async () => {
  const canary = "CANARY-5f1c";
  const options = { env: { TOKEN: new Sensitive(canary) } };
  for (const [machine, root] of [
    [remote, true],
    [remote, false],
    [local, false],
  ] as const) {
    const abort = new AbortController();
    const running = machine
      .exec(sh`: ${canary}; sleep 719`, { ...options, root, signal: abort.signal })
      .catch(() => undefined);
    const lines = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
    await expect
      .poll(async () =>
        machine === local ? (await local.exec(userScript(lines))).stdout.toString() : (await host.exec(lines)).stdout,
      )
      .toContain("sleep 719");
    const seen =
      machine === local ? (await local.exec(userScript(lines))).stdout.toString() : (await host.exec(lines)).stdout;
    expect(seen).not.toContain(canary);
    abort.abort();
    await running;
  }
  expect(readFileSync(host.root("/var/log/sshd.log"), "utf8")).not.toContain(canary);
});
