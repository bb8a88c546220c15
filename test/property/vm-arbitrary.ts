import fc from "fast-check";
import type { Arch } from "../../providers/libvirt/model/arch.ts";
import { diskName } from "../../providers/libvirt/model/vm-resolve.ts";
import type { DiskModel, NicModel, ShareModel, VmModel } from "../../providers/libvirt/model/vm.ts";
import { CACHES, NIC_MODELS } from "../../providers/libvirt/model/vm-parts.ts";

const MIB = 1024 ** 2;

/** Text that means something to XML, to shells, or to parsers that fold characters; no control characters. */
export const hostile: fc.Arbitrary<string> = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "<",
        ">",
        "&",
        '"',
        "'",
        "]]>",
        "&amp;",
        "&#x41;",
        "<!--",
        "<?x?>",
        "\u0085",
        "\u2028",
        "é",
        "𝄞",
        " ",
        "  ",
        "%s",
        "${x}",
        "a",
      ),
      fc.string({ unit: "grapheme", maxLength: 3 }),
    ),
    { minLength: 1, maxLength: 6 },
  )
  // eslint-disable-next-line no-control-regex
  .map((parts) => parts.join("").replaceAll(/[\u0000-\u001f\u007f\u{fffe}\u{ffff}]|\p{Surrogate}/gu, "_"))
  .filter((text) => text.trim() === text && text !== "");

/** Like {@link hostile}, with white space: for what stands in elements, where libvirt keeps it. */
export const spaced: fc.Arbitrary<string> = fc
  .tuple(hostile, fc.constantFrom("\n", "\n\n", "\t", ""), hostile)
  .map((parts) => parts.join(""));

export const hostPath: fc.Arbitrary<string> = hostile.map((name) => `/srv/${name.replaceAll("/", "_")}`);

/** What libvirt's schema takes for the name of a device or a network. */
const tame = fc.stringMatching(/^[a-z][a-z0-9_.-]{0,14}$/);

const optional = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(arbitrary, { nil: undefined });

/** Leaves out what is undefined, as models do. */
export function present<T extends object>(value: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as T;
}

const mac = fc
  .tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 0, max: 255 }), fc.integer({ min: 0, max: 255 }))
  .map((bytes) => `52:54:00:${bytes.map((one) => one.toString(16).padStart(2, "0")).join(":")}`);

function diskArbitrary(pci: boolean, text: fc.Arbitrary<string>): fc.Arbitrary<Omit<DiskModel, "target" | "boot">> {
  const bus = pci ? fc.constantFrom("virtio", "scsi", "sata", "usb") : fc.constant("virtio");
  return fc
    .record({
      bus: bus as fc.Arbitrary<DiskModel["bus"]>,
      cdrom: fc.boolean(),
      source: text,
      kind: fc.constantFrom("file", "block"),
      format: fc.constantFrom("qcow2", "raw"),
      cache: optional(fc.constantFrom(...CACHES)),
      io: optional(fc.constantFrom("native", "threads", "io_uring")),
      discard: fc.boolean(),
      readonly: fc.boolean(),
      serial: optional(fc.stringMatching(/^[A-Za-z0-9_]{1,20}$/).filter((serial) => serial !== "labctl-cidata")),
      size: optional(fc.integer({ min: 1, max: 4096 }).map((n) => n * MIB)),
      backing: optional(text),
    })
    .map(({ cdrom, cache, io, ...rest }): Omit<DiskModel, "target" | "boot"> => {
      const device = cdrom && (rest.bus === "sata" || rest.bus === "scsi") ? "cdrom" : "disk";
      return present<Omit<DiskModel, "target" | "boot">>({
        ...rest,
        device,
        kind: rest.kind as DiskModel["kind"],
        cache: io === "native" ? "none" : cache,
        io: io as DiskModel["io"],
        readonly: device === "cdrom" || (rest.readonly && rest.bus !== "sata"),
      });
    });
}

function nicArbitrary(pci: boolean, text: fc.Arbitrary<string>): fc.Arbitrary<Omit<NicModel, "boot">> {
  return fc
    .record({
      mac,
      plug: fc.constantFrom("network", "bridge", "user"),
      name: text,
      model: pci ? fc.constantFrom(...NIC_MODELS) : fc.constant("virtio"),
      link: fc.boolean(),
      mtu: optional(fc.integer({ min: 576, max: 9000 })),
      address: optional(fc.integer({ min: 2, max: 254 }).map((n) => `192.168.100.${n}`)),
    })
    .map(({ plug, name, ...rest }) =>
      present<Omit<NicModel, "boot">>({
        ...rest,
        network: plug === "network" ? name : undefined,
        bridge: plug === "bridge" ? `br-${name.length}` : undefined,
        user: plug === "user" ? true : undefined,
        mtu: plug === "user" ? undefined : rest.mtu,
        address: plug === "network" ? rest.address : undefined,
      }),
    );
}

function shareArbitrary(container: boolean): fc.Arbitrary<ShareModel> {
  return fc
    .record({
      source: hostPath,
      target: container ? hostPath : fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/),
      virtiofs: fc.boolean(),
      readonly: fc.boolean(),
    })
    .map(({ virtiofs, readonly, ...rest }) => ({
      ...rest,
      type: container ? "bind" : virtiofs ? "virtiofs" : "9p",
      readonly: readonly && (container || !virtiofs),
    }));
}

/** Targets in the order in which libvirt lists disks, too: by their letters. */
function withTargets(disks: readonly Omit<DiskModel, "target" | "boot">[], boots: readonly boolean[]): DiskModel[] {
  const next = { vd: 0, sd: 0 };
  let order = 1;
  return disks.map((disk, i) => {
    const prefix = disk.bus === "virtio" ? "vd" : "sd";
    const target = diskName(prefix, next[prefix]++);
    return { ...disk, target, ...(boots[i] === true && { boot: order++ }) };
  });
}

