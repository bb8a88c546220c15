import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, type Stats } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { createGzip, gzipSync } from "node:zlib";
import { LabError, type Machine, sh, shJoin, type ShellText } from "../../src/index.ts";
import type { BuildPaths } from "./layout.ts";
import { type PreparedSource, TREE_FUNCTIONS } from "./source-script.ts";
import { lastLines, requireSuccess, runScript } from "./text.ts";

/** An entry of a tree. Modes are `755` or `644`, as git has them: umasks differ, and a digest must not. */
export interface TreeEntry {
  readonly type: "f" | "l" | "d";
  readonly mode: "755" | "644" | "777";
  /** SHA-256 of a file, target of a link, `-`. */
  readonly value: string;
  readonly path: string;
}

export interface TreeScan {
  readonly root: string;
  /** SHA-256 of the manifest: names, modes and contents, and nothing else. */
  readonly digest: string;
  readonly entries: readonly TreeEntry[];
  readonly manifest: string;
  /** Of all files together. */
  readonly bytes: number;
}

/** What is remembered of a file, so that it need not be read again: path -> [size, mtime, ctime, inode, SHA-256]. */
export type HashCache = Map<
  string,
  readonly [size: number, mtimeNs: string, ctimeNs: string, inode: string, sha: string]
>;

