import { posix } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { sh, shJoin, type ShellText } from "../transport/index.ts";
import { BLOCK, PIECE } from "./block-map.ts";
import type { HostTarget } from "./ports.ts";

/** What the scripts print before what they have to say, so that nothing else is taken for it. */
const SAYS = "labctl-artifact ";

/** The words of each line that a script had to say. */
export function saidBy(stdout: string): string[][] {
  return stdout
    .split("\n")
    .filter((line) => line.startsWith(SAYS))
    .map((line) => line.slice(SAYS.length).trim().split(" "));
}

/**
 * When a blob of a host's cache was verified it gets this time of modification, made of its own digest: any write to it
 * moves the time. Seconds; from 1970 to 1978.
 */
export function stampOf(sha256: string): number {
  return Number.parseInt(sha256.slice(0, 7), 16) + 1;
}

/** Where a host keeps artifacts, as shell text that sets `base`. */
function cacheFolder(cache: string | undefined): ShellText {
  if (cache !== undefined) return sh`base=${cache}`;
  return sh`if [ "$(id -u)" = 0 ]; then base=/var/lib/labctl/artifacts; else base=\${XDG_CACHE_HOME:-$HOME/.cache}/labctl/artifacts; fi`;
}

/** Functions that every script begins with. OpenSSL uses the processor's own SHA-256, which coreutils 9.1 does not. */
const TOOLS = sh`LC_ALL=C; export LC_ALL; umask 022
say() { echo "labctl-artifact $*"; }
failed() {
  case $1 in
    *"o space left"*|*"uota exceeded"*) say full; df -Pk -- "$base" 2>&1 ;;
    *) say failed; echo "$1" ;;
  esac
  exit 0
}
if openssl dgst -sha256 </dev/null >/dev/null 2>&1
then sum() { s=$(openssl dgst -sha256) || return 1; echo "\${s##* }"; }
else sum() { s=$(sha256sum) || return 1; echo "\${s%% *}"; }
fi
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
`;

/**
 * `present` is true where the blob is there and verified: no content is read but after a write to it or a restart of
 * the machine, since a power failure may have taken what the file system had not written yet.
 */
function blobFunctions(sha256: string, size: number): ShellText {
  return sh`sha=${sha256}; size=${size}; stamp=${stampOf(sha256)}
folder=$base/sha256/${sha256.slice(0, 2)}; blob=$folder/$sha
stamped() { touch -d "@$stamp" -- "$1" 2>/dev/null && [ "$(stat -c %Y -- "$1")" = "$stamp" ]; }
present() {
  [ -f "$blob" ] || return 1
  now=$(stat -c '%s %Y' -- "$blob") || return 1
  if [ "$now" = "$size $stamp" ] && [ "$(cat "$blob.boot" 2>/dev/null)" = "$boot" ]; then return 0; fi
  if [ "\${now%% *}" = "$size" ] && [ "$(sum <"$blob")" = "$sha" ]; then
    stamped "$blob" && echo "$boot" >"$blob.boot"
    return
  fi
  rm -f -- "$blob" "$blob.boot"
  say damaged
  return 1
}
`;
}

