/** What people do to a lab between two applies, against real sshd machines: ssh, exec, retry, cancel. */
import { execFileSync, spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

describe.skipIf(machinesUnavailable() !== undefined)("between two applies", () => {
  let gate: TestMachine;
  let target: TestMachine;
  let lab: Workspace;

  const spec = (pin: string, more: object = {}) => ({
    labctl: 1,
    name: "between",
    defaults: { ssh: { user: "lab", key: gate.keyPath, config: false } },
    hosts: {
      gate: { address: gate.address, ssh: { port: gate.port, known_hosts: gate.knownHostsPath } },
      target: { address: target.address, ssh: { jump: "gate", host_key: pin }, ...more },
    },
  });
  const pinOf = (machine: TestMachine): string =>
    execFileSync("ssh-keygen", ["-lf", machine.root("/etc/ssh/ssh_host_ed25519_key.pub")], { encoding: "utf8" }).split(
      " ",
    )[1] ?? "";

  beforeAll(async () => {
    [gate, target] = await Promise.all([startMachine({ name: "gate", port: 2222 }), startMachine({ name: "target" })]);
    // Nobody but the gateway gets an answer.
    await target.exec(`ip route add prohibit ${target.address.replace(/\.\d+$/, ".1")}/32`);
    lab = createWorkspace();
    lab.write("lab.yaml", spec(pinOf(target)));
  });
  afterAll(async () => {
    lab?.remove();
    await Promise.all([gate?.stop(), target?.stop()]);
  });

  test("ssh goes through the gateway with the real client, and leaves nothing behind", async () => {
    const child = lab.spawn(["ssh", "target", "--", "echo $(hostname) $SSH_CONNECTION; cat /proc/$PPID/comm; exit 7"]);
    const result = await child.done;
    expect(result.code, result.output).toBe(7);
    expect(result.stdout).toContain(`target ${gate.address} `);
    expect(execFileSync("sh", ["-c", "ls -d /tmp/labctl-ssh-* 2>/dev/null || true"], { encoding: "utf8" })).toBe("");
  });

  test("ssh on a terminal gives the far end one, and takes what is typed", async () => {
    const program = join(import.meta.dirname, "../../bin/labctl.js");
    const command = `${process.execPath} ${program} ssh target -t -- 'tty; read line; echo "got $line"; exit 5'`;
    const result = spawnSync("script", ["-qec", command, "/dev/null"], {
      cwd: lab.cwd,
      env: { PATH: process.env["PATH"], ...lab.env, TERM: "xterm" },
      input: "typed text\n",
      encoding: "utf8",
      timeout: 20_000,
    });
    expect(result.status, result.stdout).toBe(5);
    expect(result.stdout).toMatch(/\/dev\/pts\/\d+/);
    expect(result.stdout).toContain("got typed text");
  });

  test("ssh refuses another host key than the pinned one, also on the gateway", async () => {
    lab.write("lab.yaml", spec(pinOf(gate)));
    const other = await lab.run(["ssh", "target", "--", "true"]);
    expect(other.code).toBe(255);
    expect(other.stderr).toMatch(/Host key verification failed/);
    lab.write("lab.yaml", spec(pinOf(target)));
    const config = await lab.run(["ssh", "target", "--config"]);
    lab.write("conf", config.stdout);
    const copied = execFileSync("scp", ["-F", lab.path("conf"), "labctl-host.target:/etc/hostname", lab.path("name")]);
    expect(copied.toString()).toBe("");
    lab.write("conf", config.stdout.replace(gate.knownHostsPath, target.knownHostsPath));
    expect(() =>
      execFileSync("ssh", ["-F", lab.path("conf"), "labctl-host.target", "true"], { stdio: "pipe" }),
    ).toThrow(/Host key verification failed/);
  });

  test("exec streams both outputs over the lab's own connection and exits as the command did", async () => {
    const child = lab.spawn([
      "exec",
      "target",
      "--",
      "sh",
      "-c",
      'echo "$0 $1"; echo two >&2; kill -9 $$',
      "a b",
      "$x",
    ]);
    const result = await child.done;
    expect(result).toMatchObject({ code: 137, stdout: "a b $x\n" });
    expect(result.stderr).toContain("two\n");
    const root = await lab.run(["exec", "host.target", "--root", "--json", "--", "id", "-u"]);
    expect(JSON.parse(root.stdout)).toMatchObject({ address: "host.target", exit_code: 0, stdout: "0\n" });
    const old = await lab.run(["host", "exec", "gate", "--", "false"]);
    expect(old).toMatchObject({ code: 1, stdout: "" });
    const typo = await lab.run(["ssh", "tarrget"]);
    expect(typo.code).toBe(3);
    expect(typo.stderr).toContain('did you mean "target"?');
  });

  /** `first` fails until /srv/ok is there, `second` needs it, `other` needs nothing; `slow` takes half a minute. */
  const chain = (names: readonly string[]): object => ({
    commands: Object.fromEntries(
      Object.entries({
        first: { run: "test -e /srv/ok && touch /srv/first", creates: "/srv/first" },
        second: { run: "touch /srv/second", creates: "/srv/second", depends_on: ["host.target/command.first"] },
        other: { run: "echo once >>/srv/other", creates: "/srv/other" },
        slow: { run: "touch /srv/begun; sleep 30; touch /srv/slow", creates: "/srv/slow" },
      }).filter(([name]) => names.includes(name)),
    ),
  });
  const runs = async (): Promise<{ id: string; command: string; state: string }[]> =>
    JSON.parse((await lab.run(["history", "--json"])).stdout) as { id: string; command: string; state: string }[];

  test("retry applies again what failed and what was skipped for it, and why says what came of them", async () => {
    lab.write("lab.yaml", spec(pinOf(target), chain(["first", "second", "other"])));
    const failed = await lab.apply(["--on-failure", "continue"], 6);
    const said = await lab.run(["why", "host.target/command.second"]);
    expect(said.stdout).toMatch(/^host\.target\/command\.second {2}create: /);
    expect(said.stdout).toContain("skipped, since host.target/command.first failed");
    const why = JSON.parse((await lab.run(["why", "host.target/command.first", "--json"])).stdout) as object;
    expect(why).toMatchObject({
      run: failed.summary && (await runs())[0]?.id,
      result: "failed",
      problem: { code: "E_COMMAND_FAILED" },
    });

    await target.exec("touch /srv/ok");
    const silent = await lab.run(["retry"]);
    expect(silent.code).toBe(3);
    expect(silent.stderr).toContain("E_NOT_INTERACTIVE");
    const done = await lab.run(["retry", failed.events[0]?.run ?? "", "--auto-approve", "--json"]);
    expect(done.code, done.output).toBe(0);
    const events = done.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { type: string; address?: string });
    const begun = events.filter((event) => event.type === "action.started").map((event) => event.address);
    expect(begun).toEqual(["host.target/command.first", "host.target/command.second"]);
    expect((await target.exec("cat /srv/other; ls /srv/second")).stdout).toBe("once\n/srv/second\n");
    const nothing = await lab.run(["retry", "host.target"]);
    expect(nothing.code).toBe(0);
    expect(nothing.stdout).toMatch(/^Nothing to retry: /);
    expect((await runs())[0]).toMatchObject({ command: "retry", state: "ok" });
  });

  test("cancel stops the run that holds the state, ends what it was at, and says how it ended", async () => {
    lab.write("lab.yaml", spec(pinOf(target), chain(["first", "second", "other", "slow"])));
    const idle = await lab.run(["cancel"]);
    expect(idle.code).toBe(0);
    expect(idle.stdout).toMatch(/^Nothing runs in this lab\. The last run: \S+ retry: ok after /);
    const child = lab.spawn(["apply", "--auto-approve", "--json"]);
    await child.event((event) => event.type === "action.started");
    const asked = await lab.run(["cancel", "--timeout", "20s"]);
    expect(asked.code, asked.output).toBe(0);
    expect(asked.stdout).toMatch(/^\S+ apply: cancelled after .*1 cancelled/);
    expect((await child.done).code).toBe(130);
    expect(child.events.some((event) => event.type === "cancel.requested" && event.level === 1)).toBe(true);
    expect((await target.exec("sleep 0.3; pgrep -f 'sleep 3[0]'")).stdout).toBe("");
    const again = await lab.run(["cancel", child.events[0]?.run ?? "", "--json"]);
    expect(JSON.parse(again.stdout)).toMatchObject({ asked: false, state: "cancelled", summary: { exit_code: 130 } });
  });

  test("cancel says of a run that was killed that it is dead, and the next apply takes up its work", async () => {
    await target.exec("rm -f /srv/begun");
    const child = lab.spawn(["apply", "--auto-approve", "--json"]);
    await child.event((event) => event.type === "action.started");
    child.kill("SIGKILL");
    await child.done;
    const dead = await lab.run(["cancel"]);
    expect(dead.code).toBe(0);
    expect(dead.stdout).toContain("apply: interrupted");
    lab.write("lab.yaml", spec(pinOf(target), chain(["first", "second", "other"])));
    await lab.apply();
    expect(await lab.pending()).toEqual({});
  });

  test("build makes what is asked for and nothing else; cancel ends a build's job on its server", async () => {
    lab.write("lab.yaml", {
      ...spec(pinOf(target)),
      hosts: {
        ...spec(pinOf(target)).hosts,
        builder: {
          address: gate.address,
          ssh: { port: gate.port, known_hosts: gate.knownHostsPath },
          build_server: { workdir: "/home/lab/build", min_free_disk: "1MB" },
        },
      },
    });
    const build = (run: string): object => ({
      source: { path: "./src" },
      run,
      outputs: { made: "made" },
    });
    lab.write("src/input", "1\n");
    lab.write("pipeline.yaml", {
      labctl: 1,
      name: "ci",
      builds: { quick: build("cp input made"), "slow-one": build("touch begun; sleep 47; cp input made") },
    });
    // Only a build is to be made: nobody is asked.
    const first = await lab.run(["build", "quick"]);
    expect(first.code, first.output).toBe(0);
    expect(first.stdout).toMatch(/build\.quick: built\n {2}digest +[0-9a-f]{64}\n {2}server +host\.builder\n {2}took /);
    lab.write("src/input", "2\n");
    const again = await lab.run(["build", "build.quick", "--json"]);
    expect(again.code, again.output).toBe(0);
    expect(JSON.parse(again.stdout)).toMatchObject({
      builds: [{ address: "build.quick", result: "built", artifacts: [{ name: "made", size: 2 }] }],
      summary: { result: "ok" },
    });
    const typo = await lab.run(["build", "quik"]);
    expect(typo.stderr).toContain('did you mean "quick"?');

    const child = lab.spawn(["build", "slow"]);
    for (let tries = 0; tries < 100 && (await gate.exec("pgrep -f 'sleep 4[7]'")).stdout === ""; tries++) {
      await sleep(100);
    }
    const ended = await lab.run(["cancel", "build.slow-one"]);
    expect(ended.stdout).toMatch(/^build\.slow-one: its job [0-9a-f]{12} on host\.builder was ended\n$/);
    expect((await gate.exec("pgrep -f 'sleep 4[7]'")).stdout).toBe("");
    const result = await child.done;
    expect(result.code, result.output).toBe(130);
    expect(result.stdout).toContain("build.slow-one: cancelled");
    expect((await lab.run(["cancel", "build.slow-one"])).stdout).toBe("Nothing of build.slow-one runs anywhere.\n");
  });

  test("cancel reaches a run on another machine that shares the state, and sees that it is dead there", async () => {
    rmSync(lab.path("pipeline.yaml"));
    const wrap = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"];
    lab.write("lab.yaml", spec(pinOf(target), chain(["first", "second", "other", "slow"])));
    const child = lab.spawn(["apply", "--auto-approve", "--json"], { wrap });
    await child.event((event) => event.type === "action.started");
    const asked = await lab.run(["cancel", "--timeout", "20s"]);
    expect(asked.stderr).toMatch(/\(apply by .*, pid \d+ on elsewhere\) to stop\./);
    expect(asked.stdout).toMatch(/apply: cancelled after /);
    expect((await child.done).code).toBe(130);
    const dead = lab.spawn(["apply", "--auto-approve", "--json"], { wrap });
    await dead.event((event) => event.type === "action.started");
    dead.kill("SIGKILL");
    await dead.done;
    const seen = await lab.run(["cancel", dead.events[0]?.run ?? "", "--timeout", "20s", "--json"]);
    expect(JSON.parse(seen.stdout)).toMatchObject({ state: "interrupted", run: dead.events[0]?.run });
  });
});
