import { open, readdir, readFile, readlink, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { type CpioEntry, cpioArchive, formatSize, LabError, padArchive, readCpio } from "../../src/index.ts";
import { HOME } from "./guest-init.ts";
import { headOf } from "./image.ts";
import type { GuestArch } from "./machine.ts";
import type { ModuleFile } from "./modules.ts";
import { packageHint } from "./packages.ts";

const MACHINES: Readonly<Record<GuestArch, number>> = { x86_64: 62, aarch64: 183, arm: 40, riscv64: 243 };
/** ELF program header that names a dynamic loader. */
const PT_INTERP = 3;

/** Whether the bytes begin a program of that architecture that needs no shared library. */
export function isStaticProgram(head: Uint8Array, arch: GuestArch): boolean {
  const file = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  if (file.length < 64 || file.toString("latin1", 0, 4) !== "\x7fELF" || file[5] !== 1) return false;
  if (file.readUInt16LE(18) !== MACHINES[arch]) return false;
  const wide = file[4] === 2;
  const table = wide ? Number(file.readBigUInt64LE(0x20)) : file.readUInt32LE(0x1c);
  const size = file.readUInt16LE(wide ? 0x36 : 0x2a);
  const count = file.readUInt16LE(wide ? 0x38 : 0x2c);
  for (let index = 0; index < count; index += 1) {
    const at = table + index * size;
    if (at + 4 > file.length || file.readUInt32LE(at) === PT_INTERP) return false;
  }
  return true;
}

/** What runs in the guest besides the command: a busybox that is put there, or the shell that the user's initrd has. */
export type Userland = { readonly busybox: Uint8Array } | { readonly shell: string };

/**
 * A busybox for the guest: the named one, this machine's, or one in ~/.cache/labctl/busybox-ARCH; else the initrd's shell.
 * @throws LabError E_BOOT_USERLAND, E_SOURCE_FILE
 */
export async function findUserland(
  arch: GuestArch,
  named: string | undefined,
  initrd: Initrd | undefined,
): Promise<Userland> {
  if (named !== undefined) {
    if (!isStaticProgram(await headOf(named, "busybox", 4096), arch)) {
      throw new LabError("E_BOOT_USERLAND", `${named} is no program for ${arch} without shared libraries`);
    }
    return { busybox: await readFile(named) };
  }
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "labctl", `busybox-${arch}`);
  const places = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static", "/usr/local/bin/busybox", cache];
  for (const path of places) {
    const head = await headOf(path, "busybox", 4096).catch(() => undefined);
    if (head !== undefined && isStaticProgram(head, arch)) return { busybox: await readFile(path) };
  }
  const own = initrd?.entries === undefined ? undefined : programsOf(initrd.entries);
  if (own?.busybox !== undefined) return { busybox: own.busybox };
  if (own?.shell === true) return { shell: "/bin/sh" };
  throw new LabError("E_BOOT_USERLAND", `there is no busybox for ${arch} to run in the guest`, {
    hint: `${packageHint("busybox")}; for another architecture name one with --busybox, or an --initrd that has a shell`,
  });
}