/** Puts the blob where it is used: atomically, and only where it is not there already. */
function placeFunction(target: HostTarget | undefined): ShellText {
  if (target === undefined) {
    return sh`place() { say done "$blob"; exit 0; }
`;
  }
  const path = target.path;
  if (!path.startsWith("/") || path.endsWith("/") || path.includes("\0")) {
    throw new LabError("E_SPEC_VALUE", `${JSON.stringify(path)} cannot be the place of an artifact`, {
      hint: "give the whole path of a file, without a slash at the end",
    });
  }
  if (target.how === "link" && (target.mode ?? target.owner ?? target.group) !== undefined) {
    throw new LabError(
      "E_SPEC_VALUE",
      `${JSON.stringify(path)} is to be a link, which has no mode or owner of its own`,
      {
        hint: 'use `how: "copy"`, or leave mode, owner and group out',
      },
    );
  }
  const owner = `${target.owner ?? ""}${target.group === undefined ? "" : `:${target.group}`}`;
  const mode = target.mode ?? "";
  const how = target.how ?? (owner === "" && mode === "" ? "link" : "copy");
  return sh`place() {
  t=${path}; d=${posix.dirname(path)}; mode=${mode}; own=${owner}; how=${how}
  tmp=$d/.labctl-$sha.$id
  if [ -d "$t" ] && [ ! -L "$t" ]; then say directory; exit 0; fi
  e=$(mkdir -p -- "$d" 2>&1) || failed "$e"
  if [ $how = link ] && [ "$t" -ef "$blob" ]; then say done "$blob"; exit 0; fi
  if [ $how = copy ] && [ -f "$t" ] && [ ! -L "$t" ] && [ "$(stat -c '%s %Y' -- "$t")" = "$size $stamp" ] && ! [ "$t" -ef "$blob" ]; then tmp=$t
  else
    trap 'rm -f -- "$tmp"' EXIT
    rm -f -- "$tmp"
    if [ $how = link ] && ln -- "$blob" "$tmp" 2>/dev/null; then :
    else
      e=$(cp --reflink=auto --sparse=always -- "$blob" "$tmp" 2>&1) || {
        case $e in *"o space left"*|*"uota exceeded"*) failed "$e" ;; esac
        # A cp that does not know these options: busybox.
        e=$(cp -- "$blob" "$tmp" 2>&1) || failed "$e"
      }
      chmod -- \${mode:-0444} "$tmp"
    fi
  fi
  if [ -n "$own" ]; then e=$(chown -- "$own" "$tmp" 2>&1) || failed "$e"; fi
  if [ -n "$mode" ]; then e=$(chmod -- "$mode" "$tmp" 2>&1) || failed "$e"; fi
  if [ "$tmp" != "$t" ]; then
    if ! [ "$tmp" -ef "$blob" ]; then stamped "$tmp"; sync -- "$tmp" 2>/dev/null || sync; fi
    if e=$(mv -fT -- "$tmp" "$t" 2>&1); then :
    else
      case $e in *nrecognized*|*"nvalid option"*|*sage:*) ;; *) failed "$e" ;; esac
      if [ -L "$t" ] && [ -d "$t" ]; then rm -f -- "$t"; fi
      e=$(mv -f -- "$tmp" "$t" 2>&1) || failed "$e"
    fi
    # Two names of one file are not renamed over each other: rename(2) does nothing then.
    rm -f -- "$tmp"; trap - EXIT
    sync -- "$d" 2>/dev/null
  fi
  say done "$blob"
  exit 0
}
`;
}

export interface ReceiveParts {
  readonly sha256: string;
  readonly size: number;
  /** Bytes of data, without holes. */
  readonly need: number;
  /** Name of this attempt, and of the one before it, whose remains are this one's. */
  readonly id: string;
  readonly before: string;
  readonly cache: string | undefined;
  readonly target: HostTarget | undefined;
}

/**
 * The far end of an upload, all of it: says `done` where the blob is there, `busy` where another upload of it is under
 * way, else `have PIECE DIGEST` for what an attempt before has left and `go`. Then lines on stdin, with content between:
 *
 *     raw FIRST COUNT         COUNT blocks follow, for the blocks from FIRST on
 *     gz FIRST COUNT PAGES    the same, compressed, filled up to PAGES pages of 4 KiB
 *     check PIECE FIRST:COUNT ...   `piece PIECE DIGEST` of these blocks is wanted
 *     commit                  everything arrived: put it in place
 */
export function receiveScript(parts: ReceiveParts): ShellText {
  return shJoin(
    [
      cacheFolder(parts.cache),
      TOOLS,
      sh`id=${parts.id}`,
      blobFunctions(parts.sha256, parts.size),
      placeFunction(parts.target),
      sh`need=${Math.ceil(parts.need / 1024)}; before=${parts.before}
if present; then place; fi
part=$base/part/$sha.$id
e=$(mkdir -p -- "$folder" "$base/part" 2>&1) || failed "$e"
find "$base/part" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2>/dev/null
if [ -n "$before" ] && mv -- "$base/part/$sha.$before" "$part" 2>/dev/null; then :
else
  for old in "$base/part/$sha."*; do
    [ -d "$old" ] || continue
    p=$(cat "$old/pid" 2>/dev/null)
    if [ -n "$p" ] && kill -0 "$p" 2>/dev/null && [ -n "$(find "$old" "$old/data" -maxdepth 0 -mmin -2 2>/dev/null)" ]; then say busy; exit 0; fi
    mv -- "$old" "$part" 2>/dev/null && break
  done
fi
blocks() { for r in "$@"; do dd if="$part/data" bs=${BLOCK} skip=\${r%:*} count=\${r#*:} 2>/dev/null; done; }
if [ -d "$part" ]; then
  mkdir -p -- "$part"; echo $$ >"$part/pid"; touch -- "$part/done"
  while read -r n runs; do h=$(blocks $runs | sum) && say have "$n" "$h"; done <"$part/done"
else
  free=$(df -Pk -- "$base" | { read -r l; read -r a b c free e; echo "$free"; })
  case $free in ''|*[!0-9]*) ;; *) if [ "$free" -lt "$need" ]; then failed "no space left"; fi ;; esac
  e=$(mkdir -- "$part" 2>&1) || failed "$e"
  chmod 700 "$part"; echo $$ >"$part/pid"
fi
[ -f "$part/data" ] || : >"$part/data"
if command -v gzip >/dev/null 2>&1; then say go gzip; else say go plain; fi
last=; before=
while IFS= read -r line; do
  set -- $line
  case $1 in
    raw) dd of="$part/data" bs=${BLOCK} seek=$2 count=$3 conv=notrunc iflag=fullblock 2>"$part/err" || failed "$(cat "$part/err")" ;;
    gz) dd bs=4096 count=$4 iflag=fullblock 2>/dev/null | gzip -dc 2>/dev/null |
      dd of="$part/data" bs=${BLOCK} seek=$2 count=$3 conv=notrunc iflag=fullblock 2>"$part/err" || failed "$(cat "$part/err")" ;;
    check)
      # Beside what arrives meanwhile, and no more than two at a time.
      if [ -n "$before" ]; then wait "$before"; fi
      before=$last
      shift; n=$1; shift
      { h=$(blocks "$@" | sum) && say piece "$n" "$h"; echo "$n $*" >>"$part/done"; touch -- "$part"; } & last=$! ;;
    commit)
      wait
      dd if=/dev/null of="$part/data" bs=1 seek=$size count=0 2>/dev/null
      if [ "$(stat -c %s -- "$part/data")" != "$size" ]; then failed "the file could not be given its size"; fi
      chmod 0444 "$part/data"
      stamped "$part/data" || failed "its time cannot be set"
      e=$(mv -f -- "$part/data" "$blob" 2>&1) || failed "$e"
      echo "$boot" >"$blob.boot"
      rm -rf -- "$part"
      place ;;
    *) failed "a line that nobody knows: $1" ;;
  esac
done
wait
exit 0`,
    ],
    "\n",
  );
}

