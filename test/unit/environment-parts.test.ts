/** The parts of what an environment boots, without a host: what is refused, and what comes out. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BootFile } from "../../providers/libvirt/boot-file.ts";
import { wellBoot } from "../../providers/libvirt/environment-failure.ts";
import { bootImages } from "../../providers/libvirt/environment-images.ts";
import { cmdlineOf, type EnvironmentDesired } from "../../providers/libvirt/environment-model.ts";
import { requireModules, withModules } from "../../providers/libvirt/environment-modules.ts";
import { digestIn } from "../../providers/libvirt/environment-place.ts";
import { hostFor } from "../../providers/libvirt/environment-select.ts";
import { environment } from "../../providers/libvirt/environment.ts";
import { type CpioEntry, cpioArchive, readCpio } from "../../src/archives/index.ts";
import type { ArtifactStore, Kind, KindContext } from "../../src/index.ts";
import { build, digest, failure, MEMORY, type Scratch, scratch } from "./artifact-helpers.ts";

const RELEASE = "6.1.0-lab";
const ADDRESS = "environment.smoke";

let place: Scratch;
let store: ArtifactStore;
let kernel: string;

beforeAll(async () => {
  place = scratch(MEMORY);
  store = place.store();
  kernel = await put(readFileSync(join(import.meta.dirname, "../fixtures/images/kernel-x86_64-bzImage.bin")));
});
afterAll(() => place.remove());

const put = async (content: Uint8Array | string): Promise<string> => `sha256:${(await store.put({ content })).sha256}`;
const context = (): KindContext =>
  ({ artifacts: store, signal: new AbortController().signal }) as unknown as KindContext;
const fileOf = (text: string): BootFile => ({ sha256: text.slice("sha256:".length) });

function desired(boot: object, vm: object = {}): EnvironmentDesired {
  return { name: "smoke", vm, boot: { kernel, release: RELEASE, ...boot } } as unknown as EnvironmentDesired;
}

/** What `modules: true` makes, with these files below lib/modules. */
function archive(files: Readonly<Record<string, string>>, prefix = "lib/modules"): Buffer {
  const root = join(place.root, "tree");
  rmSync(root, { recursive: true, force: true });
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(root, prefix, path, ".."), { recursive: true });
    writeFileSync(join(root, prefix, path), content);
  }
  return execFileSync("tar", ["-C", root, "--sort=name", "--mtime=@0", "-cf", "-", "."]);
}

const WANTED = { kernel: RELEASE, address: ADDRESS, path: "modules.tar" };

