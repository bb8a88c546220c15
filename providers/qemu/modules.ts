import { spawnSync } from "node:child_process";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { gunzipSync } from "node:zlib";
import type { KernelImage } from "./image.ts";

/** What is known of the kernel's drivers: its configuration, its modules, or nothing. */
export interface Drivers {
  /** Whether a driver is built in, loadable, or not there; unknown where nothing says so. */
  has(driver: Driver): "builtin" | "module" | "none" | "unknown";
  /** Files to load in this order, dependencies first, so that these drivers are there. */
  load(drivers: readonly Driver[]): Promise<readonly ModuleFile[]>;
  /** Where the knowledge is from, for people. */
  readonly source: string;
}

export interface ModuleFile {
  readonly name: string;
  /** Uncompressed. */
  readonly data: Uint8Array;
}

/** Drivers that a guest of ours can use: the module's name and the symbol that builds it in. */
const DRIVERS = {
  virtio_pci: "VIRTIO_PCI",
  virtio_mmio: "VIRTIO_MMIO",
  virtio_console: "VIRTIO_CONSOLE",
  virtio_blk: "VIRTIO_BLK",
  "9pnet_virtio": "NET_9P_VIRTIO",
  "9p": "9P_FS",
  virtiofs: "VIRTIO_FS",
} as const;
export type Driver = keyof typeof DRIVERS;

const SUFFIX = /\.ko(\.gz|\.xz|\.zst)?$/;
const MOST_DEPTH = 12;

/**
 * Finds what can be known of a kernel's drivers: `modules` where given; else /lib/modules/RELEASE beside the image (as in an
 * unpacked package) or of this machine. The configuration is looked for beside the image and where a build leaves it.
 */
export async function findDrivers(kernel: KernelImage, modules: string | undefined): Promise<Drivers> {
  const folder = dirname(resolve(kernel.path));
  const { release } = kernel;
  const places =
    modules !== undefined
      ? [modules]
      : release === undefined
        ? []
        : [join(folder, "../lib/modules", release), join("/lib/modules", release), join("/usr/lib/modules", release)];
  const found = await firstFolder(places);
  const index = found === undefined ? new Map<string, string>() : await indexModules(found);
  const configs = [
    ...(release === undefined ? [] : [join(folder, `config-${release}`), join(folder, `../boot/config-${release}`)]),
    ...(found === undefined ? [] : [join(found, "config"), join(found, "build/.config")]),
    // arch/ARCH/boot/bzImage in a build tree
    join(folder, "../../../.config"),
    join(folder, ".config"),
  ];
  const config = await firstConfig(configs);
  const builtin = found === undefined ? new Set<string>() : await builtinModules(found);
  return new KnownDrivers(index, builtin, config, found);
}

class KnownDrivers implements Drivers {
  readonly #index: ReadonlyMap<string, string>;
  readonly #builtin: ReadonlySet<string>;
  readonly #config: ReadonlyMap<string, string> | undefined;
  readonly source: string;

  constructor(
    index: ReadonlyMap<string, string>,
    builtin: ReadonlySet<string>,
    config: { readonly path: string; readonly values: ReadonlyMap<string, string> } | undefined,
    folder: string | undefined,
  ) {
    this.#index = index;
    this.#builtin = builtin;
    this.#config = config?.values;
    this.source = [config?.path, folder].filter((one) => one !== undefined).join(" and ");
  }

