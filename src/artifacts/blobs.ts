import { createHash } from "node:crypto";
import { chmod, type FileHandle, open, readFile, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { nodeFs } from "../state/index.ts";
import { type BlockMap, BLOCK, describePiece, formatBlockMap, parseBlockMap, PIECE, type Piece } from "./block-map.ts";
import { BlobWriter, type MakeRoom } from "./blob-writer.ts";
import {
  ifThere,
  isAbandoned,
  letGo,
  list,
  makeFolder,
  removeIfThere,
  removeUnlessUsed,
  replaceFile,
  storeError,
  syncFolder,
  temporaryName,
  touch,
  withSteady,
} from "./files.ts";
import { type Layout, SHA256 } from "./layout.ts";
import type { BlobInfo } from "./types.ts";

const READ = 1024 * 1024;

/** The content of the store: files named by their own digest. */
export class Blobs {
  readonly #layout: Layout;

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** A writer under a temporary name; `keep` gives it with {@link Blobs.keep}. */
  async writer(room: MakeRoom, what = "blob"): Promise<BlobWriter> {
    await makeFolder(this.#layout.temporary);
    return BlobWriter.open(join(this.#layout.temporary, temporaryName(what)), room);
  }

  /** Moves what a writer wrote to its place. A blob of this digest that is there already is replaced: this one is known good. */
  async keep(writer: BlobWriter, expected?: string): Promise<BlockMap> {
    const map = await writer.finish();
    if (expected !== undefined && map.sha256 !== expected) {
      await writer.abandon();
      throw new LabError("E_MISMATCH", `the content has the digest ${map.sha256}, not ${expected}`, {
        hint: "the file changed while it was read, or it is not the one that was meant; run again",
        retryable: true,
      });
    }
    await writer.roomy(() => makeFolder(this.#layout.folder(map.sha256)));
    await writer.roomy(() => replaceFile(this.#layout.map(map.sha256), formatBlockMap(map), this.#layout.temporary));
    await chmod(writer.path, 0o400);
    await nodeFs.rename(writer.path, this.#layout.blob(map.sha256));
    letGo(writer.path);
    await syncFolder(this.#layout.folder(map.sha256));
    return map;
  }

  /** Marks it as just used, so that no gc takes it. False: not there. */
  async freshen(sha256: string): Promise<boolean> {
    return (await withSteady(this.#layout.blob(sha256), (path) => missingUnless(touch(path)))) ?? false;
  }

  async info(sha256: string): Promise<BlobInfo | undefined> {
    const found = await withSteady(this.#layout.blob(sha256), (path) => stat(path));
    return found && { sha256, size: found.size, allocated: found.blocks * 512, touched: Math.round(found.mtimeMs) };
  }

  /**
   * Its content, verified: rejects with E_ARTIFACT_CORRUPT after the last byte where the digest is another one, so what
   * was done with it counts only once the iteration has ended. Nothing past the last verified byte is ever given as whole.
   */
  async *read(sha256: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
    const file = await withSteady(this.#layout.blob(sha256), (path) => open(path, "r"));
    if (file === undefined) throw notStored(sha256);
    const hash = createHash("sha256");
    const { ino } = await file.stat();
    try {
      for await (const chunk of file.createReadStream({
        highWaterMark: READ,
        autoClose: false,
        ...(signal && { signal }),
      })) {
        hash.update(chunk as Buffer);
        yield chunk as Buffer;
      }
    } catch (error) {
      if (error instanceof Error && error.name === "AbortError") throw new LabError("E_CANCELLED", "cancelled");
      throw storeError(error, `the artifact ${sha256} cannot be read`);
    } finally {
      await file.close();
    }
    const found = hash.digest("hex");
    if (found !== sha256) {
      await this.quarantine(sha256, ino);
      throw corrupt(sha256, `its content has the digest ${found}`);
    }
  }

  /** Reads all of it. @throws LabError E_ARTIFACT_CORRUPT, E_ARTIFACT_NOT_FOUND */
  async verify(sha256: string, signal?: AbortSignal): Promise<number> {
    let size = 0;
    for await (const chunk of this.read(sha256, signal)) size += chunk.length;
    return size;
  }

  /** Its block map; made anew, with all of it read and verified, where it is missing or damaged. */
  async map(sha256: string): Promise<BlockMap> {
    const text = await ifThere(readFile(this.#layout.map(sha256), "utf8"));
    const known = text === undefined ? undefined : parseBlockMap(text, sha256);
    if (known !== undefined) {
      const info = await this.info(sha256);
      if (info === undefined) throw notStored(sha256);
      if (info.size === known.size) return known;
      await this.verify(sha256);
    }
    const pieces: Piece[] = [];
    const piece = Buffer.alloc(PIECE);
    let filled = 0;
    let size = 0;
    const flush = (): void => {
      const padded = Math.ceil(filled / BLOCK) * BLOCK;
      pieces.push(describePiece(piece.fill(0, filled, padded).subarray(0, padded)));
      filled = 0;
    };
    for await (const chunk of this.read(sha256)) {
      size += chunk.length;
      for (let at = 0; at < chunk.length; ) {
        const count = Math.min(chunk.length - at, PIECE - filled);
        chunk.copy(piece, filled, at, at + count);
        filled += count;
        at += count;
        if (filled === PIECE) flush();
      }
    }
    if (filled > 0) flush();
    const map = { sha256, size, pieces };
    await replaceFile(this.#layout.map(sha256), formatBlockMap(map), this.#layout.temporary);
    return map;
  }

  /** Opened for reading parts of it, unverified: who reads compares them with the block map. */
  async open(sha256: string): Promise<FileHandle> {
    const file = await withSteady(this.#layout.blob(sha256), (path) => open(path, "r"));
    if (file === undefined) throw notStored(sha256);
    return file;
  }

  /** A writer that goes on where one that has ended before left off, fetching the same content; else a new one. */
  async resume(sha256: string, room: MakeRoom): Promise<BlobWriter> {
    const what = `fetch-${sha256}`;
    for (const name of await list(this.#layout.temporary)) {
      if (!name.startsWith(`${what}.`) || !isAbandoned(name)) continue;
      const path = join(this.#layout.temporary, temporaryName(what));
      if ((await ifThere(nodeFs.rename(join(this.#layout.temporary, name), path).then(() => true))) === undefined)
        continue;
      return await BlobWriter.resume(path, room);
    }
    return await this.writer(room, what);
  }

  /** Moves a damaged blob to where nobody takes it for whole; one that has taken its place since is left. */
  async quarantine(sha256: string, ino: number): Promise<void> {
    const path = this.#layout.blob(sha256);
    await makeFolder(this.#layout.corrupted);
    const to = join(this.#layout.corrupted, temporaryName(sha256));
    letGo(to);
    if ((await ifThere(stat(path)))?.ino !== ino) return;
    if ((await ifThere(nodeFs.rename(path, to).then(() => true))) === undefined) return;
    if ((await stat(to)).ino !== ino) {
      await nodeFs.rename(to, path);
      return;
    }
    await touch(to);
    await removeIfThere(this.#layout.map(sha256));
    await ifThere(syncFolder(this.#layout.folder(sha256)));
  }

  /** Removes it unless it was used since `touched`. */
  async remove(sha256: string, touched: number): Promise<boolean> {
    const removed = await removeUnlessUsed(
      this.#layout.blob(sha256),
      async (path) => (await stat(path)).mtimeMs <= touched + 1,
    );
    if (removed) await removeIfThere(this.#layout.map(sha256));
    return removed;
  }

  async *all(): AsyncGenerator<BlobInfo> {
    for (const folder of await list(this.#layout.blobs)) {
      for (const name of await list(join(this.#layout.blobs, folder))) {
        if (!SHA256.test(name)) continue;
        const info = await this.info(name);
        if (info !== undefined) yield info;
      }
    }
  }

  /** Bytes that are free where the store is. */
  async free(): Promise<number> {
    const found = await ifThere(statfs(this.#layout.root));
    return found === undefined ? Number.POSITIVE_INFINITY : found.bavail * found.bsize;
  }
}

async function missingUnless(there: Promise<boolean>): Promise<true> {
  if (await there) return true;
  throw Object.assign(new Error("not there"), { code: "ENOENT" });
}

export function notStored(sha256: string): LabError {
  return new LabError("E_ARTIFACT_NOT_FOUND", `the store has no artifact ${sha256}`, {
    hint: "it was collected, or found damaged and moved aside; build it again (`labctl artifact list` shows what is there)",
  });
}

export function corrupt(sha256: string, why: string): LabError {
  return new LabError("E_ARTIFACT_CORRUPT", `the artifact ${sha256} is damaged: ${why}`, {
    hint: "it was moved aside, and nothing will use it; build it again, or `labctl artifact verify` for the rest of the store",
  });
}
