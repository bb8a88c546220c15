import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import * as fsp from "node:fs/promises";
import { dirname } from "node:path";
import { LabError } from "../diagnostics/index.ts";

/** An open file. All writes are at a position that the caller knows: nothing depends on a shared offset. */
export interface FsFile {
  /** May write fewer bytes than given, as pwrite(2) does. */
  write(data: Uint8Array, position: number): Promise<number>;
  /** fdatasync(2): data and the size that is needed to read it. */
  datasync(): Promise<void>;
  truncate(length: number): Promise<void>;
  /** Sets the modification time, seconds since the epoch. */
  touch(seconds: number): Promise<void>;
  stat(): Promise<FsStat>;
  close(): Promise<void>;
}

export interface FsStat {
  readonly dev: number;
  readonly ino: number;
  readonly size: number;
  readonly mtimeMs: number;
  readonly nlink: number;
}

/** The file operations that the store is made of, so that a test can stop the world before, within and after each. */
export interface Fs {
  open(path: string, mode: "create" | "write"): Promise<FsFile>;
  readFile(path: string): Promise<Buffer>;
  readdir(path: string): Promise<string[]>;
  stat(path: string): Promise<FsStat>;
  /** Makes a folder (0700) and those above it; true where it was not there. */
  mkdir(path: string): Promise<boolean>;
  link(from: string, to: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  syncDir(path: string): Promise<void>;
}

class NodeFile implements FsFile {
  readonly #handle: fsp.FileHandle;
  constructor(handle: fsp.FileHandle) {
    this.#handle = handle;
  }
  async write(data: Uint8Array, position: number): Promise<number> {
    return (await this.#handle.write(data, 0, data.length, position)).bytesWritten;
  }
  datasync(): Promise<void> {
    return this.#handle.datasync();
  }
  truncate(length: number): Promise<void> {
    return this.#handle.truncate(length);
  }
  touch(seconds: number): Promise<void> {
    return this.#handle.utimes(seconds, seconds);
  }
  stat(): Promise<FsStat> {
    return this.#handle.stat();
  }
  close(): Promise<void> {
    return this.#handle.close();
  }
}

export const nodeFs: Fs = {
  async open(path, mode) {
    // O_EXCL: what is created was not there, and no symbolic link is followed to somebody else's file.
    const flags = mode === "create" ? constants.O_RDWR | constants.O_CREAT | constants.O_EXCL : constants.O_RDWR;
    return new NodeFile(await fsp.open(path, flags, 0o600));
  },
  readFile: (path) => fsp.readFile(path),
  readdir: (path) => fsp.readdir(path),
  stat: (path) => fsp.stat(path),
  async mkdir(path) {
    try {
      await fsp.mkdir(path, 0o700);
      return true;
    } catch (error) {
      if (errorCode(error) === "EEXIST" && (await fsp.stat(path)).isDirectory()) return false;
      const parent = dirname(path);
      if (!isMissing(error) || parent === path) throw error;
      // Not fsp.mkdir's own recursion: on a read-only file system that reports ENOENT in place of EROFS.
      await nodeFs.mkdir(parent);
      await fsp.mkdir(path, 0o700).catch((again: unknown) => {
        if (errorCode(again) !== "EEXIST") throw again;
      });
      return true;
    }
  },
  link: (from, to) => fsp.link(from, to),
  rename: (from, to) => fsp.rename(from, to),
  unlink: (path) => fsp.unlink(path),
  async syncDir(path) {
    const handle = await fsp.open(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
};

export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

export function isMissing(error: unknown): boolean {
  return errorCode(error) === "ENOENT";
}

/** Runs `work`; undefined where what it needs is not there. */
export async function ifThere<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

export async function unlinkIfThere(fs: Fs, path: string): Promise<void> {
  await ifThere(fs.unlink(path));
}

/** Writes all of `data`, however often the system takes only a part of it. */
export async function writeAll(file: FsFile, data: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const count = await file.write(data.subarray(done), position + done);
    if (count <= 0) throw Object.assign(new Error("the system wrote nothing"), { code: "EIO" });
    done += count;
  }
}

/** Six random bytes as hex: temporary names that no two processes share. */
export function randomTag(): string {
  return randomBytes(6).toString("hex");
}

/** What a failed write means to the user. Errors that say it already pass unchanged. */
export function writeError(error: unknown, what: string): LabError {
  if (error instanceof LabError) return error;
  const code = errorCode(error);
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new LabError("E_DISK_FULL", `no space left to write ${what}`, {
      cause: error,
      retryable: true,
      hint: "free some space there and run again; nothing that was recorded as done is lost",
    });
  }
  const why = reasonOf(code, error);
  return new LabError("E_STATE_WRITE", `${what} cannot be written: ${why}`, { cause: error, hint: writeHint(code) });
}

export function readError(error: unknown, what: string): LabError {
  if (error instanceof LabError) return error;
  const code = errorCode(error);
  return new LabError("E_STATE_READ", `${what} cannot be read: ${reasonOf(code, error)}`, {
    cause: error,
    hint: "check the folder, its owner and its permissions, or name another one with `state: { path: ... }`",
  });
}

function reasonOf(code: string | undefined, error: unknown): string {
  switch (code) {
    case "EROFS":
      return "the file system is read-only";
    case "EACCES":
    case "EPERM":
      return "permission denied";
    case "EIO":
      return "the disk reports an input/output error";
    case "ENOTDIR":
      return "a part of its path is not a folder";
    case "EMFILE":
    case "ENFILE":
      return "too many files are open";
    default:
      return error instanceof Error ? error.message : String(error);
  }
}

function writeHint(code: string | undefined): string {
  switch (code) {
    case "EROFS":
      return "remount it writable, or keep the state elsewhere with `state: { path: ... }`";
    case "EIO":
      return "check the disk (dmesg); what was recorded before is kept";
    case "EPERM":
    case "EOPNOTSUPP":
    case "ENOTSUP":
      return "the state needs a file system with hard links and rename; name another folder with `state: { path: ... }`";
    default:
      return "check the folder's owner and permissions, or keep the state elsewhere with `state: { path: ... }`";
  }
}
