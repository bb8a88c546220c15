/**
 * Debian's own kernels, and small root file systems for them, for tests that boot real machines under QEMU.
 *
 *     const { image, modules, release } = await debianKernel("x86_64");
 *     const initrd = await busyboxInitramfs({ init: "#!/bin/sh\nmount -t proc proc /proc\necho up\npoweroff -f\n" });
 *
 * Packages come from Debian through an apt of their own (its lists and cache lie below node_modules/.cache), so nothing of
 * this machine's package database changes and no root is needed. Every folder is made aside and renamed into place: several
 * test processes may ask at once.
 */
import { execFile } from "node:child_process";
import { rmSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { type CpioEntry, cpioArchive } from "../../src/archives/index.ts";

const run = promisify(execFile);
const CACHE = process.env["LABCTL_TEST_CACHE"] ?? join(import.meta.dirname, "../../node_modules/.cache/labctl-kernels");

export type KernelArch = "x86_64" | "aarch64";
/** `cloud`: small, virtio and virtiofs but no 9p. `generic`: everything, 9p too (three times the download). */
export type KernelFlavor = "cloud" | "generic";

export interface DebianKernel {
  /** The kernel image: bzImage, or arm64's Image. */
  readonly image: string;
  /** The folder of its modules: .../lib/modules/RELEASE. Debian's package has no modules.dep; depmod makes it. */
  readonly modules: string;
  /** What `uname -r` says there. */
  readonly release: string;
  /** The .config that it was built with. */
  readonly config: string;
}

const DEBIAN: Readonly<Record<KernelArch, string>> = { x86_64: "amd64", aarch64: "arm64" };

const made = new Map<string, Promise<unknown>>();

/** The same promise for the same key within this process. */
function once<T>(key: string, make: () => Promise<T>): Promise<T> {
  const known = made.get(key) as Promise<T> | undefined;
  if (known !== undefined) return known;
  const started = make();
  made.set(key, started);
  started.catch(() => made.delete(key));
  return started;
}

export function debianKernel(arch: KernelArch, flavor: KernelFlavor = "cloud"): Promise<DebianKernel> {
  return once(`kernel ${arch} ${flavor}`, async () => {
    const folder = await unpacked(`kernel-${flavor}-${arch}`, arch, async (apt) => {
      const meta = `linux-image${flavor === "cloud" ? "-cloud" : ""}-${DEBIAN[arch]}`;
      const { stdout } = await run("apt-cache", [...apt, "depends", meta]);
      const names = [...stdout.matchAll(/Depends: (linux-image-[^\s:]+)/g)].flatMap((match) => match[1] ?? []);
      const [name] = names;
      if (name === undefined) throw new Error(`apt-cache names no kernel behind ${meta}:\n${stdout}`);
      return name;
    });
    const boot = await readdir(join(folder, "boot"));
    const image = boot.find((name) => name.startsWith("vmlinuz-"));
    if (image === undefined) throw new Error(`no kernel in ${folder}/boot`);
    const release = image.slice("vmlinuz-".length);
    return {
      image: join(folder, "boot", image),
      modules: join(folder, "lib/modules", release),
      release,
      config: join(folder, "boot", `config-${release}`),
    };
  });
}

/** A busybox without shared libraries, for a guest of that architecture. */
export function busyboxStatic(arch: KernelArch = "x86_64"): Promise<string> {
  return once(`busybox ${arch}`, async () => {
    const folder = await unpacked(`busybox-${arch}`, arch, () => Promise.resolve("busybox-static"));
    for (const place of ["bin/busybox", "usr/bin/busybox"]) {
      if (await isThere(join(folder, place))) return join(folder, place);
    }
    throw new Error(`no busybox in ${folder}`);
  });
}

export interface InitramfsOptions {
  readonly arch?: KernelArch;
  /** Text of /init; default: mounts proc, sys and dev, prints `labctl-test: up` and powers off. */
  readonly init?: string;
  /** More files by path below the root: text, bytes, or `{ data, mode }`. Mode 0644, or 0755 where a text begins with `#!`. */
  readonly files?: Readonly<Record<string, string | Uint8Array | { readonly data: Uint8Array; readonly mode: number }>>;
  /** Leave /init out: the kernel finds nothing to run. */
  readonly noInit?: boolean;
}

const DEFAULT_INIT = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
echo "labctl-test: up $(uname -r)"
poweroff -f
`;

/** A gzipped initramfs with busybox and its applets; resolves to its path, in a folder of this process. */
export async function busyboxInitramfs(options: InitramfsOptions = {}): Promise<string> {
  const busybox = await readFile(await busyboxStatic(options.arch));
  const entries: CpioEntry[] = [];
  for (const path of ["bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin"]) {
    entries.push({ type: "directory", path, mode: path === "tmp" ? 0o1777 : 0o755 });
  }
  // Before devtmpfs is mounted, init has to have something to speak to.
  entries.push({ type: "device", path: "dev/console", mode: 0o600, device: "char", major: 5, minor: 1 });
  entries.push({ type: "device", path: "dev/null", mode: 0o666, device: "char", major: 1, minor: 3 });
  entries.push({ type: "file", path: "bin/busybox", mode: 0o755, data: busybox });
  for (const applet of APPLETS) entries.push({ type: "symlink", path: applet, mode: 0o777, target: "/bin/busybox" });
  if (options.noInit !== true) {
    entries.push({ type: "file", path: "init", mode: 0o755, data: Buffer.from(options.init ?? DEFAULT_INIT) });
  }
  const folders = new Set(entries.filter((one) => one.type === "directory").map((one) => one.path));
  for (const [path, content] of Object.entries(options.files ?? {})) {
    for (const folder of parents(path)) {
      if (folders.has(folder)) continue;
      folders.add(folder);
      entries.push({ type: "directory", path: folder, mode: 0o755 });
    }
    const whole = typeof content === "object" && "data" in content;
    const data = whole ? content.data : typeof content === "string" ? Buffer.from(content) : content;
    const mode = whole ? content.mode : typeof content === "string" && content.startsWith("#!") ? 0o755 : 0o644;
    entries.push({ type: "file", path, mode, data });
  }
  const path = join(await scratch(), `initramfs-${(count += 1)}.cpio.gz`);
  await writeFile(path, gzipSync(cpioArchive(entries), { level: 1 }));
  return path;
}

/** Each of these breaks a boot in its own way; see {@link brokenInit}. */
export type Breakage = "init-exits" | "sysrq-panic" | "hang" | "silent-hang" | "reboot-loop" | "oops-continues";

/** Text of an /init that ends badly, on a real kernel. */
export function brokenInit(breakage: Breakage): string {
  const head = "#!/bin/sh\nmount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev\n";
  switch (breakage) {
    case "init-exits":
      return `${head}exit 3\n`;
    case "sysrq-panic":
      return `${head}echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger\n`;
    case "hang":
      return `${head}echo "labctl-test: about to hang"\nwhile :; do sleep 1000; done\n`;
    case "silent-hang":
      return "#!/bin/sh\nwhile :; do sleep 1000; done\n";
    case "reboot-loop":
      return `${head}reboot -f\n`;
    case "oops-continues":
      return `${head}echo 0 > /proc/sys/kernel/panic_on_oops\n(echo c > /proc/sysrq-trigger)\nwhile :; do sleep 1000; done\n`;
  }
}

/** A file that is no kernel at all: bytes without any magic number, the same each time. */
export async function garbageImage(size = 1024 * 1024): Promise<string> {
  const bytes = Buffer.alloc(size);
  for (let at = 0, value = 0x2545f491; at < size; at += 1) {
    value = (Math.imul(value, 1664525) + 1013904223) >>> 0;
    bytes[at] = value >>> 24;
  }
  const path = join(await scratch(), `garbage-${(count += 1)}.img`);
  await writeFile(path, bytes);
  return path;
}

let count = 0;
let folder: Promise<string> | undefined;

/** A temporary folder that goes when this process ends, or, where it is killed as test workers are, with the next one's start. */
function scratch(): Promise<string> {
  folder ??= makeScratch();
  return folder;
}

const SCRATCH = "labctl-kernels-";

async function makeScratch(): Promise<string> {
  for (const name of await readdir(tmpdir())) {
    const pid = new RegExp(`^${SCRATCH}(\\d+)-`).exec(name)?.[1];
    if (pid === undefined || (await isThere(`/proc/${pid}`))) continue;
    await rm(join(tmpdir(), name), { recursive: true, force: true });
  }
  const path = await mkdtemp(join(tmpdir(), `${SCRATCH}${process.pid}-`));
  process.once("exit", () => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A Debian package unpacked under the cache; `find` says which package, given what apt has to be told. */
async function unpacked(
  name: string,
  arch: KernelArch,
  find: (apt: readonly string[]) => Promise<string>,
): Promise<string> {
  const target = join(CACHE, name);
  if (await isThere(target)) return target;
  await mkdir(CACHE, { recursive: true });
  const apt = await privateApt(arch);
  const work = await mkdtemp(join(CACHE, `.${name}-`));
  try {
    const wanted = await find(apt);
    await run("apt-get", [...apt, "-q", "download", wanted], { cwd: work, timeout: 180_000 });
    const deb = (await readdir(work)).find((file) => file.endsWith(".deb"));
    if (deb === undefined) throw new Error(`apt-get download ${wanted} left nothing`);
    await run("dpkg-deb", ["-x", join(work, deb), join(work, "root")]);
    await rename(join(work, "root"), target).catch(async (error: unknown) => {
      // Somebody else was quicker.
      if (!(await isThere(target))) throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return target;
}

/** Options that make apt a stranger on this machine: its own lists, cache and architecture, and nothing installed. */
function privateApt(arch: KernelArch): Promise<readonly string[]> {
  return once(`apt ${arch}`, async () => {
    const state = await mkdtemp(join(await scratch(), `apt-${arch}-`));
    for (const path of ["lists/partial", "cache/archives/partial"]) await mkdir(join(state, path), { recursive: true });
    await writeFile(join(state, "status"), "");
    const options = [
      `APT::Architecture=${DEBIAN[arch]}`,
      `APT::Architectures=${DEBIAN[arch]}`,
      `Dir::State=${state}`,
      `Dir::State::lists=${join(state, "lists")}`,
      `Dir::State::status=${join(state, "status")}`,
      `Dir::Cache=${join(state, "cache")}`,
      "APT::Sandbox::User=",
      "Acquire::Retries=3",
      "Acquire::Languages=none",
    ].flatMap((option) => ["-o", option]);
    // Other repositories of this machine may have nothing for that architecture: only Debian's answer counts.
    await run("apt-get", [...options, "-q", "update"], { timeout: 180_000 }).catch(() => undefined);
    return options;
  });
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function parents(path: string): string[] {
  const found: string[] = [];
  for (let at = dirname(path); at !== "." && at !== "/"; at = dirname(at)) found.unshift(at);
  return found;
}

const WORDS = (text: string): string[] => text.trim().split(/\s+/);
const APPLETS = [
  ...WORDS(`ash cat chmod chown cp date dd df dmesg echo env false grep hostname kill ln ls mkdir mknod mktemp mount mv ps
    pwd rm rmdir sed sh sleep stat stty sync tar touch true umount uname`).map((name) => `bin/${name}`),
  ...WORDS(`halt ifconfig insmod ip lsmod modprobe poweroff reboot route switch_root sysctl udhcpc`).map(
    (name) => `sbin/${name}`,
  ),
  ...WORDS(`awk basename cmp cut dirname expr find head hexdump id md5sum nc nproc printf seq setsid sha256sum sort tail
    tee test timeout tr tty wc wget which xargs yes`).map((name) => `usr/bin/${name}`),
  "usr/sbin/chroot",
];
