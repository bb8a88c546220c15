/** Networks, volumes and machines on a real libvirtd; what is changed behind labctl's back is changed with virsh and qemu-img. */
import { afterAll, beforeAll, describe, test } from "vitest";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { networkKind } from "../../providers/libvirt/network.ts";
import { vmKind } from "../../providers/libvirt/vm.ts";
import { volumeKind } from "../../providers/libvirt/volume.ts";
import type { Inventory, Kind, Machine } from "../../src/index.ts";
import { conformance, type ConformanceCase, type World } from "../../src/testing/index.ts";
import { createMachinePool, type MachinePool } from "../../src/transport/index.ts";
import { libvirtdUnavailable, startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

const why = libvirtdUnavailable();
const IMAGES = "/var/lib/libvirt/images";

let virt: TestLibvirtd;
let pool: MachinePool;
let machine: Machine;
let root: string;

const sh = (script: string): Promise<string> =>
  virt.run("sh", "-c", `export LIBVIRT_DEFAULT_URI=qemu:///system; ${script}`);
const inside = (script: string) => (): Promise<string> => sh(script);
const doing = (script: string) => async (): Promise<void> => {
  await sh(script);
};

/** What the machines under test refer to: their host, a volume and a network that stand there before them. */
const entries = [
  { address: "host.kvm", kind: "host", desired: { name: "kvm" } },
  { address: "host.kvm/qemu_host", kind: "qemu_host", parent: "host.kvm", desired: {} },
  { address: "volume.base", kind: "volume", desired: { name: "base", host: "kvm" } },
  { address: "volume.cd", kind: "volume", desired: { name: "cd", host: "kvm", format: "raw" } },
  { address: "network.lan", kind: "network", desired: { name: "lan", host: "kvm" } },
];
const inventory: Inventory = {
  all: (kind) => entries.filter((one) => one.kind === kind),
  get: (address) => entries.find((one) => one.address === address),
};

/** Another definition: what libvirt has, through sed. */
const redefine = (what: "net-" | "", name: string, edit: string) =>
  doing(
    `virsh -q ${what}dumpxml --inactive ${name} >/tmp/was.xml && sed -E ${edit} /tmp/was.xml >/tmp/is.xml && ! cmp -s /tmp/was.xml /tmp/is.xml && virsh -q ${what}define /tmp/is.xml`,
  );
const net = (edit: string) => redefine("net-", "test-net", edit);
const dom = (edit: string) => redefine("", "test-m", edit);

const NETWORK = {
  name: "net",
  host: "kvm",
  cidr: "192.168.150.0/24",
  dhcp: { start: "192.168.150.2", end: "192.168.150.99" },
  bridge: "virbr-t",
  mtu: 1400,
  dns: { domain: "lab.test", forwarders: ["192.0.2.53"], hosts: { mirror: "192.168.150.1" } },
  hosts: { board: { mac: "52:54:00:00:00:01", address: "192.168.150.20" } },
};
const NET_GONE = "virsh -q net-destroy test-net 2>/dev/null; virsh -q net-undefine test-net 2>/dev/null; :";

const VOL = `${IMAGES}/test-data.qcow2`;
const VOL_GONE = `rm -f ${IMAGES}/test-data.*; virsh -q pool-refresh default >/dev/null; :`;

const MACHINE = {
  name: "m",
  host: "kvm",
  machine: "q35",
  cpus: { count: 1, max: 2 },
  memory: { size: "64MiB", max: "128MiB" },
  disks: [
    { volume: "base", cache: "none", serial: "root", boot: 1 },
    { size: "16MiB", target: "vdb", discard: true },
    { volume: "cd", device: "cdrom", bus: "sata", target: "sda", readonly: true },
  ],
  networks: [
    { network: "lan", mac: "52:54:00:00:00:11" },
    { user: true, mac: "52:54:00:00:00:12" },
  ],
  running: false,
};
const VM_GONE = `virsh -q destroy test-m 2>/dev/null; virsh -q undefine test-m 2>/dev/null; rm -rf ${IMAGES}/test-m-* /var/lib/labctl/vms/*; virsh -q pool-refresh default >/dev/null; :`;
const VM_SEEN = `virsh -q list --all --name; virsh -q list --all --autostart --name; virsh -q dumpxml --inactive test-m 2>/dev/null; ls -A ${IMAGES} /var/lib/labctl/vms 2>/dev/null; :`;

const cases: readonly (readonly [Kind, ConformanceCase])[] = [
  [
    networkKind,
    {
      name: "a network that labctl makes",
      key: "net",
      desired: NETWORK,
      changed: { ...NETWORK, dns: { domain: "lab.test" }, mtu: 1300, autostart: false },
      teardown: doing(NET_GONE),
      snapshot: inside(
        "virsh -q net-list --all | sort; virsh -q net-dumpxml --inactive test-net 2>/dev/null; ls /sys/class/net",
      ),
      interruptions: 4,
      tamper: {
        forward: net(
          `"/<port start/d; /<.?nat>/d; /<.forward>/d; s/<forward mode='nat'.*>/<forward mode='route'\\/>/"`,
        ),
        bridge: net(`"s/virbr-t/virbr-x/"`),
        "cidr,dns.hosts.mirror,hosts.board.address": net(`"s/192\\.168\\.150\\./192.168.151./g"`),
        gateway: net(`"s/ip address='192\\.168\\.150\\.1'/ip address='192.168.150.254'/"`),
        dhcp: net(`"s/end='192\\.168\\.150\\.99'/end='192.168.150.98'/"`),
        mtu: net(`"s/size='1400'/size='1500'/"`),
        "dns.domain": net(`"s/lab\\.test/other.test/"`),
        "dns.forwarders": net(`"s/192\\.0\\.2\\.53/192.0.2.54/"`),
        "dns.hosts.rogue": doing(
          `virsh -q net-update test-net add dns-host "<host ip='192.168.150.9'><hostname>rogue</hostname></host>" --live --config`,
        ),
        "hosts.board.address": doing(
          `virsh -q net-update test-net modify ip-dhcp-host "<host mac='52:54:00:00:00:01' name='board' ip='192.168.150.21'/>" --live --config`,
        ),
        "hosts.board.mac": doing(
          `virsh -q net-update test-net delete ip-dhcp-host "<host mac='52:54:00:00:00:01'/>" --live --config; virsh -q net-update test-net add ip-dhcp-host "<host mac='52:54:00:00:00:02' name='board' ip='192.168.150.20'/>" --live --config`,
        ),
        autostart: doing("virsh -q net-autostart test-net --disable"),
        running: doing("virsh -q net-destroy test-net"),
        outdated: doing(
          `virsh -q net-update test-net add dns-host "<host ip='192.168.150.9'><hostname>rogue</hostname></host>" --live`,
        ),
      },
      remove: doing(NET_GONE),
    },
  ],
  [
    volumeKind,
    {
      name: "a volume that labctl makes",
      key: "data",
      desired: { name: "data", host: "kvm", size: "8MiB", backing: "base" },
      teardown: doing(VOL_GONE),
      snapshot: inside(`virsh -q pool-list --all --name; ls -A ${IMAGES}; qemu-img info ${VOL} 2>/dev/null; :`),
      tamper: {
        size: doing(`qemu-img resize -q --shrink ${VOL} 6M && virsh -q pool-refresh default`),
        backing: doing(`qemu-img rebase -q -u -b ${IMAGES}/test-cd.img -F raw ${VOL} && virsh -q pool-refresh default`),
        "backing,format": doing(`rm ${VOL} && qemu-img create -q -f raw ${VOL} 8M && virsh -q pool-refresh default`),
        owned: doing(`rm ${VOL}.labctl`),
        active: doing("virsh -q pool-destroy default"),
      },
      remove: doing(`rm ${VOL}`),
    },
  ],
  [
    vmKind,
    {
      name: "a machine that is off",
      key: "m",
      desired: MACHINE,
      changed: { ...MACHINE, cpus: 2, memory: "96MiB", autostart: true, networks: [{ user: true }] },
      teardown: doing(VM_GONE),
      snapshot: inside(VM_SEEN),
      interruptions: 4,
      tamper: {
        "cpus.count": doing("virsh -q setvcpus test-m 2 --config"),
        "cpus.max": dom(`"s/(<vcpu .*)>2</\\1>4</"`),
        "memory.size": doing("virsh -q setmem test-m 96MiB --config"),
        "memory.max": doing("virsh -q setmaxmem test-m 256MiB --config"),
        hugepages: dom(`"s/<vcpu /<memoryBacking><hugepages\\/><\\/memoryBacking><vcpu /"`),
        autostart: doing("virsh -q autostart test-m"),
        "disks.0.cache": dom(`"s/cache='none'/cache='writeback'/"`),
        "disks.0.serial": dom(`"s/<serial>root</<serial>other</"`),
        "disks.0.boot": dom(`"s/<boot order='1'/<boot order='2'/"`),
        "disks.1.discard": dom(`"s/ discard='unmap'//"`),
        "disks.1.size": doing(
          `qemu-img resize -q --shrink ${IMAGES}/test-m-vdb.qcow2 8M; virsh -q pool-refresh default`,
        ),
        "disks.1": doing("virsh -q detach-disk test-m vdb --config"),
        "disks.2.source": doing("virsh -q change-media test-m sda --eject --config"),
        "disks.3": doing(`virsh -q attach-disk test-m ${IMAGES}/test-cd.img vdc --config`),
        "networks.0.network": dom(`"s/network='test-lan'/network='another'/"`),
        "networks.0.model": dom(`"/:11'/,/<.interface>/s/type='virtio'/type='e1000'/"`),
        "networks.0.link": doing("virsh -q domif-setlink test-m 52:54:00:00:00:11 down --config"),
        "networks.1": doing("virsh -q detach-interface test-m user --mac 52:54:00:00:00:12 --config"),
        "console.log": dom(`"/<log file/d"`),
        rng: dom(`"/<rng/,/<.rng>/d"`),
        watchdog: dom(`"s/<.devices>/<watchdog model='i6300esb' action='reset'\\/>&/"`),
        vsock: dom(`"s/<.devices>/<vsock model='virtio'><cid auto='yes'\\/><\\/vsock>&/"`),
        "cpus.model": dom(
          `"s/<cpu mode='maximum'/<cpu mode='custom' match='exact'/; s/(<cpu mode='custom'[^>]*)\\/>/\\1><model>qemu64<\\/model><\\/cpu>/"`,
        ),
      },
      remove: doing("virsh -q undefine test-m"),
    },
  ],
];

/** No system boots in it, and what is changed here does not need one. */
const running: ConformanceCase = {
  name: "a machine that runs",
  key: "m",
  desired: { ...MACHINE, networks: [{ user: true, mac: "52:54:00:00:00:12" }], running: true },
  teardown: doing(VM_GONE),
  snapshot: inside(VM_SEEN),
  tamper: {
    running: doing("virsh -q destroy test-m"),
    autostart: doing("virsh -q autostart test-m"),
    "networks.0.link": doing("virsh -q domif-setlink test-m 52:54:00:00:00:12 down"),
    "disks.2.source": doing("virsh -q change-media test-m sda --eject --live"),
    "disks.0.cache": dom(`"s/cache='none'/cache='writeback'/"`),
    rng: dom(`"/<rng/,/<.rng>/d"`),
  },
};

beforeAll(async () => {
  virt = await startLibvirtd({ name: "kvm" });
  pool = createMachinePool({ env: virt.host.env });
  machine = pool.machine(virt.host.connection());
  root = mkdtempSync(join(tmpdir(), "labctl-conf-"));
  await sh(`mkdir -p /var/lib/labctl/vms /var/log/libvirt/qemu
    virsh -q pool-define-as default dir --target ${IMAGES} && virsh -q pool-start default
    qemu-img create -q -f qcow2 ${IMAGES}/test-base.qcow2 4M && qemu-img create -q -f raw ${IMAGES}/test-cd.img 1M
    echo '<network><name>test-lan</name></network>' >/tmp/lan.xml; virsh -q net-define /tmp/lan.xml
    virsh -q pool-refresh default`);
}, 120_000);
afterAll(async () => {
  await pool?.close();
  await virt?.stop();
  if (root !== undefined) rmSync(root, { recursive: true, force: true });
});

describe.skipIf(why !== undefined)("kinds of libvirt", { timeout: 120_000 }, () => {
  const world: World = {
    inventory,
    machine: () => machine,
    get root() {
      return root;
    },
  };
  for (const [kind, testCase] of cases) {
    for (const check of conformance(kind, world, testCase)) test(check.name, () => check.run());
  }
  // A machine without a system does not hear that it is to shut down: the checks that end it would wait for that.
  for (const check of conformance(vmKind, world, running)) {
    if (check.name.includes("truth of read")) test(check.name, () => check.run());
  }
});
