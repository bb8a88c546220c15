import { describe, expect, test } from "vitest";
import { uuidOf } from "../../providers/libvirt/model/ids.ts";
import { domainCapabilities, readAnswers } from "../../providers/libvirt/plain/capabilities.ts";
import { filesOf, formatDefinition, parseDefinition, requireOwn } from "../../providers/libvirt/plain/definition.ts";
import { readImages } from "../../providers/libvirt/plain/disks.ts";
import { readProbe } from "../../providers/libvirt/plain/host.ts";
import { observed } from "../../providers/libvirt/plain/look.ts";
import { readMachines } from "../../providers/libvirt/plain/machines.ts";
import { forwardedPort, readMonitored } from "../../providers/libvirt/plain/monitor.ts";
import { forwardPorts } from "../../providers/libvirt/plain/power.ts";
import { readProcesses } from "../../providers/libvirt/plain/process.ts";
import { neighbourOf } from "../../providers/libvirt/plain/reach.ts";
import { needsLibvirt } from "../../providers/libvirt/plain/support.ts";
import { qemuArgv } from "../../providers/libvirt/model/qemu-argv.ts";
import type { VmDesired } from "../../providers/libvirt/model/vm-schema.ts";
import { changesOf } from "../../providers/libvirt/vm-model.ts";
import { type MadeWith, wantedVm } from "../../providers/libvirt/vm-place.ts";

const MIB = 1024 ** 2;
const base64 = (text: string): string => Buffer.from(text).toString("base64");

/** As QEMU 7.2 of Debian 12 answers, shortened. */
const ANSWERS = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}
{"return": {}}
{"return": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "id": "version"}
{"return": [{"hotpluggable-cpus": true, "name": "pc-q35-7.2", "cpu-max": 288, "alias": "q35"}, {"name": "microvm", "cpu-max": 288}], "id": "machines"}
{"return": [{"name": "max"}, {"name": "host"}, {"name": "qemu64"}], "id": "cpus"}
{"return": [{"name": "virtio-blk-pci"}, {"name": "ich9-ahci"}, {"name": "virtio-rng-pci"}], "id": "devices"}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": false}}
`;

describe("what a host without libvirt says of itself", () => {
  test("processors, memory, and each QEMU", () => {
    const probed = readProbe(`uid 1000
