import { createHash } from "node:crypto";
import { type Address, type Reading, LabError, sh, ShellText, shJoin } from "../../src/index.ts";
import { normalMode } from "./common.ts";

/** What stands at a path. `digest` only of regular files, and only where it was asked for. */
/** A type and not an interface: it stands for what the schema of attributes infers. */
export type Entry = {
  readonly type: "file" | "directory" | "link" | "other";
  readonly mode: string;
  readonly owner: string;
  readonly group: string;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly digest?: string;
  readonly target?: string;
  /** Text of a small file that is not as wanted, for a diff that people can read. */
  readonly content?: string;
};

export interface EntryRequest {
  readonly path: string;
  /** `no`: only metadata. `yes`: also the digest. A digest: also the content, where the file has another one. */
  readonly digest: "no" | "yes" | { readonly unless: string };
}

/** The largest file whose content travels for a diff, and the most of all together: probes keep 1 MiB of output. */
const CONTENT_LIMIT = 64 * 1024;
const CONTENT_BUDGET = 384 * 1024;
const CHUNK_PATHS = 128;
const CHUNK_BYTES = 48 * 1024;

/**
 * Prints for each chunk of paths: a letter a path (`-` nothing, `f`ile, `F`ile that cannot be read, `d`irectory, `l`ink,
 * `o`ther, `?` hidden by a directory that may not be searched), then stat's lines, then sha256sum's lines, then contents and link
 * targets in base64. Blocks end with a dot, lines are told apart by their order and never by names. One stat and one
 * sha256sum serve a whole chunk. Works with dash, bash and busybox, GNU's tools and busybox's.
 */
const FUNCTIONS = new ShellText(String.raw`labctl_nl='
'
labctl_budget=${CONTENT_BUDGET}
labctl_hidden() {
  labctl_d=$1
  while :; do
    case $labctl_d in */*) labctl_d=${"$"}{labctl_d%/*} ;; *) return 1 ;; esac
    [ -n "$labctl_d" ] || labctl_d=/
    if [ -d "$labctl_d" ]; then [ ! -x "$labctl_d" ]; return; fi
    [ "$labctl_d" != / ] || return 1
  done
}
labctl_type() {
  if [ -L "$1" ]; then labctl_t=l
  elif [ -f "$1" ]; then if [ -r "$1" ]; then labctl_t=f; else labctl_t=F; fi
  elif [ -d "$1" ]; then labctl_t=d
  elif [ -e "$1" ]; then labctl_t=o
  elif labctl_hidden "$1"; then labctl_t=?
  else labctl_t=-
  fi
}
labctl_stats() {
  labctl_f=y
  for labctl_p do
    if [ -n "$labctl_f" ]; then set --; labctl_f=; fi
    if [ -e "$labctl_p" ] || [ -L "$labctl_p" ]; then set -- "$@" "$labctl_p"; fi
  done
  [ $# -eq 0 ] || stat -c '%a %u %g %s %U/%G' -- "$@" 2>/dev/null
}
labctl_sums() {
  labctl_w=$1
  shift
  labctl_f=y
  for labctl_p do
    if [ -n "$labctl_f" ]; then set --; labctl_f=; fi
    labctl_x=${"$"}{labctl_w%% *}
    labctl_w=${"$"}{labctl_w#* }
    if [ "$labctl_x" != n ] && [ -f "$labctl_p" ] && [ ! -L "$labctl_p" ] && [ -r "$labctl_p" ]; then set -- "$@" "$labctl_p"; fi
  done
  case $# in
    0) ;;
    1) sha256sum <"$1" 2>/dev/null ;;
    *) sha256sum -- "$@" 2>/dev/null ;;
  esac
}
labctl_chunk() {
  labctl_wants=$1
  shift
  labctl_types=
  for labctl_p do
    labctl_type "$labctl_p"
    labctl_types=$labctl_types$labctl_t
  done
  printf '%s\n' "$labctl_types"
  labctl_stats "$@"
  echo .
  labctl_digests=
  case $labctl_types in *f*) labctl_digests=$(labctl_sums "$labctl_wants" "$@") ;; esac
  printf '%s\n.\n' "$labctl_digests"
  labctl_i=0
  for labctl_p do
    labctl_want=${"$"}{labctl_wants%% *}
    labctl_wants=${"$"}{labctl_wants#* }
    labctl_t=$labctl_types
    labctl_types=${"$"}{labctl_types#?}
    case $labctl_t in
      l*) printf 'L %s\n' $labctl_i; readlink -- "$labctl_p" | base64; echo . ;;
      f*)
        if [ "$labctl_want" != n ]; then
          labctl_sum=${"$"}{labctl_digests%%"$labctl_nl"*}
          labctl_digests=${"$"}{labctl_digests#*"$labctl_nl"}
          if [ "$labctl_want" != y ] && [ "${"$"}{labctl_sum%% *}" != "$labctl_want" ]; then labctl_show $labctl_i "$labctl_p"; fi
        fi ;;
    esac
    labctl_i=$((labctl_i + 1))
  done
  echo .
}
labctl_show() {
  labctl_size=$(stat -c %s -- "$2" 2>/dev/null) || return 0
  [ "$labctl_size" -le ${CONTENT_LIMIT} ] && [ "$labctl_size" -le $labctl_budget ] || return 0
  labctl_budget=$((labctl_budget - labctl_size))
  printf 'C %s\n' "$1"
  head -c ${CONTENT_LIMIT} <"$2" 2>/dev/null | base64
  echo .
}`);

