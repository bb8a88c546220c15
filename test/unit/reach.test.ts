import { afterEach, beforeEach, expect, test } from "vitest";
import { connectionTo } from "../../providers/libvirt/guest-connection.ts";
import { bestAddress, neighboursIn } from "../../providers/libvirt/reach.ts";
import { sshWords } from "../../src/cli/openssh.ts";
import type { SshRun } from "../../src/cli/openssh.ts";
import { guestLine } from "../../src/cli/commands/vm.ts";
import type { PlannedAction, Resource } from "../../src/model/index.ts";
import type { Kind, MachineContext } from "../../src/provider/index.ts";
import type { ExecOptions, Machine, SshConnection } from "../../src/transport/index.ts";
import { sshAlias, sshConfigText, sshWay } from "../../src/transport/index.ts";
import { action, plan } from "../golden/streams.ts";
import { cli, ScriptedLab } from "./cli-harness.ts";
import { makeRow } from "./state-helpers.ts";

const RETRY = { attempts: 0, delay: 0, max_delay: 0 };
const BASE = {
  type: "ssh",
  address: "host.a",
  host: "10.0.0.1",
  user: "lab",
  port: 22,
  keys: ["/keys/lab"],
  known_hosts: "/lab/known_hosts",
  host_key: "strict",
  become: { method: "sudo" },
  connect_timeout: 9_500,
  retry: RETRY,
  ssh_config: false,
} as const satisfies SshConnection;
const ENV = { HOME: "/home/me" };

test("neighbours are those that answered", () => {
  const table = `IP address       HW type     Flags       HW address            Mask     Device
192.168.150.202  0x1         0x2         52:54:4A:f0:9a:55     *        virbr0
192.168.150.21   0x1         0x0         00:00:00:00:00:00     *        virbr0
10.0.0.1         0x1         0x6         02:1a:b0:66:61:14     *        eth0
`;
  expect([...neighboursIn(table)]).toEqual([
    ["52:54:4a:f0:9a:55", "192.168.150.202"],
    ["02:1a:b0:66:61:14", "10.0.0.1"],
  ]);
  expect([...neighboursIn("")]).toEqual([]);
});

test("what OpenSSH is told is what labctl's own connection does: each hop with its own keys, ports and rules", async () => {
  const gateway: SshConnection = {
    ...BASE,
    address: "host.gate",
    host: "198.51.100.7",
    port: 2222,
    host_key: "accept-new",
  };
  const way = await sshWay({ ...BASE, address: "vm.guest", user: "root", jump: gateway }, ENV);
  expect(sshAlias(way)).toBe("labctl-vm.guest");
  expect(sshConfigText(way)).toBe(`Host labctl-jump-1-host.gate
  HostName 198.51.100.7
  Port 2222
  User lab
  ConnectTimeout 10
  StrictHostKeyChecking accept-new
  UserKnownHostsFile /lab/known_hosts
  GlobalKnownHostsFile none
  IdentityFile /keys/lab
  IdentitiesOnly yes
  IdentityAgent none
  ProxyJump none

Host labctl-vm.guest
  HostName 10.0.0.1
  Port 22
  User root
  ConnectTimeout 10
  StrictHostKeyChecking yes
  UserKnownHostsFile /lab/known_hosts
  GlobalKnownHostsFile none
  IdentityFile /keys/lab
  IdentitiesOnly yes
  IdentityAgent none
  ProxyJump labctl-jump-1-host.gate
`);
});

test("a pinned host key needs no file and trusts none", async () => {
  const pin = `SHA256:${"A".repeat(43)}`;
  const text = sshConfigText(await sshWay({ ...BASE, host_key: `${pin}=` }, ENV));
  expect(text).toContain(`pin ${pin} %f %H %t %K`);
  expect(text).toContain("UserKnownHostsFile none\n");
  expect(text).toContain("StrictHostKeyChecking yes\n");
});

test("nothing of a spec becomes a setting of OpenSSH", async () => {
  for (const user of ["root\n  ProxyCommand evil", 'a"b', "${HOME}"]) {
    const way = await sshWay({ ...BASE, user }, ENV);
    expect(() => sshConfigText(way)).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
  }
  const odd = sshConfigText(await sshWay({ ...BASE, keys: ["/my keys/100%"], user: "a\\b c" }, ENV));
  expect(odd).toContain('IdentityFile "/my keys/100%%"');
  expect(odd).toContain('User "a\\\\b c"');
});

test("no secret is on ssh's command line or in what it reads", async () => {
  const { Sensitive } = await import("../../src/model/index.ts");
  const secret = new Sensitive("hunter2-very-secret");
  const way = await sshWay({ ...BASE, password: secret, passphrase: secret }, ENV);
  const words = sshWords("/tmp/x/config", way, { options: ["LogLevel=ERROR"], tty: true, command: ["uname", "-a"] });
  expect(words).toEqual(["-F", "/tmp/x/config", "-o", "LogLevel=ERROR", "-t", "labctl-host.a", "--", "uname", "-a"]);
  expect(`${sshConfigText(way)} ${words.join(" ")}`).not.toContain("hunter2");
});

