import { LabError } from "../../../src/index.ts";
import { qemuArch } from "./arch.ts";
import { type DiskModel, hasPci, type NicModel, SEED_SERIAL, type VmModel } from "./vm.ts";

/** What a machine without libvirt is tied to on its host: sockets and files that whoever starts it makes. */
export interface QemuRuntime {
  /** Socket of QEMU's monitor (QMP). */
  readonly qmp: string;
  /** Socket of the serial console; the console's log is the model's. */
  readonly console: string;
  /** Sockets of the virtiofsd of each share, by target. */
  readonly virtiofs?: Readonly<Record<string, string>>;
  /** Firmware with UEFI: the code, and this machine's own copy of the variables. */
  readonly uefi?: { readonly code: string; readonly vars: string };
  /** Socket of its swtpm. */
  readonly tpm?: string;
  /** A port of the host's 127.0.0.1 that leads to one of the guest, through its first card of QEMU's own network. */
  readonly forward?: { readonly port: number; readonly guest: number };
  /** Program, where it is not on the path. */
  readonly program?: string;
}

export interface QemuCommand {
  readonly program: string;
  readonly args: readonly string[];
}

/**
 * QEMU's command line for a machine on a host without libvirt. Throws E_VM_UNSUPPORTED for what only libvirt provides: networks of
 * its own, containers.
 */
