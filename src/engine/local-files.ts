import { createHash } from "node:crypto";
import { type BigIntStats, createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import type { LocalFiles } from "../provider/index.ts";

/** Up to here a file is read whole: a stream for each of hundreds of small files takes several times as long. Bytes. */
const WHOLE = 1 << 20;
/** The largest file that is kept in memory, and the most of all together. Bytes. */
const KEEP_FILE = 128 << 10;
const KEEP_ALL = 16 << 20;
/** A file system may give two changes one time stamp: what changed more recently than this is read again. Milliseconds. */
const SETTLED_MS = 2_000;

interface Known {
  readonly sha256: string;
  readonly size: number;
  readonly mode: string;
  /** Absent where the file is large, or enough others are kept. */
  readonly bytes: Buffer | undefined;
}

/** A path of a spec as an absolute one: `~` is the user's home, relative paths start at the lab's root. */
export function resolveLocal(root: string, path: string): string {
  if (path === "~" || path.startsWith("~/")) return join(homedir(), path.slice(1));
  return isAbsolute(path) ? path : resolve(root, path);
}

/**
 * Files of the machine that labctl runs on. What cannot be read is the spec's mistake: E_SOURCE_FILE. A file that goes to
 * many machines is read once; every question looks whether it is still the same file, by what stat(2) says of it.
 */
export function localFiles(root: string): LocalFiles {
  const known = new Map<string, { readonly stamp: string; readonly content: Promise<Known> }>();
  const looking = new Map<string, Promise<BigIntStats>>();
  let kept = 0;

  const look = async (absolute: string, info: BigIntStats): Promise<Known> => {
    const mode = (Number(info.mode) & 0o7777).toString(8).padStart(4, "0");
    const hash = createHash("sha256");
    if (info.size <= WHOLE) {
      const bytes = await readFile(absolute);
      const keep = bytes.length <= KEEP_FILE && kept + bytes.length <= KEEP_ALL;
      if (keep) kept += bytes.length;
      return {
        sha256: hash.update(bytes).digest("hex"),
        size: bytes.length,
        mode,
        bytes: keep ? bytes : undefined,
      };
    }
    let size = 0;
    for await (const chunk of createReadStream(absolute) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      size += chunk.length;
    }
    return { sha256: hash.digest("hex"), size, mode, bytes: undefined };
  };

  /** Many machines ask for one file at once. */
  const inspect = async (absolute: string): Promise<BigIntStats> => {
    let asked = looking.get(absolute);
    if (asked === undefined) {
      asked = stat(absolute, { bigint: true }).finally(() => looking.delete(absolute));
      looking.set(absolute, asked);
    }
    const info = await asked;
    if (!info.isFile()) throw new Error("not a regular file");
    return info;
  };

  const find = async (absolute: string, info: BigIntStats): Promise<Known> => {
    const stamp = [info.dev, info.ino, info.size, info.mode, info.mtimeNs, info.ctimeNs].join(" ");
    const before = known.get(absolute);
    if (before?.stamp === stamp) return await before.content;
    if (before !== undefined) forget(absolute, before.content);
    const content = look(absolute, info);
    const changed = Math.max(Number(info.mtimeMs), Number(info.ctimeMs));
    if (Date.now() - changed < SETTLED_MS) return release(await content);
    known.set(absolute, { stamp, content });
    try {
      return await content;
    } catch (error) {
      if (known.get(absolute)?.content === content) known.delete(absolute);
      throw error;
    }
  };

  const release = (content: Known): Known => {
    kept -= content.bytes?.length ?? 0;
    return content;
  };
  const forget = (absolute: string, content: Promise<Known>): void => {
    known.delete(absolute);
    content.then(release, () => undefined);
  };

  const guard = async <T>(path: string, work: (absolute: string) => Promise<T>): Promise<T> => {
    try {
      return await work(resolveLocal(root, path));
    } catch (cause) {
      throw new LabError(
        "E_SOURCE_FILE",
        `cannot read ${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
        {
          cause,
          hint: "paths in a spec are relative to the file that holds them",
        },
      );
    }
  };
  return {
    resolve: (path) => resolveLocal(root, path),
    // A copy: who asks may write into what it gets.
    read: (path) =>
      guard(path, async (absolute) => {
        const info = await inspect(absolute);
        const bytes = info.size <= KEEP_FILE ? (await find(absolute, info)).bytes : undefined;
        return bytes === undefined ? await readFile(absolute) : Buffer.from(bytes);
      }),
    digest: (path, most = -1) =>
      guard(path, async (absolute) => {
        const { sha256, size, mode, bytes } = await find(absolute, await inspect(absolute));
        return { sha256, size, mode, ...(bytes !== undefined && size <= most && { bytes: Buffer.from(bytes) }) };
      }),
  };
}
