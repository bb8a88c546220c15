/** QEMU's command line, as a pure function of what is wanted. */

export type GuestArch = "x86_64" | "aarch64" | "arm" | "riscv64";
export type MachineType = "q35" | "microvm" | "virt";
export type Accel = "kvm" | "tcg";

/** A stream between the guest and a Unix socket that somebody here listens on. */
export interface GuestPort {
  /** What it is called in the guest: /sys/class/virtio-ports/.../name. */
  readonly name: string;
  /** Path of the socket. */
  readonly socket: string;
  /** `port`: bytes (/dev/vportNpM). `tty`: a terminal (/dev/hvcN). `serial`: a serial line besides the console. */
  readonly kind: "port" | "tty" | "serial";
}

export interface GuestShare {
  /** What the guest mounts. */
  readonly tag: string;
  readonly writable: boolean;
  /** A folder that QEMU serves by 9p, or the socket of a virtiofsd that serves it. */
  readonly by: { readonly type: "9p"; readonly path: string } | { readonly type: "virtiofs"; readonly socket: string };
}

export interface GuestDisk {
  readonly path: string;
  readonly format: "raw" | "qcow2";
  /** What the guest writes is thrown away at the end. */
  readonly throwaway: boolean;
}

export interface GuestSpec {
  readonly arch: GuestArch;
  /** Default: q35 on x86_64, virt elsewhere. */
  readonly machine?: MachineType;
  readonly accel: Accel;
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
  /** QEMU's -cpu; default by architecture and acceleration. */
  readonly cpu?: string;
  readonly kernel: string;
  readonly initrd?: string;
  /** The kernel's whole command line; see {@link consoleArguments}. */
  readonly append: string;
  /**
   * Socket of the serial console. QEMU's own `logfile=` is of no use: QEMU 7.2 writes a byte there again each time that the
   * socket was full.
   */
  readonly console: string;
  /** Socket of QEMU's monitor. */
  readonly qmp: string;
  readonly ports: readonly GuestPort[];
  readonly shares: readonly GuestShare[];
  readonly disks: readonly GuestDisk[];
  readonly name: string;
}

/** What a machine type has. */
export interface MachineFeatures {
  /** The serial console's device in the guest. */
  readonly console: string;
  readonly earlycon: string;
  readonly bus: "pci" | "mmio";
  /** Serial lines besides the console, and their devices in the guest. */
  readonly serials: readonly string[];
}

/** @throws RangeError where the architecture has no such machine */
export function machineOf(arch: GuestArch, machine?: MachineType): MachineType {
  const type = machine ?? (arch === "x86_64" ? "q35" : "virt");
  if ((arch === "x86_64") === (type === "virt")) throw new RangeError(`there is no machine ${type} for ${arch}`);
  return type;
}

export function machineFeatures(arch: GuestArch, machine: MachineType): MachineFeatures {
  if (arch === "x86_64") {
    const pci = machine === "q35";
    return {
      console: "ttyS0",
      earlycon: "earlyprintk=serial,ttyS0,115200",
      bus: pci ? "pci" : "mmio",
      serials: pci ? ["ttyS1", "ttyS2", "ttyS3"] : [],
    };
  }
  // The PL011 of `virt` is the only one that normal worlds may use; further lines are 8250s on PCI.
  if (arch === "riscv64") return { console: "ttyS0", earlycon: "earlycon=sbi", bus: "pci", serials: [] };
  return { console: "ttyAMA0", earlycon: "earlycon", bus: "pci", serials: ["ttyS0", "ttyS1", "ttyS2"] };
}

/** What the kernel must be told so that its console is the one that is listened to. */
export function consoleArguments(arch: GuestArch, machine: MachineType): readonly string[] {
  const { console, earlycon } = machineFeatures(arch, machine);
  return [earlycon, `console=${console}`];
}

export function programOf(arch: GuestArch): string {
  return `qemu-system-${arch}`;
}

/** A value of an option: QEMU takes a comma for the end unless it stands twice. */
export function optionValue(text: string): string {
  if (text.includes("\0")) throw new RangeError("a value with a NUL byte");
  return text.replaceAll(",", ",,");
}

/** `driver,key=value,...`; undefined values are left out. */
export function option(head: string, values: Readonly<Record<string, string | number | boolean | undefined>>): string {
  let text = head;
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined) continue;
    text += `,${key}=${typeof value === "boolean" ? (value ? "on" : "off") : optionValue(String(value))}`;
  }
  return text;
}

const MIB = 2 ** 20;