describe("modules", () => {
  test("of another kernel are refused by name; of several kernels the right ones are taken", async () => {
    const several = await put(archive({ "5.10.0/a.ko": "a", [`${RELEASE}/b.ko`]: "b" }));
    expect((await requireModules(context(), fileOf(several), WANTED)).release).toBe(RELEASE);
    const other = fileOf(await put(archive({ "5.10.0/a.ko": "a" })));
    expect(await failure(requireModules(context(), other, WANTED))).toMatchObject({
      code: "E_IMAGE_FORMAT",
      message: `modules.tar holds modules of 5.10.0, and the kernel is ${RELEASE}`,
      address: ADDRESS,
    });
    // Nobody knows what the kernel is.
    const unknown = { ...WANTED, kernel: undefined };
    expect((await requireModules(context(), other, unknown)).release).toBe("5.10.0");
    expect((await failure(requireModules(context(), fileOf(several), unknown))).message).toContain(
      `holds modules of 5.10.0 and ${RELEASE}`,
    );
  });

  test("that are none, compressed by what cannot be read, cut off or damaged are refused", async () => {
    const whole = archive({ [`${RELEASE}/a.ko`]: "a".repeat(4000) });
    const refused = async (content: Uint8Array): Promise<string> => {
      const error = await failure(requireModules(context(), fileOf(await put(content)), WANTED));
      expect(error.code).toBe("E_IMAGE_FORMAT");
      return error.message;
    };
    expect(await refused(archive({ "x/a.ko": "a" }, "somewhere"))).toContain("holds no modules");
    expect(await refused(Buffer.from("\xfd7zXZ\0 and so on", "latin1"))).toContain("it is compressed (xz)");
    expect(await refused(gzipSync(archive({ "5.10.0/a.ko": "a" })).subarray(0, 100))).toContain(
      "unexpected end of file",
    );
    expect(await refused(Buffer.alloc(4096, 7))).toContain("it is no tar archive");
    expect(await refused(Buffer.alloc(0))).toContain("it is empty");
    expect((await requireModules(context(), fileOf(await put(gzipSync(whole))), WANTED)).release).toBe(RELEASE);
  });

  const INITRDS: readonly [string, readonly CpioEntry[], string][] = [
    ["without a /lib", [{ type: "file", path: "init", mode: 0o755, data: Buffer.from("#!") }], "lib"],
    [
      "with a /lib",
      [
        { type: "directory", path: "lib", mode: 0o755 },
        { type: "file", path: "lib/ld.so", mode: 0o755, data: Buffer.from("ld") },
      ],
      "lib",
    ],
    [
      "whose /lib is a link",
      [
        { type: "directory", path: "usr", mode: 0o755 },
        { type: "directory", path: "usr/lib", mode: 0o755 },
        { type: "file", path: "usr/lib/ld.so", mode: 0o755, data: Buffer.from("ld") },
        { type: "symlink", path: "lib", mode: 0o777, target: "usr/lib" },
      ],
      "usr/lib",
    ],
  ];

  test.each(INITRDS)("come into an initial RAM disk %s, and what it has stays", async (_what, entries, lib) => {
    const initrd = cpioArchive(entries);
    const tar = archive({
      [`${RELEASE}/kernel/a.ko`]: "a",
      [`${RELEASE}/modules.dep`]: "kernel/a.ko:",
      [`${RELEASE}/build`]: "x",
      "5.10.0/other.ko": "o",
    });
    const modules = { ...fileOf(await put(gzipSync(tar))), release: RELEASE };
    const make = async (): Promise<Buffer> =>
      Buffer.concat(await all(withModules(context(), fileOf(await put(initrd)), modules, "modules.tar.gz")));
    const made = await make();
    expect(digest(await make())).toBe(digest(made));
    const tree = unpack(readCpio(made));
    expect(tree.get(`${lib}/modules/${RELEASE}/kernel/a.ko`)).toBe("a");
    expect([...tree.keys()].filter((path) => /build|other/.test(path))).toEqual([]);
    for (const entry of entries) if (entry.type === "file") expect(tree.get(entry.path)).toBe(entry.data.toString());
  });

  test("begin where the kernel looks for them, behind zeros that end any compression", async () => {
    const modules = { ...fileOf(await put(archive({ [`${RELEASE}/a.ko`]: "a" }))), release: RELEASE };
    for (const length of [505, 508, 509, 511, 512, 513]) {
      const initrd = Buffer.alloc(length, 0xee);
      const made = Buffer.concat(await all(withModules(context(), fileOf(await put(initrd)), modules, "modules.tar")));
      const end = made.lastIndexOf(0xee) + 1;
      const begin = made.indexOf("070701", end);
      expect(begin % 4).toBe(0);
      expect(begin - end).toBeGreaterThanOrEqual(4);
      expect(made.subarray(end, begin).every((byte) => byte === 0)).toBe(true);
    }
  });
});

async function all(parts: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const out: Uint8Array[] = [];
  for await (const part of parts) out.push(part);
  return out;
}

/** Files by path, unpacked as the kernel does (init/initramfs.c): what is of another type gives way, a folder only when empty. */
function unpack(entries: readonly CpioEntry[]): ReadonlyMap<string, string> {
  const types = new Map<string, CpioEntry>();
  const real = (path: string): string => {
    const words = path.split("/");
    return words.reduce((at, word, i) => {
      const here = at === "" ? word : `${at}/${word}`;
      const entry = types.get(here);
      return i < words.length - 1 && entry?.type === "symlink" ? entry.target : here;
    }, "");
  };
  for (const entry of entries) {
    const path = real(entry.path);
    const parent = path.split("/").slice(0, -1).join("/");
    if (parent !== "" && types.get(parent)?.type !== "directory") continue;
    const there = types.get(path);
    if (there !== undefined && there.type !== entry.type) {
      if (there.type === "directory" && [...types.keys()].some((one) => one.startsWith(`${path}/`))) continue;
      types.delete(path);
    }
    types.set(path, entry);
  }
  return new Map([...types].flatMap(([path, one]) => (one.type === "file" ? [[path, String(one.data)]] : [])));
}