export function qemuArgv(model: VmModel, runtime: QemuRuntime): QemuCommand {
  const not = withoutLibvirt(model, runtime);
  if (not.length > 0) {
    throw new LabError("E_VM_UNSUPPORTED", `QEMU without libvirt lacks: ${not.join("; ")}`, {
      ...(model.owner !== undefined && { address: model.owner.address }),
      hint: "install libvirt on the host, or change the machine",
    });
  }
  const pci = hasPci(model);
  const bus = pci ? "pci" : "device";
  const args: string[] = [];
  const add = (flag: string, ...values: readonly string[]): void => {
    args.push(flag, ...values);
  };
  add("-name", option("", { guest: model.name }));
  add("-uuid", model.uuid);
  add("-nodefaults");
  add("-no-user-config");
  add("-display", "none");
  const memory = `${Math.round(model.memory.max / 1024 ** 2)}M`;
  const shared = model.shares.some((share) => share.type === "virtiofs");
  const backed = shared || model.hugepages !== undefined;
  add("-machine", option(model.machine, { ...(backed && { "memory-backend": "ram" }), ...machineOptions(model) }));
  add("-accel", model.acceleration === "kvm" ? "kvm" : "tcg");
  add("-cpu", cpuOf(model));
  const { count, max, topology } = model.cpus;
  add("-smp", option(String(count), { maxcpus: max, ...topology }));
  add("-m", option("", { size: memory }));
  if (backed) {
    add(
      "-object",
      option("memory-backend-memfd", {
        id: "ram",
        size: memory,
        share: shared,
        hugetlb: model.hugepages === undefined ? undefined : true,
        hugetlbsize: model.hugepages !== undefined && model.hugepages > 0 ? model.hugepages : undefined,
      }),
    );
  }
  if (runtime.uefi !== undefined && model.firmware.type === "uefi") {
    add("-drive", option("if=pflash", { unit: 0, format: "raw", readonly: true, file: runtime.uefi.code }));
    add("-drive", option("if=pflash", { unit: 1, format: "raw", file: runtime.uefi.vars }));
  }
  if (model.firmware.secure_boot) add("-global", "driver=cfi.pflash01,property=secure,value=on");
  if (model.boot !== undefined) {
    add("-kernel", model.boot.kernel);
    if (model.boot.initrd !== undefined) add("-initrd", model.boot.initrd);
    if (model.boot.cmdline !== undefined) add("-append", model.boot.cmdline);
    if (model.boot.dtb !== undefined) add("-dtb", model.boot.dtb);
  }
  add("-chardev", option("socket", { id: "qmp", path: runtime.qmp, server: true, wait: false }));
  add("-mon", option("", { chardev: "qmp", mode: "control" }));
  // Truncated at the start, so that the log is of this start and has its first byte.
  add(
    "-chardev",
    option("socket", {
      id: "console",
      path: runtime.console,
      server: true,
      wait: false,
      logfile: model.console.log,
      logappend: model.console.log === undefined ? undefined : false,
    }),
  );
  add("-serial", "chardev:console");
  // Not `scsi`: that is what a USB disk calls the bus inside it.
  if (model.disks.some((disk) => disk.bus === "scsi")) add("-device", option(`virtio-scsi-${bus}`, { id: "disks" }));
  if (model.disks.some((disk) => disk.bus === "usb")) add("-device", option("qemu-xhci", { id: "usb" }));
  if (model.disks.some((disk) => disk.bus === "sata")) add("-device", option("ich9-ahci", { id: "sata" }));
  const disks = [...model.disks, ...(model.cloud_init === undefined ? [] : [seed(model.cloud_init)])];
  const next = { sata: 0, scsi: 0 };
  for (const disk of disks) {
    // By its target: that is what tells disks apart when QEMU is asked about them.
    add("-blockdev", blockdev(disk, disk.target));
    add(
      "-device",
      diskDevice(disk, disk.target, bus, disk.bus === "sata" || disk.bus === "scsi" ? next[disk.bus]++ : 0),
    );
  }
  const forwarding = model.networks.findIndex((nic) => nic.user === true);
  for (const [i, nic] of model.networks.entries()) {
    const id = `net${i}`;
    const hostfwd = i === forwarding && runtime.forward !== undefined ? forwardText(runtime.forward) : undefined;
    add(
      "-netdev",
      nic.bridge === undefined ? option("user", { id, hostfwd }) : option("bridge", { id, br: nic.bridge }),
    );
    add("-device", nicDevice(nic, id, bus));
  }
  for (const [i, share] of model.shares.entries()) {
    const id = `share${i}`;
    if (share.type === "virtiofs") {
      add("-chardev", option("socket", { id, path: runtime.virtiofs?.[share.target] }));
      add("-device", option(`vhost-user-fs-${bus}`, { chardev: id, tag: share.target }));
    } else {
      const readonly = share.readonly ? true : undefined;
      add("-fsdev", option("local", { id, path: share.source, security_model: "mapped-xattr", readonly }));
      add("-device", option(`virtio-9p-${bus}`, { fsdev: id, mount_tag: share.target }));
    }
  }
  if (model.rng) add("-device", `virtio-rng-${bus}`);
  add("-device", `virtio-balloon-${bus}`);
  if (model.watchdog !== undefined) {
    add("-device", "i6300esb");
    add("-action", option("", { watchdog: model.watchdog }));
  }
  if (model.vsock !== undefined && model.vsock > 0) {
    add("-device", option(`vhost-vsock-${bus}`, { "guest-cid": model.vsock }));
  }
  if (model.tpm && runtime.tpm !== undefined) {
    add("-chardev", option("socket", { id: "tpm", path: runtime.tpm }));
    add("-tpmdev", option("emulator", { id: "tpm0", chardev: "tpm" }));
    add("-device", option(model.arch === "x86_64" ? "tpm-crb" : "tpm-tis-device", { tpmdev: "tpm0" }));
  }
  return { program: runtime.program ?? model.emulator ?? `qemu-system-${qemuArch(model.arch)}`, args };
}

