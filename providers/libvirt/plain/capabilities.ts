import { type Arch, defaultMachine } from "../model/arch.ts";
import type { DomainCapabilities, GuestCapabilities } from "../model/facts.ts";

/** What a QEMU says of itself, asked through its monitor without a machine (`-M none`). */
export interface QemuAnswers {
  readonly version: string;
  readonly machines: readonly { readonly name: string; readonly canonical: string; readonly max_cpus?: number }[];
  readonly cpu_models: readonly string[];
  readonly devices: ReadonlySet<string>;
}

const ASKED = [
  { execute: "qmp_capabilities" },
  { execute: "query-version", id: "version" },
  { execute: "query-machines", id: "machines" },
  { execute: "query-cpu-definitions", id: "cpus" },
  { execute: "qom-list-types", arguments: { implements: "device", abstract: false }, id: "devices" },
  { execute: "quit" },
];

/** A line each, for QEMU's monitor. */
export function asksOfQemu(): readonly string[] {
  return ASKED.map((one) => JSON.stringify(one));
}

type Answer = Readonly<Record<string, unknown>>;

/** Pure. What QEMU printed; undefined: it did not answer. */
export function readAnswers(text: string): QemuAnswers | undefined {
  const answers = new Map<unknown, unknown>();
  for (const line of text.split("\n")) {
    if (!line.startsWith("{")) continue;
    const message = parsed(line);
    if (message?.["id"] !== undefined && "return" in message) answers.set(message["id"], message["return"]);
  }
  const list = (id: string): readonly Answer[] => {
    const value = answers.get(id);
    return Array.isArray(value) ? value.filter((one): one is Answer => typeof one === "object" && one !== null) : [];
  };
  const version = (answers.get("version") as { qemu?: Answer } | undefined)?.qemu;
  if (version === undefined || list("machines").length === 0) return undefined;
  return {
    version: ["major", "minor", "micro"].map((part) => String(version[part])).join("."),
    machines: list("machines").flatMap((one) => {
      const canonical = String(one["name"]);
      const max = one["cpu-max"];
      const base = { canonical, ...(typeof max === "number" && { max_cpus: max }) };
      const alias = one["alias"];
      return [{ ...base, name: canonical }, ...(typeof alias === "string" ? [{ ...base, name: alias }] : [])];
    }),
    cpu_models: list("cpus").map((one) => String(one["name"])),
    devices: new Set(list("devices").map((one) => String(one["name"]))),
  };
}

function parsed(line: string): Answer | undefined {
  try {
    return JSON.parse(line) as Answer;
  } catch {
    // Cut off: what was asked last is missing, which shows.
    return undefined;
  }
}

/** One emulator, in the words that libvirt has for it. */
export function guestCapabilities(
  arch: Arch,
  emulator: string,
  answers: QemuAnswers | undefined,
  kvm: boolean,
): GuestCapabilities {
  return { arch, os: "hvm", emulator, types: kvm ? ["qemu", "kvm"] : ["qemu"], machines: answers?.machines ?? [] };
}

/** What QEMU alone can do with a machine type: neither firmware, TPM nor virtiofsd are started beside it. */
export function domainCapabilities(
  arch: Arch,
  emulator: string,
  machine: string | undefined,
  answers: QemuAnswers,
  kvm: boolean,
): DomainCapabilities {
  const has = (...names: readonly string[]): boolean => names.some((name) => answers.devices.has(name));
  const buses: readonly [string, boolean][] = [
    ["virtio", has("virtio-blk-pci", "virtio-blk-device")],
    ["scsi", has("virtio-scsi-pci", "virtio-scsi-device")],
    ["sata", has("ich9-ahci")],
    ["usb", has("qemu-xhci")],
  ];
  const name = machine ?? defaultMachine(arch);
  return {
    emulator,
    type: kvm ? "kvm" : "qemu",
    arch,
    machine: answers.machines.find((one) => one.name === name)?.canonical ?? name,
    uefi: false,
    secure_boot: false,
    cpu_modes: ["maximum", "custom", ...(kvm ? ["host-passthrough"] : [])],
    cpu_models: answers.cpu_models.filter((one) => one !== "host"),
    disk_buses: buses.filter(([, there]) => there).map(([bus]) => bus),
    filesystems: has("virtio-9p-pci", "virtio-9p-device") ? ["path"] : [],
    memory_sources: ["memfd"],
    tpm_backends: [],
    rng: has("virtio-rng-pci", "virtio-rng-device"),
    vsock: has("vhost-vsock-pci", "vhost-vsock-device"),
  };
}