/** Program and arguments. @throws RangeError where the machine does not exist */
export function qemuCommand(spec: GuestSpec): { readonly program: string; readonly args: readonly string[] } {
  const machine = machineOf(spec.arch, spec.machine);
  const features = machineFeatures(spec.arch, machine);
  const args: string[] = [];
  const add = (flag: string, value?: string): void => {
    args.push(flag, ...(value === undefined ? [] : [value]));
  };
  const virtiofs = spec.shares.some(({ by }) => by.type === "virtiofs");
  const memory = `${Math.max(1, Math.round(spec.memory / MIB))}M`;
  // vhost-user devices read the guest's memory themselves: it has to be shareable.
  add("-name", option(`guest=${optionValue(spec.name)}`, {}));
  add("-machine", option(machine, { ...(virtiofs && { "memory-backend": "memory" }), ...pcOptions(machine) }));
  add("-accel", spec.accel);
  add("-cpu", spec.cpu ?? defaultCpu(spec.arch, spec.accel));
  add("-smp", String(spec.cpus));
  add("-m", memory);
  if (virtiofs) add("-object", option("memory-backend-memfd", { id: "memory", size: memory, share: true }));
  for (const flag of ["-nodefaults", "-no-user-config"]) add(flag);
  add("-display", "none");
  // A restart would lose what there is to see; it ends, and QMP says why.
  add("-no-reboot");
  add("-kernel", spec.kernel);
  if (spec.initrd !== undefined) add("-initrd", spec.initrd);
  if (spec.append !== "") add("-append", spec.append);
  add("-chardev", option("socket", { id: "qmp", path: spec.qmp, server: false }));
  add("-mon", option("chardev=qmp,mode=control", {}));
  add("-chardev", option("socket", { id: "console", path: spec.console, server: false }));
  add("-serial", "chardev:console");
  const serials = spec.ports.filter((port) => port.kind === "serial").slice(0, features.serials.length);
  for (const [index, port] of serials.entries()) {
    add("-chardev", option("socket", { id: `serial${index + 1}`, path: port.socket, server: false }));
    if (spec.arch === "x86_64") add("-serial", `chardev:serial${index + 1}`);
    else add("-device", option("pci-serial", { chardev: `serial${index + 1}` }));
  }
  const bus = features.bus === "pci" ? "pci" : "device";
  const ports = spec.ports.filter((port) => port.kind !== "serial");
  if (ports.length > 0) add("-device", option(`virtio-serial-${bus}`, { id: "ports" }));
  for (const [index, port] of ports.entries()) {
    add("-chardev", option("socket", { id: `port${index + 1}`, path: port.socket, server: false }));
    add(
      "-device",
      option(port.kind === "tty" ? "virtconsole" : "virtserialport", {
        bus: "ports.0",
        // Port 0 is the first terminal's: a virtserialport may not have it.
        nr: index + 1,
        chardev: `port${index + 1}`,
        name: port.name,
      }),
    );
  }
  for (const [index, share] of spec.shares.entries()) {
    const id = `share${index + 1}`;
    if (share.by.type === "9p") {
      add(
        "-fsdev",
        option("local", {
          id,
          path: share.by.path,
          security_model: "none",
          multidevs: "remap",
          ...(!share.writable && { readonly: true }),
        }),
      );
      add("-device", option(`virtio-9p-${bus}`, { fsdev: id, mount_tag: share.tag }));
    } else {
      add("-chardev", option("socket", { id, path: share.by.socket }));
      add("-device", option(`vhost-user-fs-${bus}`, { chardev: id, tag: share.tag }));
    }
  }
  for (const [index, disk] of spec.disks.entries()) {
    const id = `disk${index + 1}`;
    add("-drive", option("if=none", { id, file: disk.path, format: disk.format, snapshot: disk.throwaway }));
    add("-device", option(`virtio-blk-${bus}`, { drive: id }));
  }
  add("-device", option(`virtio-rng-${bus}`, {}));
  return { program: programOf(spec.arch), args };
}

function pcOptions(machine: MachineType): Readonly<Record<string, boolean | string>> {
  // Neither a boot menu nor options of a network card: firmware has nothing to look for.
  if (machine === "q35") return { usb: false, vmport: false };
  return {};
}

/** Under emulation the newest that QEMU has, but for arm64, where that makes every function call slow (pointer authentication). */
function defaultCpu(arch: GuestArch, accel: Accel): string {
  if (accel === "kvm") return "host";
  switch (arch) {
    case "x86_64":
      return "max";
    case "aarch64":
      return "cortex-a72";
    case "arm":
      return "cortex-a15";
    case "riscv64":
      return "rv64";
  }
}
