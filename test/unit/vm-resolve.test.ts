import { describe, expect, test } from "vitest";
import { bridgeOf, macOf, objectName, shareTag, uuidOf } from "../../providers/libvirt/model/ids.ts";
import type { HostFacts } from "../../providers/libvirt/model/facts.ts";
import { firstBeyond } from "../../providers/libvirt/disk-limit.ts";
import { isOwn } from "../../providers/libvirt/model/owner.ts";
import { diskName, resolveVm, type VmContext } from "../../providers/libvirt/model/vm-resolve.ts";
import type { VmDesired } from "../../providers/libvirt/model/vm-schema.ts";

const MIB = 1024 ** 2;
const facts: HostFacts = {
  host: {
    arch: "x86_64",
    cpus: 4,
    memory: 8192 * MIB,
    pages: [],
    guests: [
      { arch: "x86_64", os: "hvm", emulator: "/usr/bin/qemu", types: ["qemu", "kvm"], machines: [] },
      { arch: "x86_64", os: "exe", emulator: "/usr/lib/lxc", types: ["lxc"], machines: [] },
    ],
  },
  kvm: false,
  domains: [],
};
const context: VmContext = {
  lab: "lab",
  address: "vm.a",
  instance_id: "i-1",
  lineage: "l-1",
  facts,
  disks: Array.from({ length: 30 }, (_, i) => ({ source: `/d${i}`, kind: "file", format: "qcow2" })),
  placed: (path) => `/placed/${path}`,
  network: (name) => (name === "none" ? undefined : `lab-${name}`),
};
const resolve = (desired: object, more: Partial<VmContext> = {}) =>
  resolveVm({ name: "a", ...desired } as VmDesired, { ...context, ...more });
const disks = (...list: readonly object[]) => ({ disks: list.map((one) => ({ size: "1GiB", ...one })) });