home /home/lab tester
machine x86_64
cpus 8
memory 16384
mhz  2600.123
pages /sys/kernel/mm/hugepages/hugepages-2048kB 3
images
qemu x86_64 /usr/bin/qemu-system-x86_64 7.2.22
answers x86_64 ${base64(ANSWERS)}
qemu arm64 /usr/bin/qemu-system-aarch64 7.2.22
`);
    expect(probed).toMatchObject({
      uid: 1000,
      home: "/home/lab tester",
      arch: "x86_64",
      cpus: 8,
      memory: 16 * MIB,
      mhz: 2600,
      images: true,
      pages: [{ size: 2 * MIB, count: 3 }],
    });
    expect(probed.qemus.map((one) => [one.arch, one.version, one.answers?.version])).toEqual([
      ["x86_64", "7.2.22", "7.2.22"],
      ["arm64", "7.2.22", undefined],
    ]);
    expect(probed.qemus[0]?.answers?.machines).toEqual([
      { name: "pc-q35-7.2", canonical: "pc-q35-7.2", max_cpus: 288 },
      { name: "q35", canonical: "pc-q35-7.2", max_cpus: 288 },
      { name: "microvm", canonical: "microvm", max_cpus: 288 },
    ]);
  });

  test("only what QEMU has by itself, without firmware or helpers beside it", () => {
    const answers = readAnswers(ANSWERS);
    if (answers === undefined) throw new Error("?");
    expect(domainCapabilities("x86_64", "/q", undefined, answers, false)).toMatchObject({
      type: "qemu",
      machine: "pc-q35-7.2",
      cpu_modes: ["maximum", "custom"],
      cpu_models: ["max", "qemu64"],
      disk_buses: ["virtio", "sata"],
      uefi: false,
      tpm_backends: [],
      rng: true,
      vsock: false,
    });
    expect(domainCapabilities("x86_64", "/q", "q35", answers, true).cpu_modes).toContain("host-passthrough");
  });

  test("an answer that was cut off is none", () => {
    expect(readAnswers(ANSWERS.slice(0, 200))).toBeUndefined();
    expect(readAnswers("")).toBeUndefined();
  });

  test("machines of all labs, and which of them run", () => {
    const [one, two] = ["i-1", "i-2"].map((id) =>
      formatDefinition({ ...OWNER, instance_id: id }, { ...model(), uuid: uuidOf(id) }),
    );
    const text = `machine ${base64(one ?? "")}\nmachine ${base64(two ?? "")}\nmachine ${base64("{}")}\nargv ${base64(`q\0-uuid\0${uuidOf("i-2")}\0`)}\n`;
    expect(readMachines(text)).toEqual([
      { uuid: uuidOf("i-1"), cpus: 1, memory: 256 * MIB, running: false },
      { uuid: uuidOf("i-2"), cpus: 1, memory: 256 * MIB, running: true },
    ]);
  });
});

const OWNER = { lab: "lab", address: "vm.a", instance_id: "i-1", lineage: "l" };
const FILES = filesOf("/var/lib/labctl/vms", "i-1");
const LAYER = `${FILES.folder}/vda.qcow2`;
const DESIRED = {
  name: "a",
  memory: { size: "128MiB", max: "256MiB" },
  disks: [{ size: "8MiB" }],
  networks: [{ user: true }],
} as VmDesired;
const MADE: MadeWith = {
  lab: "lab",
  address: "vm.a",
  instance_id: "i-1",
  lineage: "l",
  facts: {
    host: {
      arch: "x86_64",
      cpus: 2,
      memory: 2 ** 34,
      pages: [],
      guests: [{ arch: "x86_64", os: "hvm", emulator: "/usr/bin/qemu-system-x86_64", types: ["qemu"], machines: [] }],
    },
    kvm: false,
    domains: [],
  },
  disks: [{ source: LAYER, kind: "file", format: "qcow2", size: 8 * MIB }],
  files: {},
  networks: {},
  folder: FILES.folder,
};

function model() {
  return wantedVm(DESIRED, MADE);
}

describe("a machine's folder", () => {
  test("says whose it is, and a damaged one is nobody's", () => {
    const text = formatDefinition(OWNER, model());
    expect(parseDefinition(text)).toEqual({ format: 1, owner: OWNER, model: model() });
    expect(requireOwn("vm.a", "host.a", FILES, text, "i-1").owner).toEqual(OWNER);
    for (const bad of ["", "{", "null", "[]", text.slice(0, -20), text.replace('"format": 1', '"format": 2')]) {
      expect(parseDefinition(bad)).toBeUndefined();
      expect(() => requireOwn("vm.a", "host.a", FILES, bad, "i-1")).toThrow(
        expect.objectContaining({ code: "E_NOT_OWNED", message: expect.stringContaining("nobody says whose it is") }),
      );
    }
    const theirs = formatDefinition({ ...OWNER, lab: "other", instance_id: "i-2" }, model());
    expect(() => requireOwn("vm.a", "host.a", FILES, theirs, "i-1")).toThrow(/it is vm\.a of the lab other/);
  });

  test("its console is recorded there", () => {
    expect(model().console.log).toBe(`${FILES.folder}/console.log`);
  });
});

describe("what is there of a machine", () => {
  const uuid = uuidOf("i-1");
  const argv = (wanted = model()): string[] => {
    const { program, args } = qemuArgv(wanted, {
      qmp: FILES.qmp,
      console: FILES.console,
      forward: { port: 20_022, guest: 22 },
    });
    return [program, ...args, "-daemonize", "-pidfile", FILES.pid];
  };
  const said = (more: object = {}) =>
    readMonitored({
      uuid: { UUID: uuid },
      status: "running",
      cpus: [{}],
      memory: { "base-memory": 256 * MIB, "plugged-memory": 0 },
      balloon: { actual: 128 * MIB },
      blocks: [
        {
          device: "",
          qdev: "x",
          inserted: {
            "node-name": "vda",
            drv: "qcow2",
            ro: false,
            image: { filename: LAYER, "virtual-size": 8 * MIB },
          },
        },
        { device: "cd0" },
      ],
      usernet: "",
      ...more,
    });
  const found = {
    processes: [{ pid: 7, argv: argv() }],
    images: new Map([[LAYER, { format: "qcow2", size: 8 * MIB }]]),
    open: new Set([LAYER]),
  };
  const definition = { format: 1 as const, owner: OWNER, model: model() };
  const paths = (seen: Parameters<typeof observed>): (string | undefined)[][] =>
    changesOf(DESIRED, observed(...seen)).map((one) => [one.path, one.effect]);

  test("what runs as it was asked for has nothing to change; what does not run, that alone", () => {
    expect(paths([definition, found, said(), model(), MADE])).toEqual([]);
    expect(paths([definition, { ...found, processes: [] }, undefined, model(), MADE])).toEqual([["running", "live"]]);
    expect(paths([definition, found, said({ status: "paused" }), model(), MADE])).toEqual([["running", "live"]]);
  });

  test("a guest that has not filled its balloon yet is no drift", () => {
    const value = observed(definition, found, said({ balloon: { actual: 256 * MIB } }), model(), MADE);
    expect(changesOf(DESIRED, value)).toEqual([]);
    expect(value.memory).toEqual({ size: 128 * MIB, max: 256 * MIB });
  });

  test("another command line, another definition, another file: each by its name", () => {
    const rng = { ...found, processes: [{ pid: 7, argv: argv({ ...model(), rng: false }) }] };
    expect(paths([definition, rng, said(), model(), MADE])).toEqual([["rng", "restart"]]);
    const defined = { ...definition, model: { ...model(), rng: false } };
    expect(paths([defined, found, said(), model(), MADE])).toEqual([["rng", "live"]]);
    expect(paths([definition, { ...found, open: new Set<string>() }, said(), model(), MADE])).toEqual([
      ["disks.0.source", "restart"],
    ]);
    const gone = { ...found, processes: [], images: new Map() };
    expect(paths([definition, gone, undefined, model(), MADE])).toEqual([
      ["disks.0.size", "live"],
      ["disks.0.source", "live"],
      ["running", "live"],
    ]);
  });

  test("fewer changes are live than with libvirt: nobody plugs devices", () => {
    const value = observed(definition, found, said(), model(), MADE);
    const change = (desired: object): (string | undefined)[][] =>
      changesOf({ ...DESIRED, ...desired }, value).map((one) => [one.path, one.effect]);
    expect(change({ memory: { size: "192MiB", max: "256MiB" } })).toEqual([["memory.size", "live"]]);
    expect(change({ networks: [{ user: true }, { user: true }] })).toEqual([["networks.1", "restart"]]);
  });

  test("QEMUs are known by their uuid, and only QEMUs", () => {
    const line = (pid: number, words: readonly string[]): string =>
      `pid ${pid} ${base64(words.map((one) => `${one}\0`).join(""))}`;
    const text = [
      line(10, argv()),
      line(11, ["/usr/bin/sleep", "-uuid", uuid]),
      line(12, ["/usr/bin/qemu-system-arm", "-name", uuid]),
      line(13, ["/usr/bin/qemu-system-arm", "-uuid", uuidOf("i-2"), uuid]),
    ].join("\n");
    expect(readProcesses(text, uuid).map((one) => one.pid)).toEqual([10]);
  });

  test("files of disks: there, damaged, or not", () => {
    const info = JSON.stringify({ format: "qcow2", "virtual-size": 4096, "backing-filename": "/base" });
    expect([...readImages(`image ${base64("/a b")} ${base64(info)}\nimage ${base64("/c")} \n`)]).toEqual([
      ["/a b", { format: "qcow2", size: 4096, backing: "/base" }],
      ["/c", undefined],
    ]);
  });
});

describe("the way to a machine", () => {
  /** QEMU 7.2. */
  const USERNET = `Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   21       127.0.0.1 22222       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1 20022       10.0.2.15    22     0     0
  UDP[236 sec]       33       10.0.2.15   123         8.8.8.8   123     0     0
