import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, link, open, readdir, readFile, unlink, utimes, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { errorCode, ifThere, nodeFs, type ProcessTable, randomTag, systemProcesses } from "../state/index.ts";

export { errorCode, ifThere };

let table: ProcessTable | undefined;
const processes = (): ProcessTable => (table ??= systemProcesses());

/** What pids mean something in: this boot, in this pid namespace. */
function place(): string {
  const { pid: _pid, started: _started, ...where } = processes().self;
  return createHash("sha256").update(JSON.stringify(where)).digest("hex").slice(0, 8);
}

/** A name for a temporary file that no two writers share, and that tells whose it is. */
export function temporaryName(what: string): string {
  const { pid, started } = processes().self;
  const name = `${what}.${pid}-${started ?? "0"}-${place()}.${randomTag()}`;
  inUse.add(name);
  return name;
}

/** Temporary names that this process has given out and not yet let go of. */
const inUse = new Set<string>();

export function letGo(path: string): void {
  inUse.delete(basename(path));
}

/** Nobody writes to it any more: its process has ended, or this one has let go of it. */
export function isAbandoned(name: string): boolean {
  const { pid, started } = processes().self;
  if (name.includes(`.${pid}-${started ?? "0"}-${place()}.`)) return !inUse.has(name);
  return ownerOf(name) === "dead";
}

/** Whether the writer of a temporary file of this name still runs. */
export function ownerOf(name: string): "alive" | "dead" | "unknown" {
  const found = /\.(\d+)-(\d+)-([0-9a-f]{8})\.[0-9a-f]{12}$/.exec(name);
  const [, pid = "", started = "", where] = found ?? [];
  if (where !== place()) return "unknown";
  const { self } = processes();
  const { started: _own, ...rest } = self;
  return processes().liveness({
    ...rest,
    ...(started !== "0" && { started }),
    pid: Number(pid),
  });
}

export async function makeFolder(path: string): Promise<void> {
  if (await nodeFs.mkdir(path)) await syncFolder(dirname(path));
}

export function syncFolder(path: string): Promise<void> {
  return nodeFs.syncDir(path);
}

/** Opens a new file for writing, for its owner alone; O_EXCL, so that no link is followed. */
export function createFile(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
}

/** Whole small file at once: a temporary name beside, fsync, rename, fsync of the folder. */
export async function replaceFile(path: string, text: string, temporary: string): Promise<void> {
  await makeFolder(temporary);
  const name = join(temporary, temporaryName("json"));
  try {
    await writeFile(name, text, { flag: "wx", mode: 0o600, flush: true });
    await nodeFs.rename(name, path);
    letGo(name);
  } catch (error) {
    await removeIfThere(name);
    throw error;
  }
  await syncFolder(dirname(path));
}

export async function removeIfThere(path: string): Promise<boolean> {
  letGo(path);
  return (await ifThere(unlink(path).then(() => true))) ?? false;
}

export async function list(path: string): Promise<string[]> {
  return (await ifThere(readdir(path))) ?? [];
}

/** Sets the time of last use. False: it is not there. */
export async function touch(path: string, seconds = Date.now() / 1000): Promise<boolean> {
  return (await ifThere(utimes(path, seconds, seconds).then(() => true))) ?? false;
}

const GONE = ".gone.";
/** Who has put a file out of reach for longer than this has died before making up its mind. */
const GONE_MS = 2_000;
/** Others may take it away again between two looks; so many in a row mean that it is not there. */
const LOOKS = 5;

/**
 * Removes a file unless it turns out to be wanted after all. It is first put out of reach, then looked at once more, and
 * put back where `still` says no: who began to use it in between has either been seen, or finds it gone. False: kept.
 */
export async function removeUnlessUsed(path: string, still: (path: string) => Promise<boolean>): Promise<boolean> {
  const gone = path + GONE + randomTag();
  if ((await ifThere(nodeFs.rename(path, gone).then(() => true))) === undefined) return false;
  // Undefined: somebody took this process for dead, and put it back.
  if ((await ifThere(still(gone))) === true) return await removeIfThere(gone);
  await putBack(gone, path);
  return false;
}

async function putBack(gone: string, path: string): Promise<void> {
  // link, not rename: what was put there anew in the meantime stays.
  await ifThere(link(gone, path)).catch((error: unknown) => {
    if (errorCode(error) !== "EEXIST") throw error;
  });
  await removeIfThere(gone);
}

/** The name that a file has when nobody is looking at it. */
export function steadyName(name: string): string {
  const at = name.indexOf(GONE);
  return at < 0 ? name : name.slice(0, at);
}

/** Does something with a file; where it is just being looked at by a remover, waits for the outcome. */
export async function withSteady<T>(path: string, use: (path: string) => Promise<T>): Promise<T | undefined> {
  const until = performance.now() + GONE_MS;
  for (let looks = 0; looks < LOOKS; ) {
    const done = await ifThere(use(path));
    if (done !== undefined) return done;
    const gone = (await list(dirname(path))).filter((name) => name.startsWith(basename(path) + GONE));
    if (gone.length === 0) looks += 1;
    else if (performance.now() > until) for (const name of gone) await putBack(join(dirname(path), name), path);
    else await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return undefined;
}

/**
 * Replaces a file by what `change` makes of its text; undefined leaves it. Others that change it at the same time follow
 * each other: who takes the file away first goes first, the rest begin anew with what came of it. False: not there.
 */
export async function changeFile(
  path: string,
  change: (text: string) => string | undefined,
  temporary: string,
): Promise<boolean> {
  await makeFolder(temporary);
  for (;;) {
    const before = await withSteady(path, (at) => readFile(at, "utf8"));
    if (before === undefined) return false;
    const after = change(before);
    if (after === undefined || after === before) return true;
    const name = join(temporary, temporaryName("json"));
    try {
      await writeFile(name, after, { flag: "wx", mode: 0o600, flush: true });
      if (await exchange(path, before, name)) return true;
    } finally {
      await removeIfThere(name);
    }
  }
}

async function exchange(path: string, before: string, name: string): Promise<boolean> {
  const gone = path + GONE + randomTag();
  if ((await ifThere(nodeFs.rename(path, gone).then(() => true))) === undefined) return false;
  if ((await ifThere(readFile(gone, "utf8"))) !== before) {
    await putBack(gone, path);
    return false;
  }
  try {
    // link refuses where somebody took us for dead and put the old one back.
    await link(name, path);
  } catch (error) {
    await putBack(gone, path);
    if (errorCode(error) === "EEXIST") return false;
    throw error;
  }
  await syncFolder(dirname(path));
  await removeIfThere(gone);
  return true;
}

/** What a failed call on the store's own files means to the user. Errors that say it already pass unchanged. */
export function storeError(error: unknown, what: string): LabError {
  if (error instanceof LabError) return error;
  const code = errorCode(error);
  const why =
    code === "EROFS"
      ? "the file system is read-only"
      : code === "EACCES" || code === "EPERM"
        ? "permission denied"
        : code === "EIO"
          ? "the disk reports an input/output error"
          : error instanceof Error
            ? error.message
            : String(error);
  return new LabError("E_ARTIFACT_STORE", `${what}: ${why}`, {
    cause: error,
    hint: "check the folder, its owner and its disk, or name another one with `artifacts: { store: ... }`",
  });
}

export function isFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === "ENOSPC" || code === "EDQUOT";
}
