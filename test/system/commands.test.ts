/** What people do to a lab between two applies, against real sshd machines: ssh, exec, retry, cancel. */
import { execFileSync } from "node:child_process";
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
});