/** Names that sha256sum may spell in another way, or over several lines: read alone, from stdin. */
function isOdd(path: string): boolean {
  return /[\n\r\\]/.test(path);
}

function chunks(requests: readonly EntryRequest[]): EntryRequest[][] {
  const out: EntryRequest[][] = [];
  let bytes = 0;
  let open: EntryRequest[] | undefined;
  for (const request of requests) {
    const size = Buffer.byteLength(request.path) + 70;
    if (isOdd(request.path)) {
      out.push([request]);
      open = undefined;
      continue;
    }
    if (open === undefined || open.length >= CHUNK_PATHS || bytes + size > CHUNK_BYTES) {
      open = [];
      bytes = 0;
      out.push(open);
    }
    open.push(request);
    bytes += size;
  }
  return out;
}

function wantWord(request: EntryRequest): string {
  if (request.digest === "no") return "n";
  return request.digest === "yes" ? "y" : request.digest.unless;
}

/** Shell text that looks at paths; its output goes to {@link parseEntries} with the same requests. */
export function entriesScript(requests: readonly EntryRequest[]): ShellText {
  return shJoin([
    FUNCTIONS,
    ...chunks(requests).map(
      (chunk) => sh`labctl_chunk ${`${chunk.map(wantWord).join(" ")} `} ${chunk.map((request) => request.path)}`,
    ),
  ]);
}

/** `hidden`: a directory above may not be searched; `moved`: it changed while it was looked at. */
export type EntryAnswer = Entry | "absent" | "hidden" | "moved";

class Lines {
  readonly #lines: readonly string[];
  #at = 0;
  constructor(lines: readonly string[]) {
    this.#lines = lines;
  }
  next(): string | undefined {
    return this.#lines[this.#at++];
  }
  block(): string[] {
    const block: string[] = [];
    for (let line = this.next(); line !== undefined && line !== "."; line = this.next()) block.push(line);
    return block;
  }
}

/** One answer a request, in the same order. */
export function parseEntries(lines: readonly string[], requests: readonly EntryRequest[]): EntryAnswer[] {
  const input = new Lines(lines);
  return chunks(requests).flatMap((chunk) => parseChunk(input, chunk));
}