const CONTEXT: MachineContext = {
  address: "vm.guest",
  connection: () => ({ ...BASE, address: "host.gate" }),
  defaults: {
    ssh: { user: "lab", jump: "gate", known_hosts: "./known" },
    timeouts: { connect: 1000, command: 1000, boot: 1000 },
    retry: RETRY,
  },
  root: "/lab",
};

test("the way to a guest is through its host, and through nothing where that is this machine", () => {
  const remote = connectionTo({ ssh: { user: "root" }, context: CONTEXT }, "192.168.100.7", BASE);
  expect(remote).toMatchObject({ host: "192.168.100.7", user: "root", known_hosts: "/lab/known", jump: BASE });
  const here = connectionTo({ context: CONTEXT }, "192.168.100.7", {
    type: "local",
    address: "host.a",
    become: { method: "none" },
  });
  expect(here).toMatchObject({ host: "192.168.100.7", user: "lab" });
  expect(here).not.toHaveProperty("jump");
  const asked = connectionTo({ ssh: { jump: "gate" }, context: CONTEXT }, "10.1.1.1", BASE);
  expect(asked).toMatchObject({ jump: { address: "host.gate" } });
});

test("of a guest's addresses the one that leads to it", () => {
  const of = (...addresses: string[]) => ({
    name: "eth0",
    mac: undefined,
    addresses: addresses.map((address) => ({
      family: address.includes(":") ? ("ipv6" as const) : ("ipv4" as const),
      address,
      prefix: 24,
    })),
  });
  expect(bestAddress([{ ...of("127.0.0.1"), name: "lo" }, of("fe80::1", "2001:db8::1", "10.0.0.9")])).toBe("10.0.0.9");
  expect(bestAddress([of("fe80::1", "169.254.3.4", "2001:db8::1")])).toBe("2001:db8::1");
  expect(bestAddress([of("::1")])).toBeUndefined();
});

let lab: ScriptedLab;
const resource = (address: string, kind: string, parent?: string): Resource => ({
  address,
  kind,
  scope: "lab",
  desired: {},
  depends: [],
  options: {},
  at: { file: "lab.yaml", line: 7, column: 3 },
  places: {},
  ...(parent !== undefined && { parent }),
});
beforeEach(() => {
  lab = new ScriptedLab();
  lab.resources = [
    resource("host.builder-1", "host"),
    resource("host.smoke", "host"),
    resource("vm.smoke", "vm"),
    resource("vm.scratch-1", "vm"),
    resource('host.builder-1/file["/etc/motd"]', "file", "host.builder-1"),
  ];
  lab.kinds = new Map([
    ["host", { kind: "host", machine: () => undefined } as unknown as Kind],
    ["vm", { kind: "vm", reach: () => undefined } as unknown as Kind],
    ["file", { kind: "file" } as unknown as Kind],
  ]);
});
afterEach(() => lab.remove());

test.each([
  ["scrach-1", 'did you mean "scratch-1"?'],
  ["vm.scratch-2", 'did you mean "vm.scratch-1"?'],
  ["zzz", "there are: host.builder-1, host.smoke, vm.smoke, vm.scratch-1"],
  ['host.builder-1/file["/etc/motd"]', "is on host.builder-1: log in to that"],
  ["smoke", "is several machines: host.smoke, vm.smoke"],
])("%s is nobody to log in to, and what was meant is said", async (name, hint) => {
  for (const command of ["ssh", "exec"]) {
    const result = await cli(lab, [command, name, "--", "true"]);
    expect(result.code).toBe(3);
    expect(result.err).toContain(hint);
  }
});

function machine(connection: Machine["connection"]): { machine: Machine; ran: [string, ExecOptions][] } {
  const ran: [string, ExecOptions][] = [];
  const exec: Machine["exec"] = async (command, options = {}) => {
    ran.push([command.text, options]);
    options.onStdout?.(Buffer.from("out\n"));
    options.onStderr?.(Buffer.from("err\n"));
    return {
      code: command.text === "die" ? undefined : 3,
      signal: command.text === "die" ? "SIGKILL" : undefined,
      stdout: Buffer.from("out\n"),
      stderr: Buffer.from("err\n"),
      truncated: false,
      duration_ms: 4.2,
    };
  };
  return { machine: { address: connection.address, connection, exec } as unknown as Machine, ran };
}

