/** Machines on a real libvirtd, through the CLI: Debian's kernel really boots; what is there is asked of virsh and qemu-img. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BUTTON, CD, VIRTIO, VIRTIO_NET } from "../support/guest-modules.ts";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const MODULES = [
  ...VIRTIO,
  "drivers/block/virtio_blk.ko",
  ...VIRTIO_NET,
  ...CD,
  ...BUTTON,
  "drivers/virtio/virtio_balloon.ko",
];

/** Says that it is up, what its seed holds and which address it was given, and stays so until its power button is pressed. */
const INIT = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in ${MODULES.join(" ")}; do [ ! -e /modules/$module ] || insmod /modules/$module; done
mkdir /seed && mount -t iso9660 -o ro /dev/$(cd /sys/block; grep -l labctl-cidata */serial | cut -d/ -f1) /seed && cat /seed/user-data
printf '#!/bin/sh\n[ "$1" != bound ] || echo "labctl-test: given $ip"\n' >/given; chmod 755 /given
grep -q test.dhcp /proc/cmdline && ip link set eth0 up && udhcpc -i eth0 -n -q -s /given
busybox acpid -d &
echo "labctl-test: up $(uname -r)"
while :; do
  now="$(ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l) processors $(ls -d /sys/class/net/eth* | wc -l) cards $(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo) MiB"
  [ "$now" = "$before" ] || echo "labctl-test: has $now"; before=$now; sleep 1
