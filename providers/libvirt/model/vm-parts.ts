import { type Schema, SIZE_PATTERN } from "../../../src/index.ts";
import { MAC_PATTERN } from "./network-schema.ts";

/** Schemas of the parts of a machine. A change of any restarts it unless the part says otherwise. */
const restart = { "x-labctl": { restart: true } } as const;

export const CACHES = ["none", "writeback", "writethrough", "directsync", "unsafe"] as const;
export const IO_MODES = ["native", "threads", "io_uring"] as const;
export const BUSES = ["virtio", "scsi", "sata", "usb"] as const;
export const NIC_MODELS = ["virtio", "e1000e", "e1000", "rtl8139"] as const;
export const ABSOLUTE = "^/[^\\u0000-\\u001f]*$";

export const sizeSchema = {
  type: "string",
  pattern: SIZE_PATTERN,
  description: "A size, such as 512MiB or 2GiB.",
  examples: ["2GiB"],
  "x-labctl": { unit: "size" },
} as const satisfies Schema;

export const cpusSchema = {
  anyOf: [
    { type: "integer", minimum: 1 },
    {
      type: "object",
      properties: {
        count: {
          type: "integer",
          minimum: 1,
          description: "Processors that it has. More, up to `max`, are added while it runs.",
          examples: [2],
        },
        max: {
          type: "integer",
          minimum: 1,
          description: "Most that it can have without a restart. Default: `count`.",
          examples: [8],
          ...restart,
        },
        sockets: {
          type: "integer",
          minimum: 1,
          description: "Sockets; times cores and threads it makes `max`.",
          ...restart,
        },
        cores: { type: "integer", minimum: 1, description: "Cores in a socket.", ...restart },
        threads: { type: "integer", minimum: 1, description: "Threads in a core.", ...restart },
        model: {
          type: "string",
          pattern: "^[A-Za-z0-9][A-Za-z0-9._+-]*$",
          description:
            "`host-passthrough`: the host's own (KVM only); `max`: all that QEMU can do; or a name that `virsh cpu-models` knows. Default: host-passthrough with KVM, else max (cortex-a72 on arm64).",
          examples: ["max", "cortex-a53"],
          ...restart,
        },
      },
      required: ["count"],
      additionalProperties: false,
    },
  ],
  default: 1,
  description: "Processors.",
  examples: [2, { count: 2, max: 8, model: "max" }],
} as const satisfies Schema;

export const memorySchema = {
  anyOf: [
    sizeSchema,
    {
      type: "object",
      properties: {
        size: {
          ...sizeSchema,
          description: "What it has. It changes while it runs, up to `max`, where its system has a balloon driver.",
        },
        max: {
          ...sizeSchema,
          description: "Most that it can have without a restart. Default: `size`.",
          "x-labctl": { unit: "size", restart: true },
        },
      },
      required: ["size"],
      additionalProperties: false,
    },
  ],
  default: "1GiB",
  description: "Memory, rounded up to whole MiB.",
  examples: ["2GiB", { size: "1GiB", max: "4GiB" }],
} as const satisfies Schema;

export const diskSchema = {
  type: "object",
  properties: {
    volume: {
      type: "string",
      minLength: 1,
      description: "One of `volumes:`. The machine gets a layer of its own on it, and it stays as it is; see `direct`.",
      examples: ["base"],
      "x-labctl": { replace: true, refers: "volume" },
    },
    image: {
      type: "string",
      minLength: 1,
      description: "A local image file, instead of a volume: brought to the host, under a layer of the machine's own.",
      examples: ["./images/rootfs.qcow2"],
      "x-labctl": { replace: true, path: true },
    },
    direct: {
      type: "boolean",
      default: false,
      description: "Use the volume itself, without a layer: what the machine writes stays in it.",
      "x-labctl": { replace: true },
    },
    size: {
      ...sizeSchema,
      description:
        "How large the machine sees it. It grows while the machine runs, and never shrinks. Default: as the image.",
      examples: ["20GiB"],
    },
    target: {
      type: "string",
      pattern: "^(vd|sd)[a-z]{1,2}$",
      description: "Its name on the bus (sda, vdb), which tells disks apart. Default: by its place in the list.",
      examples: ["vdb"],
      ...restart,
    },
    bus: { type: "string", enum: BUSES, default: "virtio", description: "How it is attached.", ...restart },
    device: {
      type: "string",
      enum: ["disk", "cdrom"],
      default: "disk",
      description: "What the machine sees.",
      ...restart,
    },
    cache: {
      type: "string",
      enum: CACHES,
      description: "How the host caches it. Default: the hypervisor's.",
      ...restart,
    },
    io: {
      type: "string",
      enum: IO_MODES,
      description: "How the host reads and writes it; native needs cache none or directsync.",
      ...restart,
    },
    discard: { type: "boolean", default: false, description: "Give freed blocks back to the host.", ...restart },
    readonly: { type: "boolean", default: false, description: "The machine cannot write to it.", ...restart },
    serial: {
      type: "string",
      pattern: "^[A-Za-z0-9_.+ -]{1,20}$",
      description: "Serial number that the machine sees: its name in /dev/disk/by-id.",
      examples: ["root"],
      ...restart,
    },
    boot: { type: "integer", minimum: 1, description: "Its place in the order of booting.", examples: [1], ...restart },
  },
  additionalProperties: false,
} as const satisfies Schema;

