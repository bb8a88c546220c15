import { createHash, randomBytes } from "node:crypto";
import { posix } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import type { UploadTarget } from "./ports.ts";
import { sh, shJoin, type ShellText } from "./shell.ts";

/**
 * The shell text of an upload. Everything happens beside the target, under a name that belongs to that target alone,
 * so that what a crashed upload left is found and removed by the next one for the same target.
 */
export interface Placement {
  readonly target: string;
  readonly directory: string;
  /** What all temporary files for this target begin with. */
  readonly prefix: string;
  readonly temporary: string;
}

export function placement(path: string): Placement {
  if (path === "" || path.endsWith("/") || path.includes("\0")) {
    throw new LabError("E_TRANSFER", `${JSON.stringify(path)} cannot be the name of a file`, {
      hint: "give the whole path of a file, without a slash at the end",
    });
  }
  const target = path.startsWith("/") ? path : `./${path}`;
  const directory = posix.dirname(target);
  const digest = createHash("sha256").update(posix.basename(target)).digest("hex").slice(0, 16);
  const prefix = posix.join(directory, `.labctl-${digest}.tmp`);
  const safe = prefix.startsWith("/") ? prefix : `./${prefix}`;
  return { target, directory, prefix: safe, temporary: `${safe}${randomBytes(6).toString("hex")}` };
}

/** Functions and variables that every step of an upload begins with. */
function preamble(place: Placement, target: UploadTarget, sha256: string): ShellText {
  return sh`LC_ALL=C; export LC_ALL; umask 077
t=${place.target}; d=${place.directory}; prefix=${place.prefix}; tmp=${place.temporary}; want=${sha256}
mode=${target.mode ?? ""}; owner=${target.owner ?? ""}; group=${target.group ?? ""}
trap 'rm -f -- "$tmp"' EXIT
trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 141' PIPE; trap 'exit 143' TERM
say() { echo "labctl-upload $1"; }
stop() { say "$1"; exit 0; }
failed() {
  case $1 in
    *"o space left"*|*"uota exceeded"*) say full; df -Pk -- "$d" 2>&1 ;;
    *) say failed; echo "$1" ;;
  esac
  exit 0
}
digest() { s=$(sha256sum <"$1") || failed "sha256sum cannot read $1"; echo "\${s%% *}"; }
fsync() { sync -- "$1" 2>/dev/null || sync; }
if [ -d "$t" ] && [ ! -L "$t" ]; then stop directory; fi
if [ ! -d "$d" ]; then stop nowhere; fi
omode=; oid=; gid=
if [ -f "$t" ] && [ ! -L "$t" ]; then
  e=$(stat -c '%a %u %g' -- "$t" 2>&1) || failed "$e"
  set -- $e; omode=$1; oid=$2; gid=$3
fi
`;
}

/**
 * Ends with `same` where the content is there and mode and owner are right, or only the mode was not. Where an owner
 * has to change too, a copy is made that takes the file's place at once.
 */
function unlessThere(size: number): ShellText {
  return sh`rm -f -- "$prefix"*
number() { case $2 in ''|*[!0-9]*) ;; *) echo "$2"; return ;; esac
  if [ $1 = u ]; then id -u -- "$2"; return; fi
  l=$(getent group "$2" 2>/dev/null || grep "^$2:" /etc/group) || { echo "there is no group $2"; return 1; }
  l=\${l#*:*:}; echo "\${l%%:*}"
}
how=sent
if [ -n "$omode" ] && [ "$(stat -c %s -- "$t")" = ${size} ] && [ "$(digest "$t")" = "$want" ]; then
  how=same; m=0; o=0
  if [ -n "$mode" ] && [ "$(printf %04d "$omode")" != "$mode" ]; then m=1; fi
  if [ -n "$owner" ]; then e=$(number u "$owner" 2>&1) || failed "$e"; [ "$e" = "$oid" ] || o=1; fi
  if [ -n "$group" ]; then e=$(number g "$group" 2>&1) || failed "$e"; [ "$e" = "$gid" ] || o=1; fi
  if [ $m$o = 00 ]; then stop same; fi
  if [ $o = 0 ]; then e=$(chmod -- "$mode" "$t" 2>&1) || failed "$e"; stop same; fi
  set -C; e=$( { cat <"$t" >"$tmp"; } 2>&1 ) || failed "$e"; set +C
fi
`;
}

/** Takes the content from stdin, unless a copy of it was made above. noclobber opens with O_EXCL. */
const RECEIVE = sh`if [ $how = sent ]; then set -C; e=$( { cat >"$tmp"; } 2>&1 ) || failed "$e"; set +C; fi
`;

/** Verifies, sets owner and mode, syncs, and renames over the target. */
const COMMIT = sh`got=$(digest "$tmp")
if [ "$got" != "$want" ]; then stop "digest $got"; fi
own=\${owner:-$oid}; grp=\${group:-$gid}
if [ -n "$own$grp" ]; then
  now=$(stat -c %u:%g -- "$tmp")
  if [ "$own:$grp" != "$now" ]; then
    own=$own\${grp:+:$grp}
    # Keeping the owner of what was there is tried; only an owner that was asked for has to be.
    e=$(chown -- "$own" "$tmp" 2>&1) || { if [ -n "$owner$group" ]; then failed "$e"; fi; }
  fi
fi
e=$(chmod -- "\${mode:-\${omode:-0644}}" "$tmp" 2>&1) || failed "$e"
fsync "$tmp"
if [ -d "$t" ] && [ ! -L "$t" ]; then stop directory; fi
if e=$(mv -fT -- "$tmp" "$t" 2>&1); then :
else
  # A mv without -T would move into a directory that a link points to.
  case $e in *nrecognized*|*"nvalid option"*|*sage:*) ;; *) failed "$e" ;; esac
  if [ -L "$t" ] && [ -d "$t" ]; then rm -f -- "$t"; fi
  e=$(mv -f -- "$tmp" "$t" 2>&1) || failed "$e"
fi
trap - EXIT
fsync "$d"
stop $how`;

/** All in one round trip; the content follows on stdin. */
export function placeScript(place: Placement, target: UploadTarget, sha256: string, size: number): ShellText {
  return shJoin([preamble(place, target, sha256), unlessThere(size), RECEIVE, COMMIT], "");
}

/** First step for large content: `same`, or `ready` for the content to be sent. */
export function prepareScript(place: Placement, target: UploadTarget, sha256: string, size: number): ShellText {
  return shJoin(
    [
      preamble(place, target, sha256),
      unlessThere(size),
      sh`if [ $how = sent ]; then stop ready; fi
`,
      COMMIT,
    ],
    "",
  );
}

/** Second step: the content on stdin. */
export function receiveScript(place: Placement, target: UploadTarget, sha256: string): ShellText {
  return shJoin(
    [
      preamble(place, target, sha256),
      sh`how=sent
`,
      RECEIVE,
      COMMIT,
    ],
    "",
  );
}

/** Second step where the content was written to the temporary file by other means. */
export function commitScript(place: Placement, target: UploadTarget, sha256: string): ShellText {
  return shJoin(
    [
      preamble(place, target, sha256),
      sh`how=sent
`,
      COMMIT,
    ],
    "",
  );
}

/** After a transfer that broke: removes what came, and says how much room is left (POSIX df, in KiB). */
export function abandonScript(place: Placement): ShellText {
  return sh`df -Pk -- ${place.directory}; rm -f -- ${place.temporary}`;
}