function withoutLibvirt(model: VmModel, runtime: QemuRuntime): string[] {
  return [
    ...(model.type === "container" ? ["containers"] : []),
    ...(model.networks.some((nic) => nic.network !== undefined)
      ? ["networks of its own (`bridge` or `user: true` do)"]
      : []),
    ...(model.networks.some((nic) => nic.mtu !== undefined && nic.user !== true)
      ? ["MTU to set on a bridge's port"]
      : []),
    ...(model.networks.every((nic) => nic.link) ? [] : ["cables that are out at the start"]),
    ...(model.agent ? ["a channel to the guest agent"] : []),
    ...(model.firmware.type === "uefi" && runtime.uefi === undefined ? ["UEFI firmware at hand"] : []),
    ...(model.shares.some((share) => share.type === "virtiofs" && runtime.virtiofs?.[share.target] === undefined)
      ? ["virtiofsd for its shares"]
      : []),
    ...(model.tpm && runtime.tpm === undefined ? ["swtpm for its TPM"] : []),
    ...(model.vsock === 0 ? ["choice of vsock ids: name one"] : []),
  ];
}

/** `driver,key=value,...`. QEMU takes a comma for the end of a value unless it stands twice. */
function option(head: string, values: Readonly<Record<string, string | number | boolean | undefined>>): string {
  const parts = head === "" ? [] : [head];
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const text = typeof value === "boolean" ? (value ? "on" : "off") : String(value);
    parts.push(`${key}=${text.replaceAll(",", ",,")}`);
  }
  return parts.join(",");
}

function machineOptions(model: VmModel): Readonly<Record<string, boolean>> {
  // Secure boot keeps its variables from the guest's system by system management mode.
  return model.firmware.secure_boot ? { smm: true } : {};
}

function cpuOf({ cpus, arch }: VmModel): string {
  return cpus.model === "host-passthrough" ? "host" : (cpus.model ?? (arch === "riscv64" ? "rv64" : "max"));
}

/** The node of the seed's disk in QEMU. */
const SEED_TARGET = "seed";

function forwardText({ port, guest }: NonNullable<QemuRuntime["forward"]>): string {
  return `tcp:127.0.0.1:${port}-:${guest}`;
}

function seed(source: string): DiskModel {
  return {
    target: SEED_TARGET,
    device: "disk",
    bus: "virtio",
    source,
    kind: "file",
    format: "raw",
    discard: false,
    readonly: true,
    serial: SEED_SERIAL,
  };
}

/** As JSON, in which names need no escapes of QEMU's own. What nobody asked for is left to QEMU's defaults, which are the same. */
function blockdev(disk: DiskModel, id: string): string {
  const cache = disk.cache !== undefined && {
    cache: {
      direct: disk.cache === "none" || disk.cache === "directsync",
      "no-flush": disk.cache === "unsafe",
    },
  };
  return JSON.stringify({
    driver: disk.format,
    "node-name": id,
    "read-only": disk.readonly,
    discard: disk.discard ? "unmap" : "ignore",
    ...cache,
    file: {
      driver: disk.kind === "block" ? "host_device" : "file",
      filename: disk.source,
      ...(disk.io !== undefined && { aio: disk.io }),
      "read-only": disk.readonly,
      discard: disk.discard ? "unmap" : "ignore",
      ...cache,
    },
  });
}

function diskDevice(disk: DiskModel, drive: string, bus: string, place: number): string {
  const through = disk.cache === "writethrough" || disk.cache === "directsync";
  const writes = disk.cache === undefined ? undefined : through ? "off" : "on";
  const common = { drive, serial: disk.serial, bootindex: disk.boot, "write-cache": writes };
  switch (disk.bus) {
    case "virtio":
      return option(`virtio-blk-${bus}`, common);
    case "scsi":
      return option(disk.device === "cdrom" ? "scsi-cd" : "scsi-hd", { ...common, bus: "disks.0", "scsi-id": place });
    case "sata":
      return option(disk.device === "cdrom" ? "ide-cd" : "ide-hd", { ...common, bus: `sata.${place}` });
    case "usb":
      return option("usb-storage", { ...common, bus: "usb.0" });
  }
}

function nicDevice(nic: NicModel, netdev: string, bus: string): string {
  const driver = nic.model === "virtio" || nic.model === undefined ? `virtio-net-${bus}` : nic.model;
  return option(driver, { netdev, mac: nic.mac, bootindex: nic.boot });
}