describe("a root file system", () => {
  /** An ext4 superblock in a file of that many bytes. */
  const ext4 = (blocks: number, size: number): Buffer => {
    const bytes = Buffer.alloc(size);
    bytes.writeUInt32LE(blocks, 1024 + 0x04);
    bytes.writeUInt32LE(2, 1024 + 0x18);
    bytes.writeUInt16LE(0xef53, 1024 + 0x38);
    return bytes;
  };
  const tried = async (content: Uint8Array, boot: object = {}): Promise<string> => {
    try {
      const { rootfs } = await bootImages(context(), ADDRESS, desired({ rootfs: await put(content), ...boot }));
      return rootfs?.format ?? "";
    } catch (error) {
      const { code, message } = error as { code: string; message: string };
      return `${code} ${message}`;
    }
  };

  test("is known by its content, and refused where it is cut off, empty, compressed, or an image of another kind", async () => {
    expect(await tried(ext4(4, 4 * 4096))).toBe("raw");
    expect(await tried(ext4(4, 3 * 4096))).toMatch(
      /E_IMAGE_FORMAT.*its file system has 16\.0 KiB, and the file 12\.0 KiB/,
    );
    expect(await tried(Buffer.alloc(0))).toMatch(/E_IMAGE_FORMAT.*it is empty/);
    expect(await tried(gzipSync("x"))).toMatch(/E_IMAGE_FORMAT.*it is compressed \(gzip\)/);
    expect(await tried(Buffer.concat([Buffer.from("KDMV"), Buffer.alloc(4096)]))).toMatch(/E_IMAGE_FORMAT.*is vmdk/);
    const qcow2 = Buffer.alloc(4 * 65_536);
    qcow2.write("QFI\xfb", 0, "latin1");
    qcow2.writeUInt32BE(3, 4);
    qcow2.writeBigUInt64BE(1n << 30n, 24);
    qcow2.writeUInt32BE(2, 36);
    qcow2.writeBigUInt64BE(3n * 65_536n, 40);
    qcow2.writeBigUInt64BE(65_536n, 48);
    expect(await tried(qcow2)).toBe("qcow2");
    expect(await tried(qcow2.subarray(0, 3 * 65_536 + 8))).toMatch(/E_IMAGE_FORMAT.*it is cut off/);
  });

  test("with partitions needs to be told which one is the root", async () => {
    const disk = Buffer.alloc(4096);
    disk.write("EFI PART", 512, "latin1");
    expect(await tried(disk)).toMatch(/E_SPEC_VALUE.*has partitions \(GPT\)/);
    expect(await tried(disk, { cmdline: "console=ttyS0 root=/dev/vda2" })).toBe("raw");
  });

  test("that a build made for another processor is refused", async () => {
    const text = await put(ext4(4, 4 * 4096));
    const artifact = { type: "rootfs", sha256: text.slice(7), size: 4 * 4096, mode: "0644", file: "root.ext4" };
    await store.saveBuild(build({ name: "distro", arch: "arm64", artifacts: { rootfs: artifact } }));
    expect(await failure(bootImages(context(), ADDRESS, desired({ rootfs: text })))).toMatchObject({
      code: "E_IMAGE_ARCH",
      message: expect.stringContaining("the build distro") as string,
    });
  });

  test("is the root, unless the command line names another", () => {
    const line = (boot: object): string => cmdlineOf(desired({ rootfs: "sha256:x", ...boot }));
    expect(line({})).toBe("console=ttyS0 root=/dev/vda rw");
    expect(line({ cmdline: "console=ttyS0 ro" })).toBe("console=ttyS0 ro root=/dev/vda");
    expect(line({ cmdline: "console=ttyS0 root=UUID=1" })).toBe("console=ttyS0 root=UUID=1");
    expect(line({ rootfs: undefined })).toBe("console=ttyS0");
  });
});

