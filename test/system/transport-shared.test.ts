import { afterAll, beforeAll, expect, test } from "vitest";
import type { LabError } from "../../src/diagnostics/index.ts";
import { createMachinePool, type Machine, type ResettablePool, sh, userScript } from "../../src/transport/index.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

/** Scripts of labctl's own that follow each other in one shell. */
let host: TestMachine;
let pool: ResettablePool;
let remote: Machine;

beforeAll(async () => {
  host = await startMachine({
    name: "shared",
    users: {
      lab: { sudo: "nopasswd" },
      bashy: { shell: "/bin/bash", sudo: "nopasswd" },
      busy: { shell: "/usr/local/bin/ash" },
      headless: {},
    },
    setup: [
      "ln -s /bin/busybox /usr/local/bin/ash",
      // A head that knows no -c, as POSIX allows: first in this login's path alone.
      "mkdir /opt/bin; printf '#!/bin/sh\\necho head: bad option >&2; exit 1\\n' >/opt/bin/head; chmod 755 /opt/bin/head",
      "printf 'PATH=/opt/bin:/usr/bin:/bin\\n' >/home/headless/.pam_environment; usermod -s /opt/bin/headsh headless",
      "printf '#!/bin/sh\\nPATH=/opt/bin:/usr/bin:/bin; export PATH; exec /bin/sh \"$@\"\\n' >/opt/bin/headsh; chmod 755 /opt/bin/headsh",
    ].join("\n"),
  });
  pool = createMachinePool({ env: host.env });
  remote = pool.machine(host.connection());
});
afterAll(async () => {
  await pool.close();
  await host.stop();
});

const sessions = async (): Promise<number> =>
  Number((await host.exec("grep -c 'Starting session: command' /var/log/sshd.log")).stdout);

const brief = async (machine: Machine, script: Parameters<Machine["exec"]>[0], root = true): Promise<string> => {
  const result = await machine.exec(script, { brief: true, root, timeout: 10_000 });
  return `${result.code} ${result.stdout.toString("latin1")}|${result.stderr.toString("latin1")}`;
};

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
  } catch (error) {
    return (error as LabError).code;
  }
  return "none";
};

const sleepers = async (): Promise<string> => (await host.exec("pgrep -f '[s]leep 4[0-9]{2}' || true")).stdout.trim();

test.each(["lab", "bashy", "busy"])(
  "follow each other in one session, and leave nothing to the next (%s)",
  async (user) => {
    const machine = pool.machine(host.connection({ user }));
    const root = user !== "busy";
    await machine.exec(sh`true`, { root });
    const before = await sessions();
    expect(await brief(machine, sh`echo out; echo err >&2; exit 7`, root)).toBe("7 out\n|err\n");
    expect(
      await brief(machine, sh`X=1; cd /; umask 077; trap 'echo trapped' EXIT; set -f; f() { echo f; }; pwd`, root),
    ).toBe("0 /\ntrapped\n|");
    expect(
      await brief(
        machine,
        sh`echo "[$X]"; [ "$(pwd)" = / ] && echo moved; umask; echo /et[c]; f 2>/dev/null; cat`,
        root,
      ),
    ).toMatch(/^0 \[\]\n00?22\n\/etc\n\|$/);
    expect(await brief(machine, userScript("if ( then"), root)).toMatch(/^[12] \|.*[Ss]yntax error/);
    expect(await brief(machine, userScript(String.raw`printf '\377\001\n\n'; printf 'no newline' >&2`), root)).toBe(
      "0 \xff\x01\n\n|no newline",
    );
    expect((await machine.probe(sh`echo probed`, { root })).stdout.toString()).toBe("probed\n");
    const long = "x y\n".repeat(50_000);
    expect(await brief(machine, sh`printf %s ${long} | cksum; printf %s ${long}`, root)).toContain(`${long}|`);
    expect(await sessions()).toBe(before + 1);
  },
);

test("several at once get shells of their own, and one of those stays", async () => {
  const results = await Promise.all(Array.from({ length: 4 }, (_, i) => brief(remote, sh`sleep 0.2; echo ${i}`)));
  expect(results).toEqual(["0 0\n|", "0 1\n|", "0 2\n|", "0 3\n|"]);
  const before = await sessions();
  expect(await brief(remote, sh`echo again`)).toBe("0 again\n|");
  expect(await sessions()).toBe(before);
  // What waits in vain goes: a machine is not left with shells of root.
  await expect
    .poll(async () => (await host.exec("pgrep -fc '[l]abctl_h' || true")).stdout.trim(), { timeout: 5000 })
    .toBe("0");
});

test("timeout and abort end a script with all that it started; the next has a new shell", async () => {
  await brief(remote, sh`true`);
  expect(await codeOf(remote.exec(sh`sleep 401 & sleep 402`, { brief: true, timeout: 300 }))).toBe("E_TIMEOUT");
  expect(await sleepers()).toBe("");
  await brief(remote, sh`true`);
  const abort = new AbortController();
  const running = codeOf(
    remote.exec(sh`trap 'echo cleaned >/run/cleaned; exit 143' TERM; sleep 403`, {
      brief: true,
      signal: abort.signal,
    }),
  );
  await expect.poll(sleepers).not.toBe("");
  abort.abort();
  expect(await running).toBe("E_CANCELLED");
  expect(await sleepers()).toBe("");
  expect((await host.exec("cat /run/cleaned")).stdout).toBe("cleaned\n");
  expect(await brief(remote, sh`echo well`)).toBe("0 well\n|");
});

test("a shell that something kills is replaced; a script that it was running is not run again", async () => {
  await brief(remote, sh`true`);
  await host.exec("pkill -9 -f '[l]abctl_h'");
  await expect.poll(async () => (await host.exec("pgrep -fc '[l]abctl_h' || true")).stdout.trim()).toBe("0");
  expect((await remote.probe(sh`echo there`)).stdout.toString()).toBe("there\n");
  const running = codeOf(remote.exec(sh`echo ran >>/run/ran; sleep 404`, { brief: true }));
  await expect.poll(sleepers).not.toBe("");
  await host.cut();
  expect(await running).toBe("E_DISCONNECTED");
  expect((await host.exec("pkill -f '[s]leep 404'; cat /run/ran")).stdout).toBe("ran\n");
  expect(await brief(remote, sh`echo back`)).toBe("0 back\n|");
});

test("where the tools do not do, each script has its session as ever", async () => {
  const machine = pool.machine(host.connection({ user: "headless" }));
  for (const word of ["one", "two"]) expect(await brief(machine, sh`echo ${word}`, false)).toBe(`0 ${word}\n|`);
  expect((await machine.probe(sh`command -v head`, { root: false })).stdout.toString()).toBe("/opt/bin/head\n");
});

test("a server that allows one session is not kept waiting", async () => {
  const narrow = await startMachine({ name: "narrow", maxSessions: 1 });
  const own = createMachinePool({ env: narrow.env });
  try {
    const machine = own.machine(narrow.connection());
    for (let i = 0; i < 3; i++) {
      expect((await machine.probe(sh`echo ${i}`)).stdout.toString()).toBe(`${i}\n`);
      const started = performance.now();
      expect((await machine.exec(sh`echo ${i}`)).stdout.toString()).toBe(`${i}\n`);
      expect((await machine.exec(sh`cat`, { stdin: "in" })).stdout.toString()).toBe("in");
      // Half a second is what a shell waits for the next script where nobody wants its place.
      if (i > 0) expect(performance.now() - started).toBeLessThan(5_000);
    }
  } finally {
    await own.close();
    await narrow.stop();
  }
});
