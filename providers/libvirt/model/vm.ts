import type { Arch } from "./arch.ts";
import type { BUSES, CACHES, IO_MODES } from "./vm-parts.ts";
import type { Owner } from "./owner.ts";

/** A disk of a machine. `target` tells disks apart. */
export interface DiskModel {
  readonly target: string;
  readonly device: "disk" | "cdrom";
  readonly bus: (typeof BUSES)[number];
  /** Path on the host; absent: no medium. */
  readonly source?: string;
  /** Of the path: a file, or a block device. */
  readonly kind: "file" | "block";
  readonly format: string;
  readonly cache?: (typeof CACHES)[number];
  readonly io?: (typeof IO_MODES)[number];
  readonly discard: boolean;
  readonly readonly: boolean;
  readonly serial?: string;
  readonly boot?: number;
  /** Bytes that the machine sees. Not in the domain's XML: read from the volume. */
  readonly size?: number;
  /** What lies under the machine's own layer. Not in the domain's XML either. */
  readonly backing?: string;
  /**
   * Format of what lies under it, where other machines use that as well: then the definition names it, and libvirt does not give it to
   * the user that QEMU runs as.
   */
  readonly shared?: "raw" | "qcow2";
}

/** A network card. `mac` tells them apart. */
export interface NicModel {
  readonly mac: string;
  /** Where it is plugged in: one of these. Names are libvirt's. */
  readonly network?: string;
  readonly bridge?: string;
  readonly user?: true;
  /** Absent in containers. */
  readonly model?: string;
  readonly link: boolean;
  readonly mtu?: number;
  readonly boot?: number;
  /** Its fixed address. Not in the domain's XML: read from the network's. */
  readonly address?: string;
}

/** A directory of the host. `target` (mount tag; in a container the directory) tells them apart. */
export interface ShareModel {
  readonly source: string;
  readonly target: string;
  readonly type: "virtiofs" | "9p" | "bind";
  readonly readonly: boolean;
}

/** A machine, whole and in one form: what is defined, and what is read back. */
export interface VmModel {
  /** In libvirt. */
  readonly name: string;
  readonly uuid: string;
  readonly owner?: Owner;
  readonly type: "vm" | "container";
  readonly acceleration: "kvm" | "emulated" | "none";
  readonly arch: Arch;
  /** Empty for containers. */
  readonly machine: string;
  readonly emulator?: string;
  readonly cpus: {
    readonly count: number;
    readonly max: number;
    readonly topology?: { readonly sockets: number; readonly cores: number; readonly threads: number };
    /** `host-passthrough`, `max` or a name; absent for containers, and where it is QEMU's own. */
    readonly model?: string;
  };
  /** Bytes, whole MiB. */
  readonly memory: { readonly size: number; readonly max: number };
  /** Size of a page in bytes; 0: the host's default. */
  readonly hugepages?: number;
  readonly disks: readonly DiskModel[];
  readonly networks: readonly NicModel[];
  readonly shares: readonly ShareModel[];
  /** Paths on the host. */
  readonly boot?: {
    readonly kernel: string;
    readonly initrd?: string;
    readonly cmdline?: string;
    readonly dtb?: string;
  };
  readonly firmware: { readonly type: "bios" | "uefi"; readonly secure_boot: boolean };
  readonly console: { readonly log?: string };
  readonly container?: { readonly root: string; readonly init: string; readonly args: readonly string[] };
  /** Path of the seed image on the host; its name holds its digest. */
  readonly cloud_init?: string;
  readonly rng: boolean;
  /** A channel on which the guest's agent answers. */
  readonly agent: boolean;
  /** What the watchdog does. */
  readonly watchdog?: string;
  readonly tpm: boolean;
  /** 0: the host chooses the id. */
  readonly vsock?: number;
  readonly autostart: boolean;
  readonly running: boolean;
}

/** Serial number of the disk that carries the cloud-init seed: how it is told from the machine's own. */
export const SEED_SERIAL = "labctl-cidata";

/** Where QEMU's guest agent listens, by its own name for it (QEMU's docs/interop/qemu-ga). */
export const AGENT_PORT = "org.qemu.guest_agent.0";

/** Machine types without PCI: every device is virtio, on its own bus. */
export function hasPci(model: Pick<VmModel, "machine">): boolean {
  return model.machine !== "microvm";
}