describe("what an environment boots", () => {
  const [a, b, c, d] = ["a", "b", "c", "d"].map((one) => digest(one));
  const good = {
    host: "host.a",
    domain: "d",
    running: true,
    ready: true,
    kernel_digest: a,
    initrd_digest: b,
    rootfs_digest: c,
    modules_digest: d,
    cmdline: "console=ttyS0 root=/dev/vda rw",
    networks: [],
    disks: [],
    arch: "x86_64",
    cpus: 1,
    memory: 2 ** 30,
  } as unknown as Parameters<typeof wellBoot>[1];

  test("is all gone back to, and nothing of the spec's stays", () => {
    expect(wellBoot(desired({ rootfs: "./new", modules: "./new", ready: "login" }), good)).toEqual({
      kernel: `sha256:${a}`,
      initrd: `sha256:${b}`,
      rootfs: `sha256:${c}`,
      modules: `sha256:${d}`,
      cmdline: "console=ttyS0 root=/dev/vda rw",
      release: RELEASE,
      ready: "login",
    });
    const { rootfs_digest: _r, modules_digest: _m, initrd_digest: _i, ...bare } = good;
    const back = wellBoot(desired({ rootfs: "./new", modules: "./new", initrd: "./new" }), bare);
    expect(Object.keys(back ?? {}).toSorted()).toEqual(["cmdline", "kernel", "release"]);
  });

  test("is told by the names of its files", () => {
    const path = `/x/environments/i/initrd-${b}-modules-${d}`;
    expect([digestIn("initrd", path), digestIn("modules", path)]).toEqual([b, d]);
    expect(digestIn("rootfs", `/x/rootfs-${c}.qcow2`)).toBe(c);
    expect(digestIn("kernel", `/x/kernel-${a}`)).toBe(a);
    expect(digestIn("kernel", `/x/kernel-${a}0`)).toBeUndefined();
    expect(digestIn("initrd", `/x/initrd-${b}/other`)).toBeUndefined();
  });

  test("and its machine differ by what is there, what is gone, and what is yet to be built", () => {
    const own = { kernel: `sha256:${a}`, initrd: `sha256:${b}`, rootfs: `sha256:${c}`, modules: `sha256:${d}` };
    const paths = (boot: object, vm: object = {}, seen: object = {}, unknown: readonly string[] = []): string[] =>
      (environment as Kind)
        .diff?.({
          desired: desired({ ...own, release: undefined, ...boot }, vm),
          observed: { ...good, ...seen },
          unknown: new Set(unknown),
        } as unknown as Parameters<NonNullable<Kind["diff"]>>[0])
        .map((one) => one.path) ?? [];
    expect(paths({})).toEqual([]);
    expect(paths({ rootfs: `sha256:${a}` })).toEqual(["rootfs_digest"]);
    expect(paths({ modules: undefined })).toEqual(["modules_digest"]);
    expect(paths({ initrd: undefined })).toEqual(["initrd_digest"]);
    expect(paths({ rootfs: undefined })).toEqual(["rootfs_digest", "cmdline"]);
    // It will be there: the command line is the same.
    expect(paths({ rootfs: undefined }, {}, {}, ["boot.rootfs"])).toEqual(["rootfs_digest"]);
    expect(paths({}, { networks: ["test"] }, { networks: ["test"] })).toEqual([]);
    expect(paths({}, { networks: ["test"] })).toEqual(["networks"]);
    expect(paths({}, { disks: [{ size: "1MiB" }] }, { disks: [2 ** 20] })).toEqual([]);
    expect(paths({}, {}, { disks: [2 ** 20] })).toEqual(["disks"]);
  });

  test("and its networks say which host it is on", () => {
    const hosts: Readonly<Record<string, string>> = { "network.one": "metal", "network.two": "away" };
    const ctx = {
      inventory: { get: (address: string) => ({ desired: { host: hosts[address] } }) },
    } as unknown as KindContext;
    const on = (vm: object): string | undefined => hostFor(ctx, ADDRESS, desired({}, vm));
    expect(on({})).toBeUndefined();
    expect(on({ networks: ["one"] })).toBe("metal");
    expect(on({ networks: ["one"], host: "metal" })).toBe("metal");
    expect(() => on({ networks: ["one"], host: "away" })).toThrow(/is on metal, and the machine is to be on away/);
    expect(() => on({ networks: ["one", "two"] })).toThrow(/network\.one is on metal, and network\.two on away/);
  });
});