function parseChunk(input: Lines, chunk: readonly EntryRequest[]): EntryAnswer[] {
  const types = input.next() ?? "";
  const stats = input.block();
  const sums = input.block().filter((line) => line !== "");
  const extras = new Map<string, string>();
  for (let line = input.next(); line !== undefined && line !== "."; line = input.next()) {
    extras.set(line, input.block().join(""));
  }
  const hashed = chunk.filter((request, i) => request.digest !== "no" && types[i] === "f").length;
  const there = types.replaceAll(/[-?]/g, "").length;
  if (types.length !== chunk.length || stats.length !== there || sums.length !== hashed) {
    return chunk.map(() => "moved");
  }
  let stat = 0;
  let sum = 0;
  return chunk.map((request, i): EntryAnswer => {
    const letter = types[i] ?? "-";
    if (letter === "-") return "absent";
    if (letter === "?") return "hidden";
    const digest =
      letter === "f" && request.digest !== "no" ? /^\\?([0-9a-f]{64})/.exec(sums[sum++] ?? "")?.[1] : undefined;
    const entry = parseStat(letter, stats[stat++] ?? "");
    if (entry === undefined) return "moved";
    return {
      ...entry,
      ...(digest !== undefined && { digest }),
      ...linkTarget(letter, extras.get(`L ${i}`)),
      ...shownContent(extras.get(`C ${i}`), digest),
    };
  });
}

const TYPES = { f: "file", F: "file", d: "directory", l: "link", o: "other" } as const;

function parseStat(letter: string, line: string): Entry | undefined {
  const match = /^([0-7]+) ([0-9]+) ([0-9]+) ([0-9]+) ([^/]*)\/(.*)$/.exec(line);
  if (match === null) return undefined;
  const [, mode = "", uid = "", gid = "", size = "", owner = "", group = ""] = match;
  return {
    type: TYPES[letter as keyof typeof TYPES] ?? "other",
    mode: normalMode(mode),
    // Ids without a name read as UNKNOWN: the number says more, and is what chown takes.
    owner: owner === "" || owner === "UNKNOWN" ? uid : owner,
    group: group === "" || group === "UNKNOWN" ? gid : group,
    uid: Number(uid),
    gid: Number(gid),
    size: Number(size),
  };
}

function linkTarget(letter: string, encoded: string | undefined): { target?: string } {
  if (letter !== "l" || encoded === undefined) return {};
  return { target: Buffer.from(encoded, "base64").toString("utf8").replace(/\n$/, "") };
}

/** Content that is what the digest says (it was read a moment later), and text. */
function shownContent(encoded: string | undefined, digest: string | undefined): { content?: string } {
  if (encoded === undefined) return {};
  const bytes = Buffer.from(encoded, "base64");
  if (sha256(bytes) !== digest) return {};
  const text = asText(bytes);
  return text === undefined ? {} : { content: text };
}

export function sha256(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

/** Tab, line feed, form feed, carriage return, escape. */
const TEXT_CONTROLS = new Set([9, 10, 12, 13, 27]);

/** The text that the bytes are; undefined where they are no UTF-8, or hold control characters that text does not. */
export function asText(bytes: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return Buffer.from(bytes).some((byte) => byte < 32 && !TEXT_CONTROLS.has(byte)) ? undefined : text;
  } catch {
    return undefined;
  }
}

/** A reading of an answer. Attributes of the entry are the observed properties. */
export function entryReading(
  answer: EntryAnswer | undefined,
  item: { readonly address: Address },
): Reading<Entry> | undefined {
  if (answer === undefined || answer === "moved") return undefined;
  if (answer === "absent") return { is: "absent" };
  if (answer === "hidden") {
    return {
      is: "unreachable",
      why: new LabError("E_SUDO", "a directory above it may not be searched by this login", {
        address: item.address,
        hint: "set `sudo: true` on the host, or log in as root",
      }),
    };
  }
  return { is: "present", value: answer };
}

/** "1000" and the name of user 1000 are the same owner. */
export function sameOwner(wanted: string, name: string, id: number): boolean {
  return wanted === name || (/^[0-9]+$/.test(wanted) && Number(wanted) === id);
}
