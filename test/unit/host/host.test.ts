import { execFileSync } from "node:child_process";
import { homedir } from "node:os";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { connectionOf } from "../../../src/provider/connection.ts";
import { archName, parseFacts } from "../../../providers/host/facts.ts";
import { host } from "../../../providers/host/host.ts";
import { KVM_PERL, KVM_PYTHON } from "../../../providers/host/kvm.ts";
import {
  type ConnectionSpec,
  LabError,
  type MachineContext,
  type Plain,
  type SshConnection,
} from "../../../src/index.ts";
import { deadMachine, KindDriver } from "../../../src/testing/index.ts";
import { SHELLS, type ShellWorld, shellWorld } from "./shells.ts";

describe.each(SHELLS)("facts through %s", (shell) => {
  let world: ShellWorld;
  beforeEach(() => {
    world = shellWorld(shell);
  });
  afterEach(() => world.close());

  test("are those of this machine", async () => {
    const { parent: _parent, ...top } = world;
    const driver = new KindDriver(host, top, "a");
    const reading = await driver.read({ name: "a", connection: "local" });
    if (reading.is !== "present") throw new Error(reading.is);
    const uname = execFileSync("uname", ["-r"], { encoding: "utf8" }).trim();
    const memory = /MemTotal: +([0-9]+)/.exec(execFileSync("cat", ["/proc/meminfo"], { encoding: "utf8" }))?.[1];
    expect(reading.value).toMatchObject({
      kernel: uname,
      arch: archName(execFileSync("uname", ["-m"], { encoding: "utf8" }).trim()),
      memory: Number(memory) * 1024,
      address: "localhost",
    });
    expect(reading.value["cores"]).toBeGreaterThan(0);
    expect(reading.value["disk_free"]).toBeGreaterThan(0);
    expect(reading.value["boot_id"]).toMatch(/^[0-9a-f-]{36}$/);
    expect(Object.keys(reading.value).sort()).toEqual([...(host.attributes.required ?? [])].sort());
  });

  test("a host of another architecture is refused, and nothing else is", async () => {
    const { parent: _parent, ...top } = world;
    const driver = new KindDriver(host, top, "a");
    expect(await driver.plan({ name: "a", labels: { x: "y" }, maintenance: true })).toEqual([]);
    const changes = await driver.plan({ name: "a", arch: "riscv64" });
    expect(changes).toMatchObject([{ path: "arch", after: "riscv64" }]);
    await expect(driver.apply({ name: "a", arch: "riscv64" })).rejects.toMatchObject({ code: "E_MISMATCH" });
  });
});

test("one host that cannot be reached says nothing of the others", async () => {
  const world = shellWorld("dash");
  try {
    const { parent: _parent, ...top } = world;
    const mixed = { ...top, machine: (a: string) => (a === "host.dead" ? deadMachine(a, world) : world.machine(a)) };
    const alive = new KindDriver(host, mixed, "a");
    const items = [await alive.item({ name: "a" }), { ...(await alive.item({ name: "dead" })), address: "host.dead" }];
    const readings = await host.readMany(alive.context(), items);
    expect([readings.get("host.a")?.is, readings.get("host.dead")?.is]).toEqual(["present", "unreachable"]);
  } finally {
    await world.close();
  }
});

describe("facts of other systems", () => {
  test("Alpine on arm64 under OpenRC, with quoted os-release values", () => {
    const facts = parseFacts([
      "kernel=6.6.1-0-lts",
      "machine=aarch64",
      "os:ID=alpine",
      'os:VERSION_ID="3.19.0"',
      "init=openrc",
      "package_manager=apk",
      "dmi=QEMU QEMU Virtual Machine",
      "kvm=denied",
      "nested=Y",
    ]);
    expect(facts).toMatchObject({
      arch: "arm64",
      distribution: "alpine",
      distribution_version: "3.19.0",
      init: "openrc",
      package_manager: "apk",
      virtualization: "qemu",
      kvm: "unknown",
      nested_virt: "unknown",
    });
  });
  test("bare metal with KVM and nesting", () => {
    const base = ["kernel=6.1", "machine=x86_64", "dmi=Dell Inc. R640", "kvm=yes"];
    expect(parseFacts([...base, "nested=1"])).toMatchObject({ virtualization: "none", kvm: "yes", nested_virt: "yes" });
    expect(parseFacts([...base, "nested=N"])).toMatchObject({ nested_virt: "no" });
  });
  test("nothing is not a machine", () => expect(parseFacts([])).toBeUndefined());
});

test("kvm is answered by use, within its bounds, by perl and python alike", () => {
  const started = performance.now();
  const perl = execFileSync("perl", ["-e", KVM_PERL], { encoding: "utf8" }).trim();
  const python = execFileSync("python3", ["-c", KVM_PYTHON], { encoding: "utf8" }).trim();
  expect(performance.now() - started).toBeLessThan(6000);
  expect(["yes", "no", "denied"]).toContain(perl);
  expect(python).toBe(perl);
});

describe("connection", () => {
  const context = (ssh: Record<string, Plain> = {}, others: Record<string, ConnectionSpec> = {}): MachineContext => ({
    address: "host.a",
    connection: (name) => others[name],
    defaults: {
      ssh,
      timeouts: { connect: 10_000, command: 300_000, boot: 180_000 },
      retry: { attempts: 3, delay: 1000, max_delay: 30_000 },
    },
    root: "/lab",
  });

  test("own settings win over the defaults, and paths are resolved", () => {
    const spec = connectionOf(
      { address: "10.0.0.1", ssh: { user: "build", port: 2222 } },
      context({ user: "lab", key: "~/.ssh/k", known_hosts: "./known_hosts", host_key: "accept-new" }),
    );
    expect(spec).toEqual({
      type: "ssh",
      address: "host.a",
      host: "10.0.0.1",
      port: 2222,
      user: "build",
      keys: [`${homedir()}/.ssh/k`],
      known_hosts: "/lab/known_hosts",
      host_key: "accept-new",
      become: { method: "sudo" },
      connect_timeout: 10_000,
      retry: { attempts: 3, delay: 1000, max_delay: 30_000 },
    });
  });
  test("passwords travel as Sensitive", () => {
    const spec = connectionOf(
      { address: "x", ssh: { password: "canary", passphrase: "canary" }, sudo: { password: "canary" } },
      context(),
    );
    expect(JSON.stringify(spec)).not.toContain("canary");
    expect((spec as SshConnection).password?.reveal()).toBe("canary");
    expect(spec?.become.password?.reveal()).toBe("canary");
  });
  test("an address that is not known yet is no connection; this machine needs none", () => {
    expect(connectionOf({}, context())).toBeUndefined();
    expect(connectionOf({ connection: "local" }, context())).toEqual({
      type: "local",
      address: "host.a",
      become: { method: "none" },
    });
  });
  test("jumps go through the other host, and a default jump is not for itself", () => {
    const gateway = connectionOf({ address: "gw" }, { ...context({ jump: "gateway" }), address: "host.gateway" });
    expect(gateway).toBeDefined();
    expect((gateway as SshConnection).jump).toBeUndefined();
    const spec = connectionOf({ address: "x" }, context({ jump: "gateway" }, { gateway: gateway as ConnectionSpec }));
    expect((spec as SshConnection).jump).toBe(gateway);
    expect(connectionOf({ address: "x", ssh: { jump: "later" } }, context())).toBeUndefined();
    const local: ConnectionSpec = { type: "local", address: "host.l", become: { method: "none" } };
    expect(() => connectionOf({ address: "x", ssh: { jump: "l" } }, context({}, { l: local }))).toThrow(LabError);
  });
});