/** Says `there DIGEST` for each that the host has, verified; changes nothing. For `probe`. */
export function presentScript(
  blobs: readonly { readonly sha256: string; readonly size: number }[],
  cache?: string,
): ShellText {
  return shJoin([
    cacheFolder(cache),
    sh`boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)`,
    ...blobs.map(
      ({ sha256, size }) => sh`f=$base/sha256/${sha256.slice(0, 2)}/${sha256}
if [ "$(stat -c '%s %Y' -- "$f" 2>/dev/null)" = ${`${size} ${stampOf(sha256)}`} ] && [ "$(cat "$f.boot" 2>/dev/null)" = "$boot" ]; then echo "labctl-artifact there ${sha256}"; fi`,
    ),
  ]);
}

/** Removes what is not among `keep`, has no other name on the host, and was not verified or put within the last day. */
export function cleanScript(keep: readonly string[], cache?: string): ShellText {
  return shJoin([
    cacheFolder(cache),
    sh`keep=${` ${keep.join(" ")} `}
for f in "$base"/sha256/??/????????????????????????????????????????????????????????????????; do
  [ -f "$f" ] || continue
  n=\${f##*/}
  case $keep in *" $n "*) continue ;; esac
  if [ "$(stat -c %h -- "$f")" != 1 ] || [ -n "$(find "$f.boot" -mmin -1440 2>/dev/null)" ]; then continue; fi
  b=$(stat -c %b -- "$f"); rm -f -- "$f" "$f.boot" && echo "labctl-artifact removed $n $b"
done`,
  ]);
}

/** Of a file that is to be fetched: size, identity, digest. */
export function describeScript(path: string): ShellText {
  return shJoin([
    sh`base=/`,
    TOOLS,
    sh`f=${path}
if [ -d "$f" ]; then say directory; exit 0; fi
if [ ! -e "$f" ]; then say missing; exit 0; fi
i=$(stat -L -c '%s %a %b %i-%Y' -- "$f" 2>&1) || failed "$i"
if [ ! -r "$f" ]; then failed "permission denied"; fi
h=$(sum <"$f") || failed "reading it failed"
if command -v gzip >/dev/null 2>&1; then gz=gzip; else gz=none; fi
say file $h $i $gz`,
  ]);
}

/** Part of a file on stdout, after a line that says how it looks; compressed where asked for. */
export function partScript(path: string, identity: string, piece: number, compress: boolean): ShellText {
  const blocks = PIECE / BLOCK;
  return sh`f=${path}
if [ "$(stat -L -c '%i-%Y' -- "$f")" != ${identity} ]; then exit 68; fi
${compress ? sh`dd if="$f" bs=${BLOCK} skip=${piece * blocks} count=${blocks} 2>/dev/null | gzip -1c` : sh`exec dd if="$f" bs=${BLOCK} skip=${piece * blocks} count=${blocks} 2>/dev/null`}`;
}