function programsOf(entries: readonly CpioEntry[]): { readonly busybox?: Uint8Array; readonly shell: boolean } {
  let busybox: Uint8Array | undefined;
  let shell = false;
  for (const entry of entries) {
    const path = entry.path.replace(/^\.?\//, "");
    if (/^(?:usr\/)?bin\/busybox$/.test(path) && entry.type === "file") busybox = entry.data;
    if (/^(?:usr\/)?bin\/sh$/.test(path)) shell = true;
  }
  // One with shared libraries finds them in its own root, but not in another.
  return { shell, ...(busybox !== undefined && isStaticAny(busybox) && { busybox }) };
}

function isStaticAny(bytes: Uint8Array): boolean {
  return (Object.keys(MACHINES) as GuestArch[]).some((arch) => isStaticProgram(bytes, arch));
}

export interface Initrd {
  readonly bytes: Buffer;
  /** Undefined where it is packed in a way that is not looked into. */
  readonly entries: readonly CpioEntry[] | undefined;
}

const MOST_INITRD = 2 ** 30;

/** @throws LabError E_SOURCE_FILE, E_BOOT_IMAGE where it is none */
export async function readInitrd(path: string): Promise<Initrd> {
  const head = await headOf(path, "initrd", 8);
  const size = (await stat(path)).size;
  if (size > MOST_INITRD)
    throw new LabError("E_BOOT_IMAGE", `the initrd ${path} is larger than ${formatSize(MOST_INITRD)}`);
  const packed = PACKED.some((magic) => head.subarray(0, magic.length).equals(Buffer.from(magic)));
  const plain = head.toString("latin1", 0, 5) === "07070";
  if (!packed && !plain) {
    throw new LabError("E_BOOT_IMAGE", `${path} is not an initramfs: it is no cpio archive, nor a compressed one`, {
      hint: "make one with: find . | cpio -o -H newc | gzip > initrd.gz; a disk image goes to --root",
    });
  }
  const bytes = await readFile(path);
  return { bytes, entries: entriesOf(bytes) };
}

/** gzip, xz, zstd, lz4 (legacy), bzip2, lzma, lzo: lib/decompress.c */
const PACKED: readonly (readonly number[])[] = [
  [0x1f, 0x8b],
  [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
  [0x28, 0xb5, 0x2f, 0xfd],
  [0x02, 0x21, 0x4c, 0x18],
  [0x42, 0x5a, 0x68],
  [0x5d, 0x00, 0x00],
  [0x89, 0x4c, 0x5a],
];

function entriesOf(bytes: Buffer): readonly CpioEntry[] | undefined {
  try {
    return readCpio(bytes[0] === 0x1f ? gunzipSync(bytes) : bytes);
  } catch {
    // Microcode in front of a compressed archive, or another compression: the kernel reads it, we need not.
    return undefined;
  }
}

export interface PackLimits {
  readonly bytes: number;
  readonly files: number;
}

/** A folder's content as entries below `prefix`, or why it cannot be taken along. Special files are left out. */
export async function packFolder(
  folder: string,
  prefix: string,
  limits: PackLimits,
): Promise<readonly CpioEntry[] | string> {
  const entries: CpioEntry[] = [{ type: "directory", path: prefix, mode: 0o755 }];
  let bytes = 0;
  const walk = async (path: string, name: string): Promise<string | undefined> => {
    const children = await readdir(path, { withFileTypes: true }).catch(() => []);
    for (const child of children) {
      const source = join(path, child.name);
      const target = `${name}/${child.name}`;
      if (entries.length >= limits.files) return `it holds more than ${limits.files} files`;
      if (child.isSymbolicLink()) {
        entries.push({ type: "symlink", path: target, mode: 0o777, target: await readlink(source) });
      } else if (child.isDirectory()) {
        entries.push({ type: "directory", path: target, mode: 0o755 });
        const why = await walk(source, target);
        if (why !== undefined) return why;
      } else if (child.isFile()) {
        const { size, mode } = await stat(source);
        bytes += size;
        if (bytes > limits.bytes) return `it holds more than ${formatSize(limits.bytes)}`;
        const data = await readFile(source).catch(() => undefined);
        if (data !== undefined) entries.push({ type: "file", path: target, mode: mode & 0o777, data });
      }
    }
    return undefined;
  };
  const why = await walk(folder, prefix);
  return why ?? entries;
}

export interface InitramfsParts {
  readonly initrd: Initrd | undefined;
  readonly userland: Userland;
  readonly init: string;
  readonly command: string;
  readonly modules: readonly ModuleFile[];
  readonly packed: readonly CpioEntry[];
}

/** The user's archive, if any, and ours behind it: what the kernel unpacks. */
export function initramfs(parts: InitramfsParts): Buffer {
  const entries: CpioEntry[] = [
    ...["dev", "proc", "sys", HOME, `${HOME}/bin`, `${HOME}/modules`, `${HOME}/packed`].map(
      (path): CpioEntry => ({ type: "directory", path, mode: 0o755 }),
    ),
    // The kernel opens it for init before devtmpfs is there.
    { type: "device", path: "dev/console", mode: 0o600, device: "char", major: 5, minor: 1 },
    { type: "file", path: `${HOME}/init`, mode: 0o755, data: Buffer.from(parts.init) },
    { type: "file", path: `${HOME}/command`, mode: 0o755, data: Buffer.from(parts.command) },
  ];
  if ("busybox" in parts.userland) {
    entries.push({ type: "file", path: `${HOME}/bin/busybox`, mode: 0o755, data: parts.userland.busybox });
    for (const applet of APPLETS) {
      entries.push({ type: "symlink", path: `${HOME}/bin/${applet}`, mode: 0o777, target: "busybox" });
    }
  }
  for (const { name, data } of parts.modules) {
    entries.push({ type: "file", path: `${HOME}/modules/${name}.ko`, mode: 0o644, data });
  }
  entries.push(...parts.packed);
  const own = cpioArchive(entries);
  return parts.initrd === undefined ? own : Buffer.concat([padArchive(parts.initrd.bytes), own]);
}

/** What the init script calls. */
const APPLETS =
  "cat chmod chroot cp dmesg grep hostname ifconfig insmod ip kill ln ls mkdir mkfifo mount poweroff reboot setsid sh sleep stty sync umount uname usleep".split(
    " ",
  );

/** qcow2 by its magic number; everything else counts as raw. @throws LabError E_SOURCE_FILE */
export async function diskFormat(path: string): Promise<"raw" | "qcow2"> {
  const head = await headOf(path, "disk image", 4);
  return head.toString("latin1", 0, 3) === "QFI" && head[3] === 0xfb ? "qcow2" : "raw";
}

/** Bytes at the beginning of a file: for telling a package from a kernel. */
export async function isDebianPackage(path: string): Promise<boolean> {
  const file = await open(path, "r").catch(() => undefined);
  if (file === undefined) return false;
  try {
    const buffer = Buffer.alloc(8);
    await file.read(buffer, 0, 8, 0);
    return buffer.toString("latin1") === "!<arch>\n";
  } finally {
    await file.close();
  }
}
