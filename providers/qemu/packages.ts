/** Which package brings a program, by the name that each distribution has for it. */
const PACKAGES: Readonly<Record<string, { readonly debian: string; readonly fedora: string }>> = {
  "qemu-system-x86_64": { debian: "qemu-system-x86", fedora: "qemu-system-x86-core" },
  "qemu-system-aarch64": { debian: "qemu-system-arm", fedora: "qemu-system-aarch64-core" },
  "qemu-system-arm": { debian: "qemu-system-arm", fedora: "qemu-system-arm-core" },
  "qemu-system-riscv64": { debian: "qemu-system-misc", fedora: "qemu-system-riscv-core" },
  busybox: { debian: "busybox-static", fedora: "busybox" },
  "dpkg-deb": { debian: "dpkg", fedora: "dpkg" },
};

export function packageHint(program: string): string {
  const names = PACKAGES[program];
  if (names === undefined) return `install the package that has ${program}`;
  return `on Debian and Ubuntu: apt install ${names.debian}; on Fedora: dnf install ${names.fedora}`;
}
