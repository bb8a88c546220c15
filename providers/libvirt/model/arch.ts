/** Processors as labctl names them; libvirt and QEMU have names of their own for some. */
export const ARCHES = ["x86_64", "arm64", "armv7", "riscv64"] as const;
export type Arch = (typeof ARCHES)[number];

const LIBVIRT: Readonly<Record<Arch, string>> = {
  x86_64: "x86_64",
  arm64: "aarch64",
  armv7: "armv7l",
  riscv64: "riscv64",
};

const QEMU: Readonly<Record<Arch, string>> = {
  x86_64: "x86_64",
  arm64: "aarch64",
  armv7: "arm",
  riscv64: "riscv64",
};

/** `aarch64` for arm64. */
export function libvirtArch(arch: Arch): string {
  return LIBVIRT[arch];
}

/** The end of the emulator's name: `qemu-system-arm` for armv7. */
export function qemuArch(arch: Arch): string {
  return QEMU[arch];
}

/** What libvirt, QEMU or `uname -m` calls a processor; undefined: one that labctl makes no machines of. */
export function archOf(name: string): Arch | undefined {
  const other: Readonly<Record<string, Arch>> = {
    x86_64: "x86_64",
    amd64: "x86_64",
    aarch64: "arm64",
    arm64: "arm64",
    armv7l: "armv7",
    armv7: "armv7",
    arm: "armv7",
    riscv64: "riscv64",
  };
  return Object.hasOwn(other, name) ? other[name] : undefined;
}

/** The machine type where the spec names none: the one with PCI Express that every QEMU of this processor has. */
export function defaultMachine(arch: Arch): string {
  return arch === "x86_64" ? "q35" : "virt";
}

/** `pc-q35-7.2` is a q35, `virt-7.2` a virt: QEMU's alias for the newest of a family, which libvirt resolves when it defines. */
export function machineFamily(machine: string): string {
  const match = /^(?:pc-(q35|i440fx)|(virt|microvm))-\d+(?:\.\d+)*$/.exec(machine);
  const family = match?.[1] ?? match?.[2] ?? machine;
  return family === "i440fx" ? "pc" : family;
}
