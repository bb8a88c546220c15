import { relative } from "node:path/posix";
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import {
  type Address,
  type CpioEntry,
  cpioArchive,
  CpioWriter,
  type KindContext,
  LabError,
  readTar,
  type TarEntry,
} from "../../src/index.ts";
import { type BootFile, contentOf } from "./boot-file.ts";
import { compression } from "./model/image.ts";

/** The modules of one kernel, in an archive. */
export type ModulesFile = BootFile & {
  /** The kernel's, as the archive's folders say. */
  readonly release: string;
};

/** Below one of these, in a folder that is named after the kernel's release. */
const INSIDE = /^(?:usr\/)?lib\/modules\/([^/]+)(?:\/(.+))?$/;

/** Links of modules_install to where the kernel was built: nothing that a guest has. */
const OF_THE_BUILD = new Set(["build", "source"]);

const ALIGNED = 512;
/** A decompressor may want to see the end of its stream in zeros: LZ4's does (lib/decompress_unlz4.c). */
const ZEROS = 4;

/**
 * Finds the modules of a kernel in an archive. `kernel`: its release; undefined: nobody knows it, and then the archive may have no
 * more than one. @throws LabError E_IMAGE_FORMAT where it has none for it, or is no tar archive
 */
export async function requireModules(
  ctx: KindContext,
  file: BootFile,
  wanted: { readonly kernel: string | undefined; readonly address: Address; readonly path: string },
): Promise<ModulesFile> {
  const { kernel, address, path } = wanted;
  const found = new Set<string>();
  await named(wanted, async () => {
    for await (const entry of readTar(unpacked(ctx, file), () => false)) {
      const release = INSIDE.exec(entry.path)?.[1];
      if (release !== undefined) found.add(release);
      if (release !== undefined && release === kernel) return;
    }
  });
  const [first] = found;
  const release = kernel ?? first;
  if (release !== undefined && found.has(release) && (kernel !== undefined || found.size === 1))
    return { ...file, release };
  const all = [...found].toSorted().join(" and ");
  throw new LabError(
    "E_IMAGE_FORMAT",
    first === undefined
      ? `${path} holds no modules: there is no lib/modules/RELEASE in it`
      : `${path} holds modules of ${all}${kernel === undefined ? "" : `, and the kernel is ${kernel}`}`,
    {
      address,
      hint:
        first !== undefined && kernel === undefined
          ? "say which with `release`"
          : "name the `kernel_modules` of the kernel's own build (`modules: true`)",
    },
  );
}

/**
 * An initial RAM disk with the modules in it: the kernel unpacks archives that follow each other, compressed or not
 * (Documentation/driver-api/early-userspace/buffer-format.rst). The same bytes for the same two files.
 *
 * What the initial RAM disk has for /lib, a folder or a link to usr/lib, has to stay what it is. An entry `lib` behind it would replace
 * a link; without any, where it has no /lib, nothing below could be made. So an empty folder comes before it, which gives way.
 */
export async function* withModules(
  ctx: KindContext,
  initrd: BootFile,
  modules: ModulesFile,
  path: string,
): AsyncGenerator<Uint8Array> {
  const before = cpioArchive([{ type: "directory", path: "lib", mode: 0o755 }]);
  yield before;
  let size = before.length;
  for await (const part of contentOf(ctx, initrd)) {
    size += part.length;
    yield part;
  }
  yield Buffer.alloc(ZEROS + ALIGNED - ((size + ZEROS) % ALIGNED));
  const writer = new CpioWriter();
  const folders = new Set(["lib"]);
  const inside = (entry: TarEntry): boolean => placeOf(entry, modules.release) !== undefined;
  try {
    for await (const entry of readTar(unpacked(ctx, modules), inside)) {
      const place = placeOf(entry, modules.release);
      if (place === undefined) continue;
      for (const folder of foldersTo(entry.type === "directory" ? `${place}/.` : place)) {
        if (folders.has(folder)) continue;
        folders.add(folder);
        yield* writer.add({ type: "directory", path: folder, mode: 0o755 });
      }
      const made = entryOf(entry, place, modules.release);
      if (made !== undefined) yield* writer.add(made);
    }
  } catch (error) {
    throw unreadable(error, path);
  }
  yield* writer.end();
}

/** Where it lies in the guest; undefined: it is of no concern. */
function placeOf({ path }: Pick<TarEntry, "path">, release: string): string | undefined {
  const [, found, rest] = INSIDE.exec(path) ?? [];
  if (found !== release || OF_THE_BUILD.has(rest ?? "")) return undefined;
  return ["lib/modules", release, ...(rest === undefined ? [] : [rest])].join("/");
}

function entryOf(entry: TarEntry & { readonly data: Buffer }, path: string, release: string): CpioEntry | undefined {
  const { mode, target } = entry;
  if (entry.type === "file") return { type: "file", path, mode, data: entry.data };
  if (entry.type === "symlink") return { type: "symlink", path, mode: 0o777, target };
  if (entry.type !== "link") return undefined;
  // The same file once more: the other name of it will do.
  const other = placeOf({ path: target.replace(/^\.\//, "") }, release);
  return other === undefined
    ? undefined
    : { type: "symlink", path, mode: 0o777, target: relative(`${path}/..`, other) };
}

function foldersTo(path: string): string[] {
  const words = path.split("/").slice(0, -1);
  return words.map((_, at) => words.slice(0, at + 1).join("/"));
}

/** As the archive is, without gzip. */
async function* unpacked(ctx: KindContext, file: BootFile): AsyncGenerator<Uint8Array> {
  const source = contentOf(ctx, file)[Symbol.asyncIterator]();
  try {
    const first = await source.next();
    if (first.done === true) throw new RangeError("it is empty");
    const packed = compression(first.value);
    if (packed !== undefined && packed.name !== "gzip")
      throw new RangeError(`it is compressed (${packed.name}): unpack it, or use gzip`);
    const whole = withFirst(first.value, source);
    yield* packed === undefined ? whole : gunzipped(whole);
  } finally {
    await source.return?.();
  }
}

async function* withFirst(first: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield first;
  yield* { [Symbol.asyncIterator]: () => rest };
}

async function* gunzipped(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const input = Readable.from(source, { objectMode: false });
  const output = createGunzip();
  input.on("error", (error) => output.destroy(error));
  try {
    yield* input.pipe(output) as AsyncIterable<Uint8Array>;
  } finally {
    input.destroy();
    output.destroy();
  }
}

async function named(
  wanted: { readonly address: Address; readonly path: string },
  work: () => Promise<void>,
): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw unreadable(error, wanted.path, wanted.address);
  }
}

function unreadable(error: unknown, path: string, address?: Address): unknown {
  if (error instanceof LabError || !(error instanceof Error)) return error;
  const { code } = error as NodeJS.ErrnoException;
  // What zlib and the reader of archives say is of the content.
  if (!(error instanceof RangeError) && code?.startsWith("Z_") !== true) return error;
  return new LabError("E_IMAGE_FORMAT", `${path} is no archive of modules that can be read: ${error.message}`, {
    ...(address !== undefined && { address }),
    cause: error,
    hint: "the `kernel_modules` of a build is one: a tar archive of lib/modules/RELEASE",
  });
}