export const nicSchema = {
  anyOf: [
    { type: "string", minLength: 1, "x-labctl": { refers: "network" } },
    {
      type: "object",
      properties: {
        network: {
          type: "string",
          minLength: 1,
          description: "One of `networks:`. Another one is plugged in while the machine runs.",
          examples: ["test"],
          "x-labctl": { refers: "network" },
        },
        bridge: {
          type: "string",
          minLength: 1,
          maxLength: 15,
          description: "A bridge that the host has, instead of a network.",
          examples: ["br0"],
        },
        user: {
          type: "boolean",
          description: "QEMU's own network, instead of one: outwards only, and nothing is needed on the host.",
          ...restart,
        },
        mac: {
          type: "string",
          pattern: MAC_PATTERN,
          description: "MAC address. Default: one that stays the same as long as the machine exists.",
          ...restart,
        },
        model: {
          type: "string",
          enum: NIC_MODELS,
          default: "virtio",
          description: "The card that the machine sees.",
          ...restart,
        },
        address: {
          type: "string",
          description: "The IPv4 address that it always gets by DHCP.",
          examples: ["192.168.100.10"],
        },
        link: { type: "boolean", default: true, description: "Whether the cable is in." },
        mtu: {
          type: "integer",
          minimum: 68,
          maximum: 65535,
          description: "Largest packet in bytes. Default: the network's.",
          ...restart,
        },
        boot: { type: "integer", minimum: 1, description: "Its place in the order of booting.", ...restart },
      },
      additionalProperties: false,
    },
  ],
} as const satisfies Schema;

export const shareSchema = {
  type: "object",
  properties: {
    source: {
      type: "string",
      minLength: 1,
      description: "A directory on the host.",
      examples: ["/srv/src"],
      ...restart,
    },
    target: {
      type: "string",
      pattern: ABSOLUTE,
      description: "Where the machine mounts it.",
      examples: ["/mnt/src"],
      ...restart,
    },
    type: {
      type: "string",
      enum: ["auto", "virtiofs", "9p"],
      default: "auto",
      description:
        "How it is carried: virtiofs is faster, 9p can be read-only. Default: virtiofs where the host has it.",
      ...restart,
    },
    readonly: { type: "boolean", default: false, description: "The machine cannot write to it.", ...restart },
  },
  required: ["source", "target"],
  additionalProperties: false,
} as const satisfies Schema;

export const bootSchema = {
  type: "object",
  properties: {
    kernel: {
      type: "string",
      minLength: 1,
      description: "Kernel that is booted without a boot loader: a local file.",
      examples: ["./bzImage"],
      "x-labctl": { path: true, restart: true },
    },
    initrd: {
      type: "string",
      minLength: 1,
      description: "Its initial RAM disk.",
      examples: ["./rootfs.cpio.gz"],
      "x-labctl": { path: true, restart: true },
    },
    cmdline: {
      type: "string",
      description: "Its command line.",
      examples: ["console=ttyS0 root=/dev/vda1"],
      ...restart,
    },
    dtb: {
      type: "string",
      minLength: 1,
      description: "Its device tree. Default: QEMU's own.",
      "x-labctl": { path: true, restart: true },
    },
  },
  required: ["kernel"],
  additionalProperties: false,
  description: "Direct kernel boot. Absent: the firmware boots from a disk.",
} as const satisfies Schema;

export const firmwareSchema = {
  anyOf: [
    { type: "string", enum: ["bios", "uefi"] },
    {
      type: "object",
      properties: {
        type: { type: "string", enum: ["bios", "uefi"], description: "Which.", ...restart },
        secure_boot: {
          type: "boolean",
          default: false,
          description: "UEFI boots only what is signed, with Microsoft's keys enrolled.",
          ...restart,
        },
      },
      required: ["type"],
      additionalProperties: false,
    },
  ],
  default: "bios",
  description:
    "Firmware. `bios` is what the machine has without UEFI: SeaBIOS, or nothing where a kernel is booted directly.",
  examples: ["uefi", { type: "uefi", secure_boot: true }],
} as const satisfies Schema;

export const cloudInitSchema = {
  type: "object",
  properties: {
    user_data: {
      type: "string",
      description: "cloud-init's user-data, whole: `#cloud-config`, a script, or MIME.",
      examples: ["#cloud-config\nhostname: scratch\n"],
    },
    meta_data: {
      type: "string",
      description: "cloud-init's meta-data, as YAML. Default: an instance-id made of all three, and the host name.",
    },
    network_config: {
      type: "string",
      description: "cloud-init's network-config, as YAML. Default: DHCP, as cloud-init itself does.",
    },
  },
  required: ["user_data"],
  additionalProperties: false,
} as const satisfies Schema;

export const containerSchema = {
  type: "object",
  properties: {
    root: {
      type: "string",
      pattern: ABSOLUTE,
      description: "Its root file system: a directory on the host.",
      examples: ["/srv/containers/box"],
      ...restart,
    },
    init: {
      type: "string",
      pattern: ABSOLUTE,
      default: "/sbin/init",
      description: "The first program in it.",
      ...restart,
    },
    args: {
      type: "array",
      items: { type: "string" },
      description: "Its arguments.",
      examples: [["-c", "sleep infinity"]],
      ...restart,
    },
  },
  required: ["root"],
  additionalProperties: false,
  description: "What a container is made of.",
} as const satisfies Schema;