describe("machines from a spec", () => {
  test("the least: a name", () => {
    expect(resolve({})).toEqual({
      name: "lab-a",
      uuid: uuidOf("i-1"),
      owner: { lab: "lab", address: "vm.a", instance_id: "i-1", lineage: "l-1" },
      type: "vm",
      acceleration: "emulated",
      arch: "x86_64",
      machine: "q35",
      emulator: "/usr/bin/qemu",
      cpus: { count: 1, max: 1, model: "max" },
      memory: { size: 1024 * MIB, max: 1024 * MIB },
      disks: [],
      networks: [],
      shares: [],
      firmware: { type: "bios", secure_boot: false },
      console: { log: "/var/log/libvirt/qemu/lab-a-console.log" },
      rng: true,
      agent: false,
      tpm: false,
      autostart: false,
      running: true,
    });
  });

  test("a container has what a container has", () => {
    expect(resolve({ type: "container", container: { root: "/r" }, networks: ["n"], cpus: 2 })).toMatchObject({
      type: "container",
      acceleration: "none",
      machine: "",
      emulator: "/usr/lib/lxc",
      cpus: { count: 2, max: 2 },
      container: { root: "/r", init: "/sbin/init", args: [] },
      console: {},
      rng: false,
    });
  });

  test("names of disks: by place among those that share letters, passing over those that the spec gives", () => {
    const targets = (...list: readonly object[]) => resolve(disks(...list)).disks.map((disk) => disk.target);
    expect(targets({}, { bus: "scsi" }, {}, { bus: "sata" })).toEqual(["vda", "sda", "vdb", "sdb"]);
    expect(targets({ target: "vdb" }, {}, {})).toEqual(["vdb", "vda", "vdc"]);
    expect(targets(...Array.from({ length: 28 }, () => ({}))).slice(25)).toEqual(["vdz", "vdaa", "vdab"]);
    expect([0, 25, 26, 51, 52].map((n) => diskName("vd", n))).toEqual(["vda", "vdz", "vdaa", "vdaz", "vdba"]);
  });

  test("a card has the same address as long as the machine exists, and another one than every other card", () => {
    const macs = (id: string) =>
      resolve({ networks: ["a", "b", { user: true }] }, { instance_id: id }).networks.map((nic) => nic.mac);
    expect(macs("i-1")).toEqual(macs("i-1"));
    const all = Array.from({ length: 300 }, (_, i) => macs(`i-${i}`)).flat();
    expect(new Set(all).size).toBe(all.length);
    // Locally administered, unicast.
    for (const mac of all) expect(Number.parseInt(mac.slice(0, 2), 16) & 3).toBe(2);
  });

  test("what goes by itself: whole MiB, virtiofs where it is there, the clock of an emulated microvm", () => {
    expect(resolve({ memory: "1500000B" }).memory.size).toBe(2 * MIB);
    expect(resolve({ memory: { size: "1GiB", max: "2GiB" } }).memory).toEqual({ size: 1024 * MIB, max: 2048 * MIB });
    expect(resolve({ shares: [{ source: "/s", target: "/t" }] }).shares).toEqual([
      { source: "/s", target: "t", type: "9p", readonly: false },
    ]);
    expect(resolve({ cpus: { count: 2, sockets: 1, cores: 4, threads: 1 } }).cpus).toMatchObject({ count: 2, max: 4 });
    const boot = { kernel: "k", cmdline: "a" };
    const microvm = (mhz: number | undefined, more: object = {}) =>
      resolve({ machine: "microvm", boot, ...more }, { facts: { ...facts, ...(mhz !== undefined && { mhz }) } }).boot
        ?.cmdline;
    expect(microvm(2596)).toBe("a tsc_early_khz=2596000");
    expect(microvm(undefined)).toBe("a");
    expect(microvm(2596, { boot: { kernel: "k", cmdline: "tsc_early_khz=5" } })).toBe("tsc_early_khz=5");
    expect(microvm(2596, { acceleration: "kvm" })).toBe("a");
    expect(resolve({ boot }, { facts: { ...facts, mhz: 2596 } }).boot?.cmdline).toBe("a");
  });

  test.each([
    [{ cpus: { count: 4, max: 2 } }, /4 processors are more than the 2/],
    [{ cpus: { count: 1, max: 3, cores: 2 } }, /are 2 processors, not 3/],
    [{ memory: { size: "2GiB", max: "1GiB" } }, /more than the 1GiB/],
    [{ memory: "1kB" }, /no size of a memory/],
    [{ machine: "microvm" }, /no firmware that boots disks/],
    [{ firmware: { type: "bios", secure_boot: true } }, /only UEFI/],
    [{ container: { root: "/r" } }, /goes with `type: container`/],
    [{ type: "container" }, /needs `container:/],
    [
      { type: "container", container: { root: "/r" }, tpm: true, machine: "q35", vsock: 5 },
      /a container has no machine, tpm, vsock/,
    ],
    [{ disks: [{}] }, /needs a volume, an image, or a size/],
    [disks({ volume: "a", image: "./b" }), /both a volume and an image/],
    [disks({ device: "cdrom" }), /which virtio has not/],
    [disks({ io: "native", cache: "writeback" }), /needs `cache: none`/],
    [disks({ io: "native" }), /needs `cache: none`/],
    [disks({ target: "vda" }, { target: "vda" }), /two of the disk vda/],
    [disks({ boot: 1 }, { boot: 1 }), /two of the place in the order of booting 1/],
    [{ networks: ["none"] }, /there is no network none/],
    [{ networks: [{}] }, /needs one of/],
    [{ networks: [{ user: true, bridge: "br0" }] }, /needs one of/],
    [{ networks: [{ user: true, mtu: 1400 }] }, /has no `mtu` to set/],
    [{ networks: [{ user: true, address: "10.0.0.5" }] }, /one of `networks:` gives it/],
    [{ networks: [{ network: "a", address: "fd00::5" }] }, /one of IPv4/],
    [
      {
        networks: [
          { network: "a", mac: "52:54:00:00:00:01" },
          { network: "b", mac: "52:54:00:00:00:01" },
        ],
      },
      /two of the network card/,
    ],
    [{ shares: [{ source: "s", target: "/t" }] }, /no absolute path/],
    [
      {
        shares: [
          { source: "/s", target: "/t" },
          { source: "/u", target: "/t" },
        ],
      },
      /two of the share t/,
    ],
  ])("%j is E_SPEC_VALUE", (desired, message) => {
    expect(() => resolve(desired)).toThrow(message);
    expect(() => resolve(desired)).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE", address: "vm.a" }));
  });

  test("two disks on one file that is written to would ruin it", () => {
    const same = {
      disks: [
        { source: "/x", kind: "file" as const, format: "raw" },
        { source: "/x", kind: "file" as const, format: "raw" },
      ],
    };
    expect(() => resolve(disks({}, {}), same)).toThrow(/two of the disk on \/x/);
    expect(() => resolve(disks({ readonly: true }, { readonly: true }), same)).not.toThrow();
  });
});

describe("ids", () => {
  test("a UUID is of version 5, the same for the same instance, another for each part", () => {
    expect(uuidOf("a")).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(uuidOf("a")).toBe(uuidOf("a"));
    expect(new Set([uuidOf("a"), uuidOf("b"), uuidOf("a", "x"), uuidOf("a\0x")]).size).toBe(4);
    expect(macOf("a", 0)).not.toBe(macOf("a", 1));
  });

  test("a bridge fits into the name of an interface; names say whose they are", () => {
    expect(bridgeOf("i")).toMatch(/^lab-[0-9a-f]{10}$/);
    expect(bridgeOf("i").length).toBeLessThanOrEqual(15);
    expect(objectName("kernel-lab", "scratch")).toBe("kernel-lab-scratch");
    expect(isOwn({ lab: "l", address: "a", instance_id: "i", lineage: "x" }, "i")).toBe(true);
    expect(isOwn({ lab: "l", address: "a", instance_id: "j", lineage: "x" }, "i")).toBe(false);
    expect(isOwn(undefined, "i")).toBe(false);
  });

  test("a mount tag fits into 9p's 31 bytes, and two folders never share one", () => {
    const folders = [
      "/mnt/src",
      "/mnt-src",
      "/mnt/src/",
      "/mnt/a b",
      "/mnt/ä",
      "/mnt/ö",
      `/${"x".repeat(200)}`,
      `/${"x".repeat(201)}`,
      "/",
    ];
    const tags = folders.map(shareTag);
    expect(tags[0]).toBe("mnt-src");
    expect(new Set(tags).size).toBe(folders.length);
    for (const tag of tags) expect(tag).toMatch(/^[A-Za-z0-9-]{1,31}$/);
  });
});

describe("the lab's limit of disk", () => {
  const demand = (address: string, bytes: number): { address: string; bytes: number } => ({ address, bytes });
  test("is of all together, and the one that goes beyond it is named", () => {
    const all = [demand("volume.a", 10), demand("volume.b", 0), demand("vm.c", 5), demand("vm.d", 1)];
    expect(firstBeyond(16, all)).toBeUndefined();
    expect(firstBeyond(15, all)).toEqual(demand("vm.d", 1));
    expect(firstBeyond(14, all)).toEqual(demand("vm.c", 5));
    expect(firstBeyond(9, all)).toEqual(demand("volume.a", 10));
    expect(firstBeyond(0, [])).toBeUndefined();
  });
});