test("exec passes output and words on as they are, and exits as the command did", async () => {
  const there = machine({ ...BASE, address: "vm.scratch-1" });
  lab.machine = (address) => {
    expect(address).toBe("vm.scratch-1");
    return there.machine;
  };
  expect(await cli(lab, ["exec", "scratch-1", "--cwd", "/srv", "--", "echo", "a b", "$HOME"])).toEqual({
    code: 3,
    out: "out\n",
    err: "err\n",
  });
  expect(there.ran[0]?.[0]).toBe("echo 'a b' '$HOME'");
  expect(there.ran[0]?.[1]).toMatchObject({ root: false, cwd: "/srv" });
  expect((await cli(lab, ["exec", "scratch-1", "--", "die"])).code).toBe(137);
  const json = await cli(lab, ["exec", "vm.scratch-1", "--json", "--", "x"]);
  expect(json).toMatchObject({ code: 3, err: "" });
  expect(JSON.parse(json.out)).toEqual({
    address: "vm.scratch-1",
    exit_code: 3,
    stdout: "out\n",
    stderr: "err\n",
    truncated: false,
    duration_ms: 4,
  });
});

test("ssh gets the way, the command and the terminal, and its code is ours", async () => {
  lab.machine = () => machine({ ...BASE, address: "host.builder-1" }).machine;
  const runs: SshRun[] = [];
  lab.onSsh = async (run) => {
    runs.push(run);
    return 255;
  };
  const result = await cli(lab, ["ssh", "builder-1", "-t", "-o", "LogLevel=ERROR", "--", "ls", "-l"]);
  expect(result).toEqual({ code: 255, out: "", err: "" });
  expect(runs[0]).toMatchObject({ command: ["ls", "-l"], options: ["LogLevel=ERROR"], tty: true });
  expect(runs[0]?.way?.[0]).toMatchObject({ address: "host.builder-1", settings: { host: "10.0.0.1", user: "lab" } });
  const config = await cli(lab, ["ssh", "builder-1", "--config"]);
  expect(config.out).toContain("Host labctl-host.builder-1\n  HostName 10.0.0.1\n");
  const json = JSON.parse((await cli(lab, ["ssh", "builder-1", "--json"])).out) as object;
  expect(json).toMatchObject({
    address: "host.builder-1",
    connection: "ssh",
    name: "labctl-host.builder-1",
    way: [{ host: "10.0.0.1", port: 22, user: "lab", host_key: "strict", known_hosts: ["/lab/known_hosts"] }],
  });
  expect(runs).toHaveLength(1);
});

test("what was read of a machine, whatever its kind calls it", () => {
  const found = (more: Partial<PlannedAction>) =>
    guestLine("vm.a", "vm", action({ address: "vm.a", action: "update", ...more }));
  const before = { libvirt_name: "lab-a", running: false, cpus: { count: 3 }, memory: { size: 1024 }, made_with: {} };
  const change = (path: string) => ({ path, before: 1, after: 2, effect: "update" as const });
  expect(found({ before, desired: { host: "kvm" }, drift: [change("made_with.x"), change("running")] })).toEqual({
    address: "vm.a",
    kind: "vm",
    status: "off",
    host: "host.kvm",
    domain: "lab-a",
    cpus: 3,
    memory: 1024,
    drift: [change("running")],
  });
  expect(found({ before: { host: "host.b", running: true, cpus: 1, memory: 5, problem: "panic" } })).toMatchObject({
    status: "running",
    host: "host.b",
    cpus: 1,
    memory: 5,
    why: "panic",
  });
  expect(found({}).status).toBe("gone");
  const away = found({ action: "blocked", reason: { code: "unreachable", text: "off" } });
  expect(away).toMatchObject({ status: "unknown", why: "off" });
  expect(guestLine("vm.a", "vm", undefined).status).toBe("not applied");
});

test("vm list reads what was applied, shows what was not, and asks for no machine that does not run", async () => {
  const session = await lab.store.open("lab", { holder: "t", purpose: "t", timeout: 0 });
  await session.put(makeRow("vm.smoke", { kind: "vm", instance_id: "i-1", updated_by: "r-1" }));
  await session.close();
  lab.onPlan = (options) => {
    expect(options).toMatchObject({ mode: "refresh-only", targets: ["vm.smoke"], experimental: true });
    return plan([action({ address: "vm.smoke", action: "noop", before: { running: true, host: "host.k" } })]);
  };
  lab.machine = () => machine({ ...BASE, address: "vm.smoke", host: "192.168.0.9", jump: BASE }).machine;
  const listed = await cli(lab, ["vm", "list", "--json"]);
  expect(listed.code, listed.err).toBe(0);
  expect(JSON.parse(listed.out)).toMatchObject([
    {
      address: "vm.smoke",
      status: "running",
      reached_at: "192.168.0.9",
      reached_through: "host.a",
      owner: { lab: "kernel-lab", scope: "lab", instance_id: "i-1", run: "r-1" },
    },
    { address: "vm.scratch-1", status: "not applied" },
  ]);
  lab.onPlan = () =>
    plan([action({ address: "vm.smoke", action: "blocked", reason: { code: "unreachable", text: "away" } })]);
  expect((await cli(lab, ["vm", "show", "smoke"])).code).toBe(5);
  expect((await cli(lab, ["vm", "show", "smokey"])).err).toContain('did you mean "smoke"?');
});