  has(driver: Driver): "builtin" | "module" | "none" | "unknown" {
    if (this.#index.has(driver)) return "module";
    if (this.#builtin.has(driver)) return "builtin";
    const value = this.#config?.get(DRIVERS[driver]);
    if (value === "y") return "builtin";
    // `m` without the file: it cannot be loaded.
    if (this.#config !== undefined) return "none";
    return "unknown";
  }

  async load(drivers: readonly Driver[]): Promise<readonly ModuleFile[]> {
    const loaded = new Map<string, ModuleFile>();
    for (const driver of drivers) await this.#add(driver, loaded, 0);
    return [...loaded.values()];
  }

  async #add(name: string, loaded: Map<string, ModuleFile>, depth: number): Promise<void> {
    const path = this.#index.get(name);
    if (path === undefined || loaded.has(name) || depth > MOST_DEPTH) return;
    const data = unpack(path, await readFile(path));
    for (const needed of moduleDepends(data)) await this.#add(needed, loaded, depth + 1);
    loaded.set(name, { name, data });
  }
}

/** `virtio-rng.ko.xz` is module virtio_rng. */
export function moduleName(path: string): string {
  return basename(path).replace(SUFFIX, "").replaceAll("-", "_");
}

/**
 * Names in `depends=` of an ELF file's .modinfo section: what modpost wrote there. Empty where the bytes are no such file.
 * Little-endian, 32 and 64 bits.
 */
export function moduleDepends(bytes: Uint8Array): readonly string[] {
  const section = elfSection(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), ".modinfo");
  if (section === undefined) return [];
  const names = new Set<string>();
  for (const item of section.toString("latin1").split("\0")) {
    if (!item.startsWith("depends=")) continue;
    for (const name of item.slice("depends=".length).split(",")) if (name !== "") names.add(name.replaceAll("-", "_"));
  }
  return [...names];
}

function elfSection(file: Buffer, wanted: string): Buffer | undefined {
  if (file.length < 64 || file.toString("latin1", 0, 4) !== "\x7fELF" || file[5] !== 1) return undefined;
  const wide = file[4] === 2;
  const long = (at: number): number => (wide ? Number(file.readBigUInt64LE(at)) : file.readUInt32LE(at));
  const table = long(wide ? 0x28 : 0x20);
  const size = file.readUInt16LE(wide ? 0x3a : 0x2e);
  const count = file.readUInt16LE(wide ? 0x3c : 0x30);
  const names = file.readUInt16LE(wide ? 0x3e : 0x32);
  const header = (index: number): { name: number; data: Buffer } | undefined => {
    const at = table + index * size;
    if (at + (wide ? 0x28 : 0x18) > file.length) return undefined;
    const offset = long(at + (wide ? 0x18 : 0x10));
    const length = long(at + (wide ? 0x20 : 0x14));
    return { name: file.readUInt32LE(at), data: file.subarray(offset, offset + length) };
  };
  const strings = header(names)?.data;
  if (strings === undefined) return undefined;
  for (let index = 0; index < count; index += 1) {
    const one = header(index);
    if (one === undefined) return undefined;
    const end = strings.indexOf(0, one.name);
    if (strings.toString("latin1", one.name, end) === wanted) return one.data;
  }
  return undefined;
}

function unpack(path: string, data: Buffer): Buffer {
  const packed = SUFFIX.exec(path)?.[1];
  if (packed === undefined) return data;
  if (packed === ".gz") return gunzipSync(data);
  const [program = "", ...args] = packed === ".xz" ? ["xz", "-dc"] : ["zstd", "-dcq"];
  const result = spawnSync(program, args, { input: data, maxBuffer: 256 * 2 ** 20, timeout: 30_000 });
  // Without the program the module is left out, and the guest does without what it drives.
  return result.status === 0 ? result.stdout : Buffer.alloc(0);
}

async function indexModules(folder: string): Promise<Map<string, string>> {
  const index = new Map<string, string>();
  const entries = await readdir(folder, { recursive: true }).catch(() => []);
  for (const entry of entries) if (SUFFIX.test(entry)) index.set(moduleName(entry), join(folder, entry));
  return index;
}

async function builtinModules(folder: string): Promise<ReadonlySet<string>> {
  const text = await readFile(join(folder, "modules.builtin"), "utf8").catch(() => "");
  return new Set(
    text
      .split("\n")
      .filter((line) => line !== "")
      .map(moduleName),
  );
}

async function firstFolder(places: readonly string[]): Promise<string | undefined> {
  for (const place of places) {
    if ((await stat(place).catch(() => undefined))?.isDirectory() === true) return place;
  }
  return undefined;
}

async function firstConfig(
  places: readonly string[],
): Promise<{ readonly path: string; readonly values: ReadonlyMap<string, string> } | undefined> {
  for (const path of places) {
    const text = await readFile(path, "utf8").catch(() => undefined);
    if (text === undefined || !text.includes("CONFIG_")) continue;
    const values = new Map<string, string>();
    for (const [, name = "", value = ""] of text.matchAll(/^CONFIG_(\w+)=(.*)$/gm)) values.set(name, value);
    return { path, values };
  }
  return undefined;
}