export interface VmOptions {
  readonly type?: "vm" | "container";
  /** A machine that Debian 12's libvirt defines: names without what it refuses. */
  readonly definable?: boolean;
}

/** Machines of all kinds, whole and valid. */
export function vmArbitrary(options: VmOptions = {}): fc.Arbitrary<VmModel> {
  const machines: [Arch, string][] = [
    ["x86_64", "q35"],
    ["x86_64", "microvm"],
    ["x86_64", "pc"],
    ["arm64", "virt"],
    ["armv7", "virt"],
    ["riscv64", "virt"],
  ];
  const usable = options.definable === true ? machines.filter(([arch]) => arch !== "riscv64") : machines;
  return fc.oneof(
    ...(options.type === "container"
      ? []
      : usable.map(([arch, machine]) => ({ weight: 2, arbitrary: machineArbitrary("vm", arch, machine, options) }))),
    ...(options.type === "vm" ? [] : [{ weight: 3, arbitrary: machineArbitrary("container", "x86_64", "", options) }]),
  );
}

function machineArbitrary(
  type: "vm" | "container",
  arch: Arch,
  machine: string,
  options: VmOptions,
): fc.Arbitrary<VmModel> {
  const container = type === "container";
  const pci = machine !== "microvm";
  const q35 = machine === "q35";
  const text = hostPath;
  return fc
    .record({
      // libvirt keeps files under it; labctl's begin with the lab's name, and are never these.
      name: hostile.map((name) => name.replaceAll("/", "_")).filter((name) => name !== "." && name !== ".."),
      uuid: fc.uuid(),
      owner: optional(
        fc.record({ lab: hostile, address: hostile, instance_id: fc.uuid(), lineage: fc.uuid(), digest: hostile }),
      ),
      kvm: fc.boolean(),
      cpus: fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: 2 }), fc.boolean()),
      model: fc.constantFrom("host-passthrough", "max", "qemu64", "cortex-a53"),
      memory: fc.tuple(fc.integer({ min: 64, max: 512 }), fc.integer({ min: 0, max: 512 })),
      hugepages: optional(fc.constantFrom(0, 2 * MIB, 1024 * MIB)),
      disks: fc.array(diskArbitrary(pci, options.definable === true ? hostPath : text), {
        maxLength: container ? 0 : 4,
      }),
      boots: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
      networks: fc.uniqueArray(nicArbitrary(pci, options.definable === true ? tame : hostile), {
        maxLength: 3,
        selector: (nic) => nic.mac,
      }),
      shares: fc.uniqueArray(shareArbitrary(container), { maxLength: 2, selector: (share) => share.target }),
      boot: optional(
        fc.record({
          kernel: hostPath,
          initrd: optional(hostPath),
          cmdline: optional(options.definable === true ? hostile : spaced),
          dtb: optional(hostPath),
        }),
      ),
      uefi: fc.constantFrom("bios", "uefi", "secure"),
      log: optional(hostPath),
      init: fc.record({ root: hostPath, init: hostPath, args: fc.array(spaced, { maxLength: 3 }) }),
      seed: optional(hostPath),
      rng: fc.boolean(),
      agent: fc.boolean(),
      watchdog: optional(fc.constantFrom("reset", "poweroff", "pause", "inject-nmi", "none")),
      tpm: fc.boolean(),
      vsock: optional(fc.constantFrom(0, 3, 42)),
      autostart: fc.boolean(),
      running: fc.boolean(),
    })
    .map((raw): VmModel => {
      const [count, more, shaped] = raw.cpus;
      const max = container ? count : count + more;
      const secure = raw.uefi === "secure" && q35;
      const uefi = !container && raw.uefi !== "bios" && pci && arch !== "riscv64";
      return present<VmModel>({
        name: raw.name,
        uuid: raw.uuid,
        owner: raw.owner,
        type,
        acceleration: container ? "none" : raw.kvm && options.definable !== true ? "kvm" : "emulated",
        arch,
        machine: container ? "" : machine,
        emulator: undefined,
        cpus: present<VmModel["cpus"]>({
          count,
          max,
          topology: shaped && !container ? { sockets: 1, cores: max, threads: 1 } : undefined,
          model: container ? undefined : raw.model,
        }),
        memory: { size: raw.memory[0] * MIB, max: (raw.memory[0] + raw.memory[1]) * MIB },
        hugepages: container ? undefined : raw.hugepages,
        disks: withTargets(raw.disks, raw.boots),
        networks: raw.networks.map((nic) => (container ? present<NicModel>({ ...nic, model: undefined }) : nic)),
        shares: raw.shares,
        boot:
          container || (machine !== "microvm" && raw.boot === undefined)
            ? undefined
            : present<NonNullable<VmModel["boot"]>>({
                kernel: raw.boot?.kernel ?? "/srv/kernel",
                initrd: raw.boot?.initrd,
                cmdline: raw.boot?.cmdline,
                dtb: arch === "x86_64" ? undefined : raw.boot?.dtb,
              }),
        firmware: { type: uefi ? "uefi" : "bios", secure_boot: uefi && secure },
        console: raw.log === undefined || container ? {} : { log: raw.log },
        container: container ? raw.init : undefined,
        cloud_init: container ? undefined : raw.seed,
        rng: raw.rng && !container,
        agent: raw.agent && !container,
        watchdog: container || !pci ? undefined : raw.watchdog,
        tpm: raw.tpm && !container && pci,
        vsock: container ? undefined : raw.vsock,
        autostart: raw.autostart,
        running: raw.running,
      });
    });
}
