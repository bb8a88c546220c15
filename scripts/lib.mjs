import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Runs a command in the checkout, output shown; resolves to its exit code. */
export function run(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"], ...options });
    child.on("error", () => resolve(127));
    child.on("close", (code, signal) => resolve(code ?? (signal ? 128 : 1)));
  });
}

/** Runs vitest and reads its JSON report. */
export async function vitest(args, options = {}) {
  const folder = mkdtempSync(join(tmpdir(), "labctl-test-"));
  const report = join(folder, "report.json");
  try {
    const cwd = options.cwd ?? process.cwd();
    const reporters = options.quiet ? ["--reporter=json"] : ["--reporter=default", "--reporter=json"];
    const code = await run(
      process.execPath,
      [join(cwd, "node_modules/vitest/vitest.mjs"), "run", ...reporters, `--outputFile.json=${report}`, ...args],
      {
        cwd,
        ...(options.quiet ? { stdio: ["ignore", "ignore", "ignore"] } : {}),
        env: { ...process.env, ...options.env },
      },
    );
    try {
      return { code, report: JSON.parse(readFileSync(report, "utf8")) };
    } catch {
      return { code, report: undefined };
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Programs that the system tests talk to, with the Debian packages that bring them. */
const PEERS = {
  sshd: "openssh-server",
  "ssh-keygen": "openssh-client",
  sudo: "sudo",
  // Without shared libraries: it also is the userland of guests.
  busybox: "busybox-static",
  ip: "iproute2",
  dash: "dash",
  zsh: "zsh",
  fish: "fish",
  faketime: "faketime",
  // A service that every Debian can have, and that minds its own business.
  cron: "cron",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-system-aarch64": "qemu-system-arm",
  dnf: "dnf",
  rpmbuild: "rpm",
  createrepo_c: "createrepo-c",
  strace: "strace",
  cpio: "cpio",
  mmdebstrap: "mmdebstrap",
  gcc: "build-essential",
  make: "build-essential",
  git: "git",
  curl: "curl",
  "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
  "qemu-img": "qemu-utils",
  "mkfs.ext4": "e2fsprogs",
  socat: "socat",
  "nc.openbsd": "netcat-openbsd",
  virsh: "libvirt-clients",
  xmllint: "libxml2-utils",
  isoinfo: "genisoimage",
  "/usr/lib/libvirt/libvirt_lxc": "libvirt-daemon-driver-lxc",
  // What machines get besides QEMU: shares, a TPM, UEFI.
  "/usr/lib/qemu/virtiofsd": "qemu-system-common",
  swtpm: "swtpm",
  swtpm_setup: "swtpm-tools",
  "/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf",
  libvirtd: "libvirt-daemon-system",
  dnsmasq: "dnsmasq-base",
  // What guests of tests run.
  dropbear: "dropbear-bin",
  "qemu-ga": "qemu-guest-agent",
};

/** What it takes to build a kernel besides. */
export const KERNEL_PEERS = {
  flex: "flex",
  bison: "bison",
  bc: "bc",
  "/usr/include/gelf.h": "libelf-dev",
  "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
  "/usr/aarch64-linux-gnu/lib/libc.a": "libc6-dev-arm64-cross",
  "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf",
  "/usr/arm-linux-gnueabihf/lib/libc.a": "libc6-dev-armhf-cross",
  "riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu",
  "/usr/riscv64-linux-gnu/lib/libc.a": "libc6-dev-riscv64-cross",
  clang: "clang",
  "ld.lld": "lld",
  "llvm-ar": "llvm",
  "qemu-system-riscv64": "qemu-system-misc",
  "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin": "opensbi",
  dtc: "device-tree-compiler",
};

function has(program) {
  const path = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
  return (
    spawnSync("sh", ["-c", `command -v "$1" || test -e "$1"`, "sh", program], { env: { ...process.env, PATH: path } })
      .status === 0
  );
}

/** Installs the peers that are missing where that may be done, and says so; returns those that stay missing. */
export function installPeers(more = {}) {
  const peers = { ...PEERS, ...more };
  const missing = Object.keys(peers).filter((program) => !has(program));
  if (missing.length === 0) return [];
  const packages = missing.map((program) => peers[program]);
  if (process.getuid?.() !== 0 || !has("apt-get")) return missing;
  process.stdout.write(`Installing what the tests talk to: ${packages.join(" ")}\n`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  // A daemon that a package starts by itself would stand in the way of the tests' own.
  const apt = (...args) =>
    spawnSync("apt-get", ["-q", "-y", "-o", "DPkg::Lock::Timeout=120", ...args], {
      env,
      stdio: ["ignore", "ignore", "inherit"],
    });
  if (apt("install", "--no-install-recommends", ...packages).status !== 0) {
    apt("update");
    apt("install", "--no-install-recommends", ...packages);
  }
  return missing.filter((program) => !has(program));
}