done
`;

let virt: TestLibvirtd;
let ws: Workspace;
let boot: { readonly kernel: string; readonly initrd: string; readonly cmdline: string };
let release: string;

function lab(vm: object = {}, more: object = {}, qemu: object = {}): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "vms",
    hosts: { kvm: hostOf(virt.host, { qemu_host: qemu }) },
    networks: { test: { host: "kvm", cidr: "192.168.150.0/24" } },
    volumes: { base: { host: "kvm", source: "./base.qcow2" } },
    vms: {
      box: {
        host: "kvm",
        cpus: { count: 1, max: 2 },
        memory: "256MiB",
        disks: [{ volume: "base" }, { size: "8MiB", bus: "sata" }, { size: "8MiB" }],
        networks: ["test"],
        cloud_init: { user_data: "#cloud-config\n# seed of box\n" },
        boot,
        ...vm,
      },
      ...more,
    },
  });
}

/** What the guest itself saw that it has, at each change. */
async function had(): Promise<readonly (readonly [cpus: number, cards: number, memory: number])[]> {
  const log = await virt.run("cat", "/var/log/libvirt/qemu/vms-box-console.log");
  const seen = log.matchAll(/labctl-test: has (\d+) processors (\d+) cards (\d+) MiB/g);
  return [...seen].map(([, cpus, cards, memory]) => [Number(cpus), Number(cards), Number(memory)]);
}

/** Bytes that the machine has of its host, as others who look for room are told. */
async function leased(): Promise<number | undefined> {
  const { leases } = JSON.parse((await ws.run(["leases", "--json"])).stdout) as {
    leases: readonly { resource: string; amounts: { memory: number } }[];
  };
  return leases.find((one) => one.resource === "host.kvm")?.amounts.memory;
}

beforeAll(async () => {
  const [started, kernel] = await Promise.all([startLibvirtd(), debianKernel("x86_64")]);
  const files = MODULES.map((path) => [`modules/${path}`, readFileSync(join(kernel.modules, "kernel", path))] as const);
  const off = "#!/bin/sh\necho labctl-test: down >/dev/console\npoweroff -f\n";
  const initrd = await busyboxInitramfs({
    init: INIT,
    files: { ...Object.fromEntries(files), "etc/acpi/PWRF/00000080": off },
  });
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
    await ws.apply();
    expect(await virt.virsh("domstate", "vms-box")).toBe("running");
    const xml = await virt.virsh("dumpxml", "vms-box");
    expect(xml).toContain('address="vm.box"');
    expect(xml).toContain("<source network='vms-test'");
    expect(await virt.run("qemu-img", "info", "-U", "/var/lib/libvirt/images/vms-box-vda.qcow2")).toContain(
      "backing file: /var/lib/libvirt/images/vms-base.qcow2",
    );
    expect(await virt.run("qemu-img", "info", "-U", "/var/lib/libvirt/images/vms-box-sda.qcow2")).toContain("8 MiB");
    expect((await virt.virsh("domblklist", "vms-box")).split("\n")).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/vda +.*vms-box-vda/),
        expect.stringMatching(/sda +.*vms-box-sda/),
        expect.stringMatching(/vdb +.*vms-box-vdb/),
      ]),
    );
    await expect
      .poll(() => virt.run("cat", "/var/log/libvirt/qemu/vms-box-console.log"), { timeout: 90_000, interval: 1000 })
      .toContain(`labctl-test: up ${release}`);
    // The guest itself saw its seed.
    expect(await virt.run("cat", "/var/log/libvirt/qemu/vms-box-console.log")).toContain("# seed of box");
    expect(await ws.pending()).toEqual({});
  });

  test("one that stands still is not one that runs, and goes on", async () => {
    await virt.virsh("suspend", "vms-box");
    expect(await ws.pending()).toEqual({ "vm.box": "update paused" });
    const plan = await ws.run(["plan"]);
    expect(plan.output).toContain("a user");
    await ws.apply();
    expect(await virt.virsh("domstate", "vms-box")).toBe("running");
    expect(await ws.pending()).toEqual({});
  });

  test("one that libvirt would forget when it stops is defined again, and goes on", async () => {
    const pid = await virt.run("cat", "/run/libvirt/qemu/vms-box.pid");
    await virt.virsh("undefine", "vms-box");
    expect(await ws.pending()).toEqual({ "vm.box": "update transient" });
    await ws.apply();
    expect(await virt.virsh("dominfo", "vms-box")).toMatch(/Persistent: +yes/);
    expect(await virt.run("cat", "/run/libvirt/qemu/vms-box.pid")).toBe(pid);
    expect(await ws.pending()).toEqual({});
  });

  test("are plugged in again where their network was stopped behind labctl's back", async () => {
    const card = /^ *(vnet\d+)/m.exec(await virt.virsh("domiflist", "vms-box"))?.[1] ?? "";
    const master = (): Promise<string> => virt.run("sh", "-c", `readlink /sys/class/net/${card}/master || echo nobody`);
    const before = await master();
    await virt.virsh("net-destroy", "vms-test");
    expect(await master()).toBe("nobody");
    await ws.apply();
    expect(await master()).toBe(before);
  });

  test("what was saved of one that became another is not gone on with", async () => {
    await virt.virsh("managedsave", "vms-box");
    lab({ boot: { ...boot, cmdline: `${boot.cmdline} test.saved=1` } });
    await ws.apply();
    expect(await virt.virsh("dumpxml", "vms-box")).toContain("test.saved=1");
    lab();
    await ws.apply();
    expect(await ws.pending()).toEqual({});
  });

  test("an address changes while they run, is given back, and is missed when it is gone", async () => {
    const pid = await virt.run("cat", "/run/libvirt/qemu/vms-box.pid");
    lab({ networks: [{ network: "test", address: "192.168.150.77" }] });
    await ws.apply();
    lab({ networks: [{ network: "test", address: "192.168.150.78" }] });
    expect(await ws.pending()).toEqual({ "vm.box": "update networks.0.address" });
    await ws.apply();
    for (const state of [[], ["--inactive"]]) {
      const xml = await virt.virsh("net-dumpxml", "vms-test", ...state);
      expect(xml).toContain("ip='192.168.150.78'");
      expect(xml).not.toContain("192.168.150.77");
    }
    const mac = /([0-9a-f]{2}(:[0-9a-f]{2}){5})/.exec(await virt.virsh("domiflist", "vms-box"))?.[1] ?? "";
    const entry = `<host mac='${mac}' ip='192.168.150.78'/>`;
    await virt.virsh("net-update", "vms-test", "delete", "ip-dhcp-host", entry, "--live", "--config");
    expect(await ws.pending()).toEqual({ "vm.box": "update networks.0.address" });
    lab();
    await ws.apply();
    expect(await virt.virsh("net-dumpxml", "vms-test", "--inactive")).not.toContain("<host mac");
    expect(await virt.run("cat", "/run/libvirt/qemu/vms-box.pid")).toBe(pid);
    expect(await ws.pending()).toEqual({});
  });

  test("disks come and go while they run", async () => {
    const pid = await virt.run("cat", "/run/libvirt/qemu/vms-box.pid");
    const disks = [{ volume: "base" }, { size: "8MiB", bus: "sata" }, { size: "8MiB" }];
    lab({ disks: [...disks, { size: "12MiB", cache: "none", io: "native" }] });
    await ws.apply();
    expect(await virt.virsh("domblkinfo", "vms-box", "vdc")).toMatch(/Capacity: +12582912/);
    expect(await virt.virsh("dumpxml", "vms-box")).toMatch(/cache='none' io='native'/);
    lab();
    await ws.apply();
    await expect.poll(() => virt.virsh("domblklist", "vms-box"), { timeout: 20_000 }).not.toContain("vdc");
    expect(await virt.run("cat", "/run/libvirt/qemu/vms-box.pid")).toBe(pid);
    expect(await ws.pending()).toEqual({});
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

  test("change while they run, which the guest sees: processors, memory, cards, autostart", async () => {
    const pid = await virt.run("cat", "/run/libvirt/qemu/vms-box.pid");
    await expect.poll(had, { timeout: 30_000, interval: 500 }).not.toEqual([]);
    const [, , whole] = (await had()).at(-1) ?? [0, 0, 0];
    lab({
      cpus: { count: 2, max: 2 },
      memory: { size: "192MiB", max: "256MiB" },
      autostart: true,
      networks: ["test", { network: "test" }],
    });
    await ws.apply();
    expect(await virt.virsh("vcpucount", "vms-box", "--live", "--active")).toBe("2");
    expect((await virt.virsh("domiflist", "vms-box")).split("\n")).toHaveLength(2);
    await expect.poll(async () => (await had()).at(-1), { timeout: 30_000, interval: 500 }).toEqual([2, 2, whole - 64]);
    expect(await virt.run("cat", "/run/libvirt/qemu/vms-box.pid")).toBe(pid);
    expect(await ws.pending()).toEqual({});
  });

  test("what happens behind labctl's back is named, and mended", async () => {
    await virt.virsh("destroy", "vms-box");
    expect(await ws.pending()).toEqual({ "vm.box": "update running" });
    await virt.virsh("autostart", "--disable", "vms-box");
    const shown = await ws.run(["vm", "show", "box"]);
    expect(shown.stdout).toMatch(/^vm\.box\n {2}status +off\n {2}host +host\.kvm\n/);
    expect(shown.stdout).toMatch(/autostart: true → false\n +running: true → false/);
    expect(await ws.pending()).toEqual({ "vm.box": "update autostart, running" });
    await ws.apply();
    expect(await virt.virsh("domstate", "vms-box")).toBe("running");
    expect(await ws.pending()).toEqual({});
  });

  test("what cannot change live restarts them, and the plan says so", async () => {
    const { cmdline } = boot;
    lab({
      memory: "320MiB",
      networks: [{ network: "test", address: "192.168.150.77" }],
      boot: { ...boot, cmdline: `${cmdline} test.dhcp` },
    });
    const plan = await ws.plan([], 2);
    const action = plan.actions.find((one) => one.address === "vm.box");
    expect(action?.changes.find((one) => one.path === "memory.max")?.effect).toBe("restart");
    await ws.apply();
    expect(await virt.virsh("dominfo", "vms-box")).toMatch(/Max memory: +327680 KiB/);
    expect(await leased()).toBe(320 * 2 ** 20);
    // The guest itself was given the address that its card has.
    await expect
      .poll(() => virt.run("cat", "/var/log/libvirt/qemu/vms-box-console.log"), { timeout: 60_000, interval: 500 })
      .toContain("labctl-test: given 192.168.150.77");
    expect(await ws.pending()).toEqual({});
  });

  test("libvirt that was killed: machines go on, and the next apply converges", async () => {
    await virt.kill();
    lab({ memory: "320MiB", running: false });
    const run = await ws.run(["apply", "--auto-approve"]);
    expect(run.code, run.output).toBe(5);
    await virt.start();
    await ws.apply();
    expect(await virt.virsh("domstate", "vms-box")).toBe("shut off");
    expect(await ws.pending()).toEqual({});
  });

  test("give back what they no longer need, and grow no further than their host", async () => {
    lab({ memory: "200MiB", running: false });
    await ws.apply();
    expect(await leased()).toBe(200 * 2 ** 20);
    lab({ memory: "4000GiB", running: false });
    const plan = await ws.run(["plan"]);
    expect(plan.code, plan.output).toBe(8);
    expect(plan.output).toMatch(/E_NEVER_FITS[^]*3\.9 TiB of memory/);
    lab({ memory: "320MiB", running: false });
    await ws.apply();
    expect(await leased()).toBe(320 * 2 ** 20);
    expect(await ws.pending()).toEqual({});
  });

  test.each([
    ["more memory than the host has", { memory: "4000GiB" }, 8, "E_NEVER_FITS"],
    ["an address of another network", { networks: [{ network: "test", address: "10.9.8.7" }] }, 3, "E_SPEC_VALUE"],
    [
      "the address of another machine",
      { networks: [{ network: "test", address: "192.168.150.66" }] },
      3,
      "E_SPEC_VALUE",
    ],
    ["a part that nobody has tried", { vsock: 42 }, 3, "E_EXPERIMENTAL"],
  ])("a plan refuses %s", async (_what, more, code, name) => {
    const networks = [{ network: "test", address: "192.168.150.66" }];
    lab({ running: false, memory: "320MiB", networks }, { other: { host: "kvm", memory: "64MiB", boot, ...more } });
    const run = await ws.run(["plan"]);
    expect(run.output).toContain(name);
    expect(run.code, run.output).toBe(code);
    expect(await virt.virsh("list", "--all", "--name")).toBe("vms-box");
  });

  test("one more than the host takes waits for its turn, and is refused where it may not", async () => {
    lab({ running: false, memory: "320MiB" }, { other: { host: "kvm", memory: "64MiB", boot } }, { max_vms: 1 });
    const run = await ws.run(["apply", "--auto-approve", "--no-wait"]);
    expect(run.output).toContain("E_BUSY");
    expect(run.code, run.output).toBe(8);
    expect((await ws.run(["plan"])).output).toContain("vm.other");
    expect(await virt.virsh("list", "--all", "--name")).toBe("vms-box");
  });

  test("destroy leaves nothing", async () => {
    await ws.destroy();
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
    expect(await virt.virsh("net-list", "--all", "--name")).not.toContain("vms-test");
    expect(await virt.run("sh", "-c", "ls -A /var/lib/libvirt/images /var/lib/libvirt/labctl/vms")).not.toContain(
      "vms-box",
    );
  });
});
