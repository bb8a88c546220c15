import { open, stat } from "node:fs/promises";
import { LabError, type Machine, type Sensitive, sh, type ShellText } from "../../src/index.ts";
import type { PreparedSource } from "./source-script.ts";
import { sha256File } from "./source-directory.ts";
import { type SourceUrl, splitUrl, withoutCredentials } from "./source-url.ts";
import { commandFailure, DISK_FULL, lastLines, requireSuccess, runScript } from "./text.ts";

export interface TarballSource {
  /** A local path, or an http, https or ftp URL, which the server fetches itself; a URL may hold credentials. */
  readonly from: string | Sensitive<string>;
  /** 64 hexadecimal digits. */
  readonly sha256: string;
}

const DOWNLOAD_MS = 6 * 3_600_000;

export function isRemoteTarball(source: TarballSource): boolean {
  return /^(https?|ftp):\/\//i.test(typeof source.from === "string" ? source.from : source.from.reveal());
}

/**
 * For plan time: proves that a local tarball is there, has its digest, and begins and ends as an archive does. Does nothing for a URL.
 * Throws E_SOURCE_FILE, E_SOURCE_TARBALL.
 */
export async function checkTarball(source: TarballSource): Promise<{ readonly size: number } | undefined> {
  if (isRemoteTarball(source)) return undefined;
  const path = typeof source.from === "string" ? source.from : source.from.reveal();
  let size: number;
  let sha256: string;
  let damage: string | undefined;
  try {
    size = (await stat(path)).size;
    sha256 = await sha256File(path);
    damage = await damageOf(path, size);
  } catch (cause) {
    throw new LabError(
      "E_SOURCE_FILE",
      `${path} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
        hint: "check the path of the tarball",
      },
    );
  }
  if (sha256 !== source.sha256.toLowerCase()) {
    throw mismatch("E_SOURCE_TARBALL", path, source.sha256, sha256, size);
  }
  if (damage !== undefined) {
    throw new LabError(
      "E_SOURCE_TARBALL",
      `${path} (${size} bytes) has the SHA-256 that was announced, and ${damage}`,
      {
        hint: "it is damaged, or something else was saved under its name: fetch it again, and correct `sha256`",
      },
    );
  }
  return { size };
}

/**
 * What is wrong with an archive by its first and last bytes alone: unpacking a kernel to look at it takes long, and the build server does
 * that anyway. Magic numbers: RFC 1952 (gzip), RFC 8878 (zstd), the .xz file format 1.2.1, the manuals of bzip2, lzip, compress, lzma.
 */
async function damageOf(path: string, size: number): Promise<string | undefined> {
  const file = await open(path);
  try {
    const head = Buffer.alloc(512);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    const begins = (...bytes: readonly number[]): boolean => bytes.every((byte, i) => head[i] === byte);
    if (begins(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) {
      const foot = Buffer.alloc(4);
      await file.read(foot, 0, foot.length, Math.max(0, size - foot.length));
      // Zeros: a stream may be padded.
      const whole = foot.toString("latin1", 2) === "YZ" || foot.equals(Buffer.alloc(4));
      return whole ? undefined : "is cut short: it ends in the middle of its xz stream";
    }
    if (PACKED.some((magic) => begins(...magic))) return undefined;
    if (bytesRead < head.length || !isTarHeader(head)) return "is no tar archive";
    return size % 512 === 0 ? undefined : "is cut short: it ends in the middle of a block";
  } finally {
    await file.close();
  }
}

const PACKED: readonly (readonly number[])[] = [
  [0x1f, 0x8b],
  [0x1f, 0x9d],
  [0x28, 0xb5, 0x2f, 0xfd],
  [0x42, 0x5a, 0x68],
  [0x4c, 0x5a, 0x49, 0x50],
  [0x5d, 0x00, 0x00],
];

/** Any tar's, also one from before POSIX: the sum of its bytes stands in it, taken with blanks in its own place (octal, at 148). */
function isTarHeader(block: Buffer): boolean {
  const written = Number.parseInt(block.toString("latin1", 148, 156), 8);
  return written === block.reduce((sum, byte, i) => sum + (i >= 148 && i < 156 ? 0x20 : byte), 0);
}

function mismatch(
  code: "E_SOURCE_TARBALL" | "E_SOURCE_CORRUPT",
  what: string,
  wanted: string,
  found: string,
  size: number,
): LabError {
  return new LabError(
    code,
    `${what} (${size} bytes) has the SHA-256 ${found}, and ${wanted.toLowerCase()} was announced`,
    { hint: "it is cut short, damaged, or another version: fetch it again, or correct `sha256`" },
  );
}

/** Downloads on the server, resuming what is there. stdin: a configuration for curl with the URL. Prints `have`, `ok`, or `bad SIZE SHA`. */
function downloadScript(workdir: string, sha256: string): ShellText {
  return sh`umask 022
d=${workdir}/tarballs f=${workdir}/tarballs/${sha256}
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
mkdir -p -- "$d" || exit 1
exec 6>>"$f.lock"
flock 6 || exit 1
if [ -f "$f" ]; then cat >/dev/null; touch -- "$f"; echo have; exit 0; fi
sum() { sha256sum <"$f.part" | cut -d ' ' -f 1; }
command -v curl >/dev/null 2>&1 || { echo "curl: not found" >&2; exit 127; }
config=$(cat)
get() { printf '%s\n' "$config" | curl -fsSL --connect-timeout 20 --speed-limit 1000 --speed-time 60 --retry 3 --retry-delay 1 -o "$f.part" "$@" -K - 6>&-; }
c=0
# A server that cannot resume makes curl say so (33, 36) or refuse (22, with 416 where all of it is there).
if [ -s "$f.part" ]; then get -C -; c=$?; [ $c = 0 ] || { rm -f -- "$f.part"; get; c=$?; }; else get; c=$?; fi
if [ $c != 0 ]; then case $c in 18|28|56) ;; *) rm -f -- "$f.part" ;; esac; exit $c; fi
s=$(sum)
if [ "$s" != ${sha256} ]; then echo "bad $(stat -c %s -- "$f.part") $s"; rm -f -- "$f.part"; exit 0; fi
sync -- "$f.part" 2>/dev/null
mv -f -- "$f.part" "$f" && echo ok`;
}

/**
 * Brings a tarball to the server; one copy for all builds. Throws what checkTarball() does, E_SOURCE_CORRUPT (other content than announced),
 * E_SOURCE_FETCH (a URL that cannot be fetched), E_BUILD_TOOL (no curl there), E_DISK_FULL, and what uploads reject with.
 */
export async function prepareTarball(
  machine: Machine,
  workdir: string,
  source: TarballSource,
  options: { readonly signal?: AbortSignal; readonly onProgress?: (sent: number, total: number) => void } = {},
): Promise<{ readonly prepared: PreparedSource; readonly sent: boolean }> {
  const sha256 = source.sha256.toLowerCase();
  const prepared: PreparedSource = { type: "tarball", sha256 };
  if (isRemoteTarball(source))
    return { prepared, sent: await download(machine, workdir, source, sha256, options.signal) };
  const file = typeof source.from === "string" ? source.from : source.from.reveal();
  const checked = await checkTarball(source);
  requireSuccess(
    machine,
    await runScript(machine, sh`umask 022; mkdir -p -- ${workdir}/tarballs || exit 1`, {
      ...(options.signal && { signal: options.signal }),
    }),
    "making the directory for tarballs",
  );
  const result = await machine.upload(
    { file, sha256, size: checked?.size ?? 0 },
    { path: `${workdir}/tarballs/${sha256}`, mode: "0644", root: false },
    options,
  );
  return { prepared, sent: result.sent };
}

async function download(
  machine: Machine,
  workdir: string,
  source: TarballSource,
  sha256: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const where = splitUrl(source.from);
  const result = await runScript(machine, downloadScript(workdir, sha256), {
    stdin: curlConfig(where),
    timeout: DOWNLOAD_MS,
    ...(signal && { signal }),
  });
  const [answer = "", size = "", found = ""] = result.stdout.toString("utf8").trim().split(" ");
  if (answer === "have" || answer === "ok") return answer === "ok";
  if (answer === "bad")
    throw mismatch("E_SOURCE_CORRUPT", where.url, sha256, found, Number(size)).atAddress(machine.address);
  const said = lastLines(withoutCredentials(result.stderr.toString("utf8"), where), 3);
  if (result.code === 127 && /curl: not found/.test(said)) {
    throw new LabError("E_BUILD_TOOL", `${machine.address} has no curl to fetch ${where.url} with`, {
      address: machine.address,
      hint: "add curl to `packages:` of that host, or give the tarball as a local file",
    });
  }
  // 23: curl could not write.
  if (result.code === 23 || DISK_FULL.test(said)) {
    throw commandFailure(
      machine,
      `fetching ${where.url}`,
      result.code === 23 ? `No space left on device? ${said}` : said,
    );
  }
  if (result.code === 18) {
    throw new LabError("E_SOURCE_CORRUPT", `${where.url} was cut short: ${said}`, {
      address: machine.address,
      retryable: true,
      hint: "the server ended the transfer early; run again: what came is kept",
    });
  }
  throw new LabError("E_SOURCE_FETCH", `${where.url} cannot be fetched by ${machine.address}: ${said}`, {
    address: machine.address,
    retryable: !/404|403|401|410/.test(said),
    hint: "check the address, and that the server may reach it",
  });
}

/** Through stdin: no command line holds the address, which may hold a token. */
function curlConfig(source: SourceUrl): string {
  const quote = (text: string): string => `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  const lines = [`url = ${quote(source.url)}`];
  if (source.password !== undefined) {
    lines.push(`user = ${quote(`${source.username ?? ""}:${source.password.reveal()}`)}`);
  }
  return `${lines.join("\n")}\n`;
}
