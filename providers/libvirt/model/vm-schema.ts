import { type Infer, type ObjectSchema, REQUIRES_SCHEMA, SSH_SCHEMA } from "../../../src/index.ts";
import { ARCHES } from "./arch.ts";
import {
  ABSOLUTE,
  bootSchema,
  cloudInitSchema,
  containerSchema,
  cpusSchema,
  diskSchema,
  firmwareSchema,
  memorySchema,
  nicSchema,
  shareSchema,
} from "./vm-parts.ts";

/** Properties of `vms:`, as users write them. */
export const vmSchema = {
  type: "object",
  properties: {
    name: { type: "string", description: "Name of the machine.", "x-labctl": { identity: true } },
    host: {
      type: "string",
      minLength: 1,
      description:
        "The QEMU host that it is on. Or say what it `requires`, and labctl selects one. Another host: it is made anew there.",
      examples: ["kvm-1"],
      "x-labctl": { replace: true, refers: "host" },
    },
    requires: {
      ...REQUIRES_SCHEMA,
      description:
        "What the host must have, instead of naming it. One that has its networks and volumes is chosen, once: a machine stays where it is until it is made anew (`--replace`).",
      examples: [{ arch: "x86_64", kvm: true, memory: "4GiB" }],
    },
    type: {
      type: "string",
      enum: ["vm", "container"],
      default: "vm",
      description: "A virtual machine, or a container (LXC) that shares the host's kernel.",
      "x-labctl": { replace: true },
    },
    arch: {
      type: "string",
      enum: ARCHES,
      description: "Processor. Default: the host's.",
      "x-labctl": { replace: true },
    },
    machine: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      description:
        "QEMU's machine type: q35, microvm (boots in a blink, virtio only, needs `boot`), virt, pc, or one of a version. Default: q35, on other processors virt.",
      examples: ["q35", "microvm"],
      "x-labctl": { restart: true },
    },
    acceleration: {
      type: "string",
      enum: ["auto", "kvm", "emulated"],
      default: "auto",
      description:
        "Whether the host's processor runs it, or QEMU emulates one. Default: KVM where it works (found by use), for the host's own architecture.",
      "x-labctl": { restart: true },
    },
    cpus: cpusSchema,
    memory: memorySchema,
    hugepages: {
      anyOf: [{ type: "boolean" }, { type: "string", enum: ["2MiB", "1GiB"] }],
      default: false,
      description: "Take its memory from the host's huge pages, of a size where it matters.",
      examples: [true, "1GiB"],
      "x-labctl": { restart: true },
    },
    disks: {
      type: "array",
      items: diskSchema,
      description: "Its disks: a volume, an image, or (with a `size` alone) an empty one.",
      examples: [[{ volume: "base", size: "20GiB", cache: "none", io: "native" }]],
    },
    networks: {
      type: "array",
      items: nicSchema,
      description: "Its network cards, each the name of a network or more than that.",
      examples: [["test"], [{ network: "test", address: "192.168.100.10" }, { user: true }]],
    },
    boot: bootSchema,
    firmware: firmwareSchema,
    console: {
      type: "object",
      properties: {
        log: {
          anyOf: [{ type: "boolean" }, { type: "string", pattern: ABSOLUTE }],
          default: true,
          description: "Whether the host records the serial console, or into which file.",
          examples: [true, "/var/log/libvirt/qemu/scratch-console.log"],
          "x-labctl": { restart: true },
        },
      },
      additionalProperties: false,
      description: "The first serial port. It is recorded from the first byte of each start.",
    },
    shares: {
      type: "array",
      items: shareSchema,
      description: "Directories of the host that it sees.",
      examples: [[{ source: "/srv/src", target: "/mnt/src" }]],
    },
    container: containerSchema,
    cloud_init: {
      ...cloudInitSchema,
      description: "What cloud-init in its image does at the first start. A change runs it again.",
      "x-labctl": { restart: true },
    },
    ssh: {
      ...SSH_SCHEMA,
      description:
        "How `labctl ssh` and `labctl exec` log in to it. What is not said here comes from `defaults: { ssh: ... }`, then from ~/.ssh/config.",
    },
    rng: {
      type: "boolean",
      default: true,
      description: "Feed it random numbers from the host, so that its start does not wait for them.",
      "x-labctl": { restart: true },
    },
    agent: {
      type: "boolean",
      default: false,
      description:
        "A channel to QEMU's guest agent (the package qemu-guest-agent in the guest): it knows addresses that no DHCP server gave. Hosts with libvirt only.",
      "x-labctl": { restart: true },
    },
    watchdog: {
      type: "string",
      enum: ["reset", "poweroff", "shutdown", "pause", "dump", "inject-nmi", "none"],
      description: "A watchdog card (i6300esb), and what happens when it is not fed. Default: no card.",
      "x-labctl": { restart: true },
    },
    tpm: {
      type: "boolean",
      default: false,
      description: "An emulated TPM 2.0; the host needs swtpm.",
      "x-labctl": { restart: true },
    },
    vsock: {
      anyOf: [{ type: "boolean" }, { type: "integer", minimum: 3, maximum: 4294967294 }],
      default: false,
      description: "A socket to the host without a network, with an id of the host's choice or this one.",
      examples: [true, 42],
      "x-labctl": { restart: true },
    },
    autostart: { type: "boolean", default: false, description: "Start it when the host starts." },
    running: { type: "boolean", default: true, description: "Whether it is on." },
  },
  required: ["name"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type VmDesired = Infer<typeof vmSchema>;
