/** Machines on a real libvirtd, through the CLI: Debian's kernel really boots; what is there is asked of virsh and qemu-img. */
import { execFileSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

/** Says that it is up, and stays so. */
const INIT = `#!/bin/sh
mount -t proc proc /proc; mount -t devtmpfs dev /dev
echo "labctl-test: up $(uname -r)"
while :; do sleep 60; done
`;

let virt: TestLibvirtd;
let ws: Workspace;
let boot: object;
let release: string;

function lab(vm: object = {}): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "vms",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) },
    networks: { test: { host: "kvm", cidr: "192.168.150.0/24" } },
    volumes: { base: { host: "kvm", source: "./base.qcow2" } },
    vms: {
      box: {
        host: "kvm",
        cpus: { count: 1, max: 2 },
        memory: "256MiB",
        disks: [{ volume: "base" }, { size: "8MiB" }],
        networks: ["test"],
        boot,
        ...vm,
      },
    },
  });
}

beforeAll(async () => {
  const [started, kernel, initrd] = await Promise.all([
    startLibvirtd(),
    debianKernel("x86_64"),
    busyboxInitramfs({ init: INIT }),
  ]);
  virt = started;
  release = kernel.release;
  boot = { kernel: kernel.image, initrd, cmdline: "console=ttyS0 panic=0" };
  ws = createWorkspace();
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ws.path("base.qcow2"), "16M"]);
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

describe("machines", { timeout: 180_000 }, () => {
  test("boot, and are made once", async () => {
    lab();
    await ws.apply(["--experimental"]);
    expect(await virt.virsh("domstate", "vms-box")).toBe("running");
    const xml = await virt.virsh("dumpxml", "vms-box");
    expect(xml).toContain('address="vm.box"');
    expect(xml).toContain("<source network='vms-test'");
    expect(await virt.run("qemu-img", "info", "-U", "/var/lib/libvirt/images/vms-box-vda.qcow2")).toContain(
      "backing file: /var/lib/libvirt/images/vms-base.qcow2",
    );
    await expect
      .poll(() => virt.run("cat", "/var/log/libvirt/qemu/vms-box-console.log"), { timeout: 90_000, interval: 1000 })
      .toContain(`labctl-test: up ${release}`);
    expect(await ws.pending(["--experimental"])).toEqual({});
  });

  test("are shown as they are, and nobody logs in to one without an address", async () => {
    expect(JSON.parse((await ws.run(["vm", "list", "--json"])).stdout)).toMatchObject([
      {
        address: "vm.box",
        status: "running",
        host: "host.kvm",
        domain: "vms-box",
        cpus: 1,
        memory: 256 * 2 ** 20,
        owner: { lab: "vms", scope: "lab" },
        drift: [],
      },
    ]);
    const closed = await ws.run(["ssh", "box", "--", "true"]);
    expect(closed.code, closed.output).toBe(5);
    expect(closed.stderr).toContain("vm.box runs on host.kvm and has no address that anybody there knows");
  });

  test("one with a fixed address is reached through its host", async () => {
    const { keyPath } = virt.host;
    const ssh = { user: "lab", key: keyPath, host_key: "accept-new", known_hosts: "./guests" };
    lab({ networks: [{ network: "test", address: "192.168.150.10" }], ssh });
    // This guest runs no sshd: its host's answers in its place, at an address that only the host itself can reach.
    await virt.run("ip", "address", "add", "192.168.150.10/32", "dev", "lo");
    const [exec, client] = [
      await ws.run(["exec", "box", "--", "sh", "-c", "echo $SSH_CONNECTION"]),
      await ws.run(["ssh", "vm.box", "--", "echo $SSH_CONNECTION"]),
    ];
    await virt.run("ip", "address", "del", "192.168.150.10/32", "dev", "lo");
    for (const result of [exec, client]) {
      expect(result.code, result.output).toBe(0);
      expect(result.stdout).toMatch(/ 192\.168\.150\.10 22\n$/);
    }
    expect(ws.files().get("guests")).toMatch(/^192\.168\.150\.10 /);
  });

  test("change while they run: processors, autostart, cards", async () => {
    const pid = await virt.run("cat", "/run/libvirt/qemu/vms-box.pid");
    lab({ cpus: { count: 2, max: 2 }, autostart: true, networks: ["test", { network: "test" }] });
    await ws.apply(["--experimental"]);
    expect(await virt.virsh("vcpucount", "vms-box", "--live", "--active")).toBe("2");
    expect((await virt.virsh("domiflist", "vms-box")).split("\n")).toHaveLength(2);
    expect(await virt.run("cat", "/run/libvirt/qemu/vms-box.pid")).toBe(pid);
    expect(await ws.pending(["--experimental"])).toEqual({});
  });

  test("what happens behind labctl's back is named, and mended", async () => {
    await virt.virsh("destroy", "vms-box");
    expect(await ws.pending(["--experimental"])).toEqual({ "vm.box": "update running" });
    await virt.virsh("autostart", "--disable", "vms-box");
    const shown = await ws.run(["vm", "show", "box"]);
    expect(shown.stdout).toMatch(/^vm\.box\n {2}status +off\n {2}host +host\.kvm\n/);
    expect(shown.stdout).toMatch(/autostart: true → false\n +running: true → false/);
    expect(await ws.pending(["--experimental"])).toEqual({ "vm.box": "update autostart, running" });
    await ws.apply(["--experimental"]);
    expect(await virt.virsh("domstate", "vms-box")).toBe("running");
    expect(await ws.pending(["--experimental"])).toEqual({});
  });

  test("what cannot change live restarts them, and the plan says so", async () => {
    lab({ memory: "320MiB" });
    const plan = await ws.plan(["--experimental"], 2);
    const action = plan.actions.find((one) => one.address === "vm.box");
    expect(action?.changes.find((one) => one.path === "memory.max")?.effect).toBe("restart");
    await ws.apply(["--experimental"]);
    expect(await virt.virsh("dominfo", "vms-box")).toMatch(/Max memory: +327680 KiB/);
    expect(await ws.pending(["--experimental"])).toEqual({});
  });

  test("libvirt that was killed: machines go on, and the next apply converges", async () => {
    await virt.kill();
    lab({ memory: "320MiB", running: false });
    const run = await ws.run(["apply", "--auto-approve", "--experimental"]);
    expect(run.code, run.output).toBe(5);
    await virt.start();
    await ws.apply(["--experimental"]);
    expect(await virt.virsh("domstate", "vms-box")).toBe("shut off");
    expect(await ws.pending(["--experimental"])).toEqual({});
  });

  test("destroy leaves nothing", async () => {
    await ws.destroy(["--experimental"]);
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
    expect(await virt.run("sh", "-c", "ls -A /var/lib/libvirt/images /var/lib/libvirt/labctl/vms")).not.toContain(
      "vms-box",
    );
  });
});
