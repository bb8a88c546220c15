import type { Arch } from "./arch.ts";

/** What a libvirt connection can run, from its capabilities. */
export interface HostCapabilities {
  readonly arch: Arch | undefined;
  /** Processors that are online. */
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
  readonly cpu_model?: string;
  /** Frequency of its time stamp counter in Hz, where it has one that does not change. */
  readonly tsc?: number;
  /** Sizes of pages, in bytes, that the host can make, with how many are set aside now. */
  readonly pages: readonly { readonly size: number; readonly count: number }[];
  readonly guests: readonly GuestCapabilities[];
}

export interface GuestCapabilities {
  readonly arch: Arch;
  readonly os: "hvm" | "exe";
  readonly emulator: string;
  readonly types: readonly string[];
  readonly machines: readonly { readonly name: string; readonly canonical: string; readonly max_cpus?: number }[];
}

/** What one emulator can do with one machine type, from its domain capabilities. */
export interface DomainCapabilities {
  readonly emulator: string;
  readonly type: string;
  readonly arch: Arch | undefined;
  /** As QEMU resolved it: pc-q35-7.2. */
  readonly machine: string;
  readonly max_cpus?: number;
  readonly uefi: boolean;
  readonly secure_boot: boolean;
  /** `host-passthrough`, `maximum`, `host-model`, `custom`. */
  readonly cpu_modes: readonly string[];
  /** Names that can be used with this type on this host. */
  readonly cpu_models: readonly string[];
  readonly disk_buses: readonly string[];
  /** `path` is 9p. */
  readonly filesystems: readonly string[];
  readonly memory_sources: readonly string[];
  readonly tpm_backends: readonly string[];
  readonly rng: boolean;
  /** Where libvirt is too old to say, undefined. */
  readonly vsock: boolean | undefined;
}

/** What is known of a host before a machine is made on it. */
export interface HostFacts {
  readonly host: HostCapabilities;
  /** Whether KVM works, found by use: that libvirt offers it proves nothing. */
  readonly kvm: boolean;
  readonly domains: readonly DomainCapabilities[];
  /** Clock of its processors in MHz (virNodeGetInfo). Moves on real machines; that of the time stamp counter on virtual ones. */
  readonly mhz?: number;
}

/** The domain capabilities for a machine; undefined: they were not asked for, or the host has no such machine. */
export function domainFacts(
  facts: HostFacts,
  arch: Arch,
  machine: string,
  type: string,
): DomainCapabilities | undefined {
  const guest = facts.host.guests.find((one) => one.arch === arch && one.os === "hvm");
  const canonical = guest?.machines.find((one) => one.name === machine)?.canonical ?? machine;
  return facts.domains.find(
    (one) => one.arch === arch && one.type === type && (one.machine === machine || one.machine === canonical),
  );
}
