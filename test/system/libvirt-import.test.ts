/** What was on a real libvirtd before labctl came: taken over by its name or its UUID, kept as it is, and given back. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const NETWORK = `<network><name>default</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.100' end='192.168.122.200'/></dhcp></ip></network>`;
const UUID = "5b1f5d9e-2f4c-4c0e-9e0a-0c6f3a6f7b11";
const MAC = "52:54:00:aa:bb:cc";
const DISK = "/var/lib/libvirt/images/theirs.qcow2";
const MACHINE = `<domain type='qemu'><name>theirs</name><uuid>${UUID}</uuid><description>of somebody else</description>
<memory unit='MiB'>128</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${DISK}'/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><mac address='${MAC}'/><source network='default'/><model type='virtio'/></interface>
<serial type='pty'/><graphics type='vnc' port='5999' autoport='no' passwd='hunter2'/><video><model type='vga'/></video></devices></domain>`;

let virt: TestLibvirtd;
let ws: Workspace;

function lab(more: object): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "old",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) },
    networks: { test: { host: "kvm", cidr: "192.168.122.0/24", bridge: "virbr7" } },
    ...more,
  });
}

const BOX = { host: "kvm", memory: "128MiB", running: false, disks: [{ size: "8MiB" }], networks: ["test"] };

async function define(command: string, xml: string): Promise<void> {
  await virt.run("sh", "-c", `cat >/tmp/definition.xml <<'END'\n${xml}\nEND`);
  await virt.virsh(command, "/tmp/definition.xml");
}

async function definitions(): Promise<readonly string[]> {
  return [
    await virt.virsh("net-dumpxml", "--inactive", "default"),
    await virt.virsh("dumpxml", "--inactive", "theirs"),
    await virt.run("sh", "-c", "ls /var/lib/libvirt/images"),
  ];
}

let before: readonly string[];

/** What goes from the lab stays on its host, as it was; libvirt numbers places on buses as it likes. */
async function leaves(): Promise<void> {
  await ws.destroy();
  const ours = (text: string): string[] =>
    text.split("\n").filter((line) => !/^ *<(controller|address|input|audio|memballoon|\/)/.test(line));
  expect((await definitions()).map(ours)).toEqual(before.map(ours));
  expect(await virt.virsh("net-info", "default")).toMatch(/Active: +yes\s+Persistent: +yes\s+Autostart: +no/);
}

beforeAll(async () => {
  virt = await startLibvirtd();
  ws = createWorkspace();
  await define("net-define", NETWORK);
  await virt.virsh("net-start", "default");
  await virt.run("qemu-img", "create", "-q", "-f", "qcow2", DISK, "8M");
  await define("define", MACHINE);
  before = await definitions();
}, 120_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

describe("what was there before labctl", { timeout: 120_000 }, () => {
  test("an id that nothing has, or that is not its kind's, is refused: nothing is made in its place", async () => {
    lab({ import: { "network.test": "defualt" } });
    for (const command of ["plan", "apply"]) {
      const run = await ws.run([command, ...(command === "apply" ? ["--auto-approve"] : [])]);
      expect(run.code, run.output).toBe(3);
      expect(run.output).toContain('cannot import network.test: there is no "defualt"');
      expect(run.output).toContain("its name or its UUID in libvirt");
    }
    const blind = await ws.run(["plan", "--no-refresh"]);
    expect(blind.code, blind.output).toBe(3);
    expect(blind.output).toContain("leave out --no-refresh");
    lab({ volumes: { mine: { host: "kvm", size: "1MiB" } } });
    const volume = await ws.run(["import", "volume.mine", "theirs.qcow2", "--auto-approve"]);
    expect(volume.code, volume.output).toBe(3);
    expect(volume.output).toContain('a volume is known by "mine"');
    expect(await definitions()).toEqual(before);
  });

  test("a network is taken over by its name, and machines are put on it under that name", async () => {
    lab({ import: { "network.test": "default" } });
    const plan = await ws.plan([], 2);
    expect(plan.actions.find((one) => one.address === "network.test")).toMatchObject({
      action: "update",
      reason: { code: "imported" },
      import_id: "default",
    });
    await ws.apply();
    expect(await virt.virsh("net-list", "--all", "--name")).toBe("default");
    const xml = await virt.virsh("net-dumpxml", "default");
    expect(xml).toContain("<range start='192.168.122.2' end='192.168.122.254'/>");
    expect(xml).toContain('address="network.test"');
    // The import stays in the spec, and says nothing more.
    expect(await ws.pending()).toEqual({});
    lab({ import: { "network.test": "default" }, vms: { new: { ...BOX, disks: [], memory: "64MiB" } } });
    await ws.apply();
    expect(await virt.virsh("dumpxml", "old-new")).toContain("<source network='default'/>");
    await leaves();
  });

  test("a machine is taken over by its UUID: its name, disk, card and display stay", async () => {
    lab({ import: { "network.test": "default" }, vms: { box: BOX } });
    const shown = await ws.run(["import", "vm.box", UUID.toUpperCase(), "--auto-approve"]);
    expect(shown.code, shown.output).toBe(0);
    expect(await virt.virsh("list", "--all", "--name")).toBe("theirs");
    const xml = await virt.virsh("dumpxml", "--inactive", "--security-info", "theirs");
    for (const kept of [UUID, MAC, DISK, "passwd='hunter2'", "<model type='vga'"]) expect(xml).toContain(kept);
    expect(xml).toContain('address="vm.box"');
    expect(await virt.run("sh", "-c", "ls /var/lib/libvirt/images")).toBe(before[2]);
    for (const [name, text] of ws.files()) expect(text, name).not.toContain("hunter2");
    expect(await ws.pending()).not.toHaveProperty(["vm.box"]);
    lab({
      import: { "network.test": "default" },
      vms: { box: { ...BOX, memory: "192MiB", disks: [{ size: "16MiB" }] } },
    });
    await ws.apply();
    expect(await virt.virsh("dumpxml", "theirs")).toContain("<memory unit='KiB'>196608</memory>");
    expect(await virt.run("qemu-img", "info", DISK)).toContain("16 MiB");
    await virt.virsh("setmaxmem", "theirs", "131072", "--config");
    expect(Object.keys(await ws.pending())).toEqual(["vm.box"]);
    await ws.apply();
    await leaves();
  });
});