`;
  test("is the port that QEMU forwards", () => {
    expect(forwardedPort(USERNET, 22)).toBe(20_022);
    expect(forwardedPort(USERNET, 2222)).toBeUndefined();
    expect(forwardedPort("", 22)).toBeUndefined();
  });

  test("is tried at the same ports each time, below those that Linux gives out itself", () => {
    const ports = forwardPorts("i-1");
    expect(forwardPorts("i-1")).toEqual(ports);
    expect(forwardPorts("i-2")).not.toEqual(ports);
    expect(ports.at(-1)).toBe(0);
    for (const port of ports.slice(0, -1)) expect(port).toSatisfy((one: number) => one >= 20_000 && one < 32_768);
  });

  test("is the address that neighbours on a bridge know", () => {
    const text = `192.168.1.9 dev br0 lladdr 52:54:00:00:00:01 STALE
192.168.1.8 dev br0 lladdr 52:54:00:00:00:02 REACHABLE
192.168.1.7 dev br0  FAILED
fe80::1 dev br0 lladdr 52:54:00:00:00:03 STALE
fd00::7 dev br0 lladdr 52:54:00:00:00:03 STALE
`;
    expect(neighbourOf(text, ["52:54:00:00:00:02"])).toBe("192.168.1.8");
    expect(neighbourOf(text, ["52:54:00:00:00:03"])).toBe("fd00::7");
    expect(neighbourOf(text, ["52:54:00:00:00:04"])).toBeUndefined();
  });
});

test.each([
  [{}, []],
  [{ type: "container" }, ["containers"]],
  [{ disks: [{ volume: "base" }] }, ["the volume base (`image` does)"]],
  [{ networks: ["test", { user: true }] }, ["the network test (`bridge` or `user: true` do)"]],
  [{ firmware: { type: "uefi" }, tpm: true }, ["UEFI firmware", "a TPM"]],
  [{ shares: [{ source: "/a", target: "/b", type: "virtiofs" }] }, ["virtiofs (`type: 9p` does)"]],
  [
    { vsock: true, autostart: true },
    ["the choice of vsock ids (name one)", "`autostart`: nobody there would start it"],
  ],
])("%j needs libvirt for %j", (more, not) => {
  expect(needsLibvirt({ name: "a", ...more } as VmDesired)).toEqual(not);
});