export interface ScanOptions {
  /** Read and updated. */
  readonly cache?: HashCache;
  readonly signal?: AbortSignal;
  /** `git` (default where the directory is a git work tree): what git ignores is left out. `.git` itself always is. */
  readonly ignore?: "git" | "nothing";
  /** For git: HOME, PATH. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** Files read at once. */
const PARALLEL = 16;
/** A file that changed so short a time ago may change again without its time showing it (ns). */
const RACY_NS = 2_000_000_000n;
const TRANSFER_MS = 24 * 3_600_000;

/**
 * Looks at a directory: what is in it, and the digest of all. Sockets, pipes and devices are left out.
 * Throws E_SOURCE_FILE (not there, not readable, a name that cannot be sent), E_CANCELLED.
 */
export async function scanDirectory(root: string, options: ScanOptions = {}): Promise<TreeScan> {
  const paths = await pathsOf(root, options);
  const entries: TreeEntry[] = [];
  let bytes = 0;
  const work = paths[Symbol.iterator]();
  const one = async (): Promise<void> => {
    for (const path of work) {
      if (options.signal?.aborted === true) throw new LabError("E_CANCELLED", "cancelled");
      const found = await entryOf(root, path, options.cache);
      if (found === undefined) continue;
      entries.push(found.entry);
      bytes += found.size;
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, one));
  entries.sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
  const manifest = manifestText(entries);
  return { root, entries, manifest, digest: createHash("sha256").update(manifest).digest("hex"), bytes };
}

export function manifestText(entries: readonly TreeEntry[]): string {
  return entries.map(({ type, mode, value, path }) => `${type}\t${mode}\t${value}\t${path}\n`).join("");
}

async function pathsOf(root: string, options: ScanOptions): Promise<readonly string[]> {
  const unreadable = (cause: unknown): LabError =>
    new LabError("E_SOURCE_FILE", `the directory ${root} cannot be read: ${messageOf(cause)}`, {
      cause,
      hint: "check the path; it is relative to the file that holds it",
    });
  let status: Stats;
  try {
    status = await lstat(join(root, "."));
  } catch (cause) {
    throw unreadable(cause);
  }
  if (!status.isDirectory()) throw unreadable(new Error("it is not a directory"));
  if (options.ignore !== "nothing" && (await exists(join(root, ".git")))) {
    const listed = await gitFiles(root, options);
    if (listed !== undefined) return listed;
  }
  const found: string[] = [];
  const walk = async (below: string): Promise<void> => {
    const children = await readdir(join(root, below), { withFileTypes: true }).catch((cause: unknown) => {
      throw unreadable(cause);
    });
    for (const child of children) {
      if (child.name === ".git") continue;
      const path = below === "" ? child.name : `${below}/${child.name}`;
      found.push(path);
      if (child.isDirectory()) await walk(path);
    }
  };
  await walk("");
  return found;
}

/** What git knows and does not ignore; undefined where git cannot say. */
function gitFiles(root: string, options: ScanOptions): Promise<readonly string[] | undefined> {
  return new Promise((resolve) => {
    execFile(
      "git",
      ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"],
      { cwd: root, maxBuffer: 1 << 30, encoding: "utf8", ...(options.env && { env: { ...options.env } }) },
      (error, stdout) => resolve(error ? undefined : stdout.split("\0").filter((path) => path !== "")),
    );
  });
}

async function entryOf(
  root: string,
  path: string,
  cache: HashCache | undefined,
): Promise<{ readonly entry: TreeEntry; readonly size: number } | undefined> {
  // A line of a manifest holds one path.
  if (/[\n\t]/.test(path) || path.includes("\uFFFD")) {
    throw new LabError("E_SOURCE_FILE", `${JSON.stringify(join(root, path))} has a name that labctl does not send`, {
      hint: "names with newlines or tabs, or that are not UTF-8, are not possible in a source directory: rename it",
    });
  }
  try {
    const full = join(root, path);
    const status = await lstat(full, { bigint: true });
    if (status.isDirectory()) return { entry: { type: "d", mode: "755", value: "-", path }, size: 0 };
    if (status.isSymbolicLink()) {
      const target = await readlink(full);
      if (/[\n\t]/.test(target)) throw new Error("its target holds a newline or a tab");
      return { entry: { type: "l", mode: "777", value: target, path }, size: 0 };
    }
    if (!status.isFile()) return undefined;
    const key = [Number(status.size), String(status.mtimeNs), String(status.ctimeNs), String(status.ino)] as const;
    const known = cache?.get(path);
    const same = known !== undefined && key.every((value, i) => known[i] === value);
    const value = same ? known[4] : await sha256File(full);
    const now = BigInt(Date.now()) * 1_000_000n;
    if (now - status.mtimeNs > RACY_NS && now - status.ctimeNs > RACY_NS) cache?.set(path, [...key, value]);
    else cache?.delete(path);
    return {
      entry: { type: "f", mode: (status.mode & 0o111n) === 0n ? "644" : "755", value, path },
      size: Number(status.size),
    };
  } catch (cause) {
    // Removed while we looked, or listed by git and not there.
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new LabError("E_SOURCE_FILE", `${join(root, path)} cannot be read: ${messageOf(cause)}`, {
      cause,
      hint: "make it readable, or keep it out of the source directory",
    });
  }
}

export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 18 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch {
    return false;
  }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** Prints `same` where the tree or the stage holds this digest, else `need`. */
function askScript(paths: BuildPaths, digest: string): ShellText {
  return shJoin([
    TREE_FUNCTIONS,
    sh`tree=${paths.tree} stage=${paths.stage}/${digest} digest=${digest}
have=none; IFS= read -r have 2>/dev/null <"$tree.digest" || have=none
if [ "$have" = "$digest" ]; then
  # Another build may have changed its source behind our back.
  [ -n "$(labctl_dirty "$tree")" ] || { rm -rf -- "$stage"; echo same; exit 0; }
fi
if [ -f "$stage/manifest" ] && [ -f "$stage/ready" ] && [ "$(cat -- "$stage/base")" = "$have" ]; then echo same; exit 0; fi
echo need`,
  ]);
}

/** stdin: the manifest, compressed. Prints what the tree has to be, then the paths that are to be sent. */
function stageScript(paths: BuildPaths, digest: string): ShellText {
  return shJoin([
    TREE_FUNCTIONS,
    sh`tree=${paths.tree} stage=${paths.stage}/${digest}
umask 022
rm -rf -- "$stage"
mkdir -p -- "$stage" ${paths.workdir}/trees && gzip -dc >"$stage/manifest.new" || exit 1
[ "$(sha256sum <"$stage/manifest.new" | cut -d ' ' -f 1)" = ${digest} ] || { echo "the list of files arrived damaged" >&2; exit 1; }
have=none; IFS= read -r have 2>/dev/null <"$tree.digest" || { have=none; rm -f -- "$tree.manifest"; }
echo "$have" >"$stage/base"
labctl_needed "$tree" "$stage/manifest.new" >"$stage/needed" || exit 1
mv -f -- "$stage/manifest.new" "$stage/manifest" && cat -- "$stage/needed"`,
  ]);
}

/** stdin: a compressed tar of the needed files. Prints the paths that are not what the manifest says. */
function receiveScript(paths: BuildPaths, digest: string): ShellText {
  return shJoin([
    TREE_FUNCTIONS,
    sh`stage=${paths.stage}/${digest}
umask 022
rm -rf -- "$stage/files"
mkdir -- "$stage/files" && tar -xzf - -C "$stage/files" --no-same-owner -m || { cat >/dev/null; rm -rf -- "$stage/files"; exit 1; }
find "$stage/files" -type d -exec chmod 755 {} +
find "$stage/files" -type f -perm /111 ! -perm 755 -exec chmod 755 {} +
find "$stage/files" -type f ! -perm /111 ! -perm 644 -exec chmod 644 {} +
labctl_manifest "$stage/files" >"$stage/arrived" || exit 1
awk -F '\\t' 'BEGIN { while ((getline x < ARGV[1]) > 0) have[x] = 1; while ((getline x < ARGV[2]) > 0) need[x] = 1; ARGV[1] = ARGV[2] = "" }
  ($4 in need) && !($0 in have) { print $4 }' "$stage/arrived" "$stage/needed" "$stage/manifest" >"$stage/wrong"
if [ -s "$stage/wrong" ]; then head -n 20 -- "$stage/wrong"; rm -rf -- "$stage"; else : >"$stage/ready"; fi`,
  ]);
}

export interface SyncResult {
  readonly prepared: PreparedSource;
  /** Paths that were sent. */
  readonly sent: readonly string[];
}

/**
 * Sends what a build's tree on the server does not have. Nothing of the tree changes before the build's turn. One round trip
 * where the server has all of it. Throws E_SOURCE_CORRUPT (a file changed while it was sent; retryable), E_DISK_FULL,
 * E_BUILD_TOOL (no tar here), and what the machine rejects with.
 */
export async function prepareDirectory(
  machine: Machine,
  paths: BuildPaths,
  scan: TreeScan,
  options: { readonly signal?: AbortSignal; readonly onProgress?: (files: number) => void } = {},
): Promise<SyncResult> {
  const { signal } = options;
  const prepared: PreparedSource = { type: "directory", digest: scan.digest };
  const what = `sending ${scan.root}`;
  const asked = requireSuccess(
    machine,
    await runScript(machine, askScript(paths, scan.digest), { ...(signal && { signal }) }),
    what,
  );
  if (asked.stdout.toString("utf8").trim() === "same") return { prepared, sent: [] };
  const listed = requireSuccess(
    machine,
    await runScript(machine, stageScript(paths, scan.digest), {
      stdin: gzipSync(scan.manifest),
      keep: 256 << 20,
      timeout: TRANSFER_MS,
      ...(signal && { signal }),
    }),
    what,
  );
  const sent = listed.stdout
    .toString("utf8")
    .split("\n")
    .filter((path) => path !== "");
  options.onProgress?.(sent.length);
  const archive = tarOf(scan.root, sent);
  const received = await runScript(machine, receiveScript(paths, scan.digest), {
    stdin: archive.stream,
    timeout: TRANSFER_MS,
    ...(signal && { signal }),
  }).finally(() => archive.stop());
  const local = await archive.failure;
  if (local !== undefined) throw local;
  const wrong = requireSuccess(machine, received, what).stdout.toString("utf8").trim();
  if (wrong !== "") {
    throw new LabError(
      "E_SOURCE_CORRUPT",
      `files of ${scan.root} changed while they were sent: ${wrong.split("\n").join(", ")}`,
      {
        address: machine.address,
        retryable: true,
        hint: "run again when they are at rest",
      },
    );
  }
  return { prepared, sent };
}

/** A compressed tar stream of some files, in the order given. */
function tarOf(
  root: string,
  files: readonly string[],
): { readonly stream: Readable; readonly failure: Promise<LabError | undefined>; stop(): void } {
  if (files.length === 0) {
    // 1,024 zero bytes: the end of an archive, and so an empty one.
    return {
      stream: Readable.from([gzipSync(Buffer.alloc(1024))]),
      failure: Promise.resolve(undefined),
      stop: () => undefined,
    };
  }
  const child = spawn("tar", ["-C", root, "--null", "--no-recursion", "-T", "-", "-cf", "-"], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C", COPYFILE_DISABLE: "1" },
  });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("utf8")).slice(-2000);
  });
  // Names that begin with a dash would be options to tar.
  child.stdin.on("error", () => undefined);
  child.stdin.end(files.map((path) => `./${path}\0`).join(""));
  const stream = createGzip({ level: 1 });
  child.stdout.on("error", () => undefined);
  child.stdout.pipe(stream);
  let stopped = false;
  const failure = new Promise<LabError | undefined>((resolve) => {
    child.once("error", (cause) => {
      stream.end();
      resolve(
        new LabError("E_BUILD_TOOL", `tar cannot be started here: ${cause.message}`, {
          cause,
          hint: "install tar on this machine",
        }),
      );
    });
    child.once("close", (code) => {
      // 1: a file changed while it was read; the far end finds which.
      if (code === 0 || code === 1 || stopped) resolve(undefined);
      else {
        resolve(
          new LabError("E_SOURCE_CORRUPT", `${root} cannot be sent: ${lastLines(said, 3)}`, {
            retryable: true,
            hint: "a file was removed while it was sent, or cannot be read; run again",
          }),
        );
      }
    });
  });
  return {
    stream,
    failure,
    stop: () => {
      stopped = child.exitCode === null;
      child.kill("SIGKILL");
    },
  };
}
