import { createHash } from "node:crypto";
import { createReadStream, type Stats } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import type { LocalFiles } from "../provider/index.ts";

/** Up to here a file is read whole: a stream for each of hundreds of small files takes several times as long. Bytes. */
const WHOLE = 1 << 20;

/** A path of a spec as an absolute one: `~` is the user's home, relative paths start at the lab's root. */
export function resolveLocal(root: string, path: string): string {
  if (path === "~" || path.startsWith("~/")) return join(homedir(), path.slice(1));
  return isAbsolute(path) ? path : resolve(root, path);
}

/** Files of the machine that labctl runs on. What cannot be read is the spec's mistake: E_SOURCE_FILE. */
export function localFiles(root: string): LocalFiles {
  const guard = async <T>(path: string, work: (absolute: string, info: Stats) => Promise<T>): Promise<T> => {
    const absolute = resolveLocal(root, path);
    try {
      const info = await stat(absolute);
      if (!info.isFile()) throw new Error("not a regular file");
      return await work(absolute, info);
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
    read: (path) => guard(path, (absolute) => readFile(absolute)),
    digest: (path) =>
      guard(path, async (absolute, info) => {
        const mode = (info.mode & 0o7777).toString(8).padStart(4, "0");
        const hash = createHash("sha256");
        if (info.size <= WHOLE) {
          const bytes = await readFile(absolute);
          return { sha256: hash.update(bytes).digest("hex"), size: bytes.length, mode };
        }
        let size = 0;
        for await (const chunk of createReadStream(absolute) as AsyncIterable<Buffer>) {
          hash.update(chunk);
          size += chunk.length;
        }
        return { sha256: hash.digest("hex"), size, mode };
      }),
  };
}
