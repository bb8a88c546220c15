import { isUtf8 } from "node:buffer";
import { sh, ShellText, shJoin } from "../../src/index.ts";
import { dirname } from "./common.ts";
import { type EntryRequest, entriesScript, sha256 } from "./entries.ts";

/** What one file needs done. Steps that are absent are not taken. */
export interface FileWork {
  readonly path: string;
  /** A name beside the target that is always the same for a resource, so that what a crash left is found again. */
  readonly temporary: string;
  /**
   * `inline`: written by the script; `uploaded`: stands at `temporary`; `kept`: the copy of the original; `link`: a target;
   * `previous`: the copy that `keepPrevious` made.
   */
  readonly content?:
    | { readonly from: "inline"; readonly bytes: Uint8Array }
    | { readonly from: "uploaded" }
    | { readonly from: "kept" }
    | { readonly from: "previous"; readonly sha256: string }
    | { readonly from: "link"; readonly target: string };
  /** Four octal digits; names or numbers. */
  readonly mode?: string;
  readonly owner?: string;
  readonly group?: string;
  /** Keep a copy of what is there, unless one is kept already. */
  readonly keep?: boolean;
  /** SHA-256 of what is there: kept aside until the next time, so that this run can be taken back. */
  readonly keepPrevious?: string;
  /** Names the kept copy. */
  readonly keepId: string;
  /** What users wrote to check the new content before it becomes visible. */
  readonly validate?: string;
}

export function temporaryName(path: string, instanceId: string): string {
  const directory = dirname(path);
  return `${directory === "/" ? "" : directory}/.labctl-${sha256(`${instanceId}\0${path}`).slice(0, 20)}`;
}

export function keepId(path: string, instanceId: string): string {
  return sha256(`${instanceId}\0${path}`).slice(0, 32);
}

/**
 * Where originals are kept: on the machine itself, readable by nobody else. They never leave it. A copy is named by the
 * resource and the digest of its content, so that a damaged one is never restored.
 */
const STORE =
  new ShellText(String.raw`if [ "$(id -u)" = 0 ]; then labctl_home=/var/lib/labctl; else labctl_home=${"$"}{XDG_STATE_HOME:-$HOME/.local/state}/labctl; fi
labctl_store=$labctl_home/originals`);

/**
 * What most files need starts no program: a text is written by the shell's own printf, and what is alike for several
 * files is done by one call for all. Starting programs is what takes a host's time.
 */
export const FILE_FUNCTIONS = new ShellText(String.raw`umask 077
labctl_say() { printf 'E %s %s ' "$1" "$2"; printf '%s' "$3" | tr '\n\r' '  '; echo; }
labctl_drop() { rm -f -- "$2"; labctl_say "$1" "$3" "$4"; return 1; }
labctl_target() {
  labctl_parent=${"$"}{2%/*}
  [ -n "$labctl_parent" ] || labctl_parent=/
  if [ ! -d "$labctl_parent" ]; then
    if [ -e "$labctl_parent" ]; then labctl_say "$1" parent-type "$labctl_parent"; else labctl_say "$1" parent "$labctl_parent"; fi
    return 1
  fi
  if [ -d "$2" ]; then labctl_say "$1" directory; return 1; fi
  if [ -e "$2" ] && [ ! -f "$2" ]; then labctl_say "$1" special; return 1; fi
}
labctl_put() {
  labctl_target "$1" "$2" || return 1
  labctl_m=$( { { [ ! -e "$3" ] && [ ! -L "$3" ] || rm -f -- "$3"; } && set -C && base64 -d >"$3"; } 2>&1 ) || labctl_drop "$1" "$3" write "$labctl_m"
}
labctl_copy() {
  labctl_m=$( { rm -f -- "$3" && set -C && cat >"$3"; } 2>&1 ) || labctl_drop "$1" "$3" write "$labctl_m"
}
labctl_text() {
  labctl_target "$1" "$2" || return 1
  [ ! -e "$3" ] && [ ! -L "$3" ] || rm -f -- "$3"
  set -C
  { printf %s "$4" >"$3"; } 2>/dev/null
  labctl_r=$?
  set +C
  # A shell says of a full disk only that something went wrong; cat says what.
  [ $labctl_r = 0 ] || printf %s "$4" | labctl_copy "$1" "$2" "$3"
}
labctl_link() {
  labctl_target "$1" "$2" || return 1
  labctl_m=$( { rm -f -- "$3" && ln -s -- "$4" "$3"; } 2>&1 ) || labctl_drop "$1" "$3" write "$labctl_m"
}
labctl_kept() {
  for labctl_k in "$labctl_store/$1"-*; do
    [ -f "$labctl_k" ] || continue
    labctl_d=$(sha256sum <"$labctl_k") || continue
    [ "$labctl_k" = "$labctl_store/$1-${"$"}{labctl_d%% *}" ] && return 0
  done
  return 1
}
labctl_fetch() {
  labctl_target "$1" "$2" || return 1
  if ! labctl_kept "$4"; then labctl_say "$1" lost "$labctl_store"; return 1; fi
  labctl_m=$( { rm -f -- "$3" && set -C && cat <"$labctl_k" >"$3"; } 2>&1 ) || labctl_drop "$1" "$3" write "$labctl_m"
}
labctl_keep() {
  [ -f "$2" ] && [ ! -L "$2" ] || return 0
  labctl_kept "$4" && return 0
  labctl_m=$(
    {
      mkdir -p -- "$labctl_store" && chmod 0700 "$labctl_store" && rm -f -- "$labctl_store/$4.new" &&
        cat <"$2" >"$labctl_store/$4.new" && labctl_d=$(sha256sum <"$labctl_store/$4.new") &&
        { sync -- "$labctl_store/$4.new" 2>/dev/null || sync; } &&
        mv -f -- "$labctl_store/$4.new" "$labctl_store/$4-${"$"}{labctl_d%% *}"
    } 2>&1
  ) || labctl_drop "$1" "$3" keep "$labctl_m"
}
labctl_keep_previous() {
  rm -f -- "$labctl_store/$4.previous-"*
  labctl_m=$(
    {
      mkdir -p -- "$labctl_store" && chmod 0700 "$labctl_store" &&
        { ln -- "$2" "$labctl_store/$4.previous-$5" 2>/dev/null || cat <"$2" >"$labctl_store/$4.previous-$5"; }
    } 2>&1
  ) || labctl_drop "$1" "$3" keep "$labctl_m"
}
labctl_previous() {
  labctl_target "$1" "$2" || return 1
  labctl_k=$labctl_store/$4.previous-$5
  labctl_d=
  [ ! -f "$labctl_k" ] || labctl_d=$(sha256sum <"$labctl_k")
  if [ "${"$"}{labctl_d%% *}" != "$5" ]; then labctl_say "$1" lost-previous "$labctl_store"; return 1; fi
  labctl_m=$( { rm -f -- "$3" && set -C && cat <"$labctl_k" >"$3"; } 2>&1 ) || labctl_drop "$1" "$3" write "$labctl_m"
}
labctl_owner() {
  if [ -n "$4" ]; then labctl_m=$(chown -h -- "$4" "$2" 2>&1) || { labctl_drop "$1" "$3" owner "$labctl_m"; return 1; }; fi
  if [ -n "$5" ]; then labctl_m=$(chgrp -h -- "$5" "$2" 2>&1) || { labctl_drop "$1" "$3" group "$labctl_m"; return 1; }; fi
}
labctl_mode() {
  labctl_owner "$@" || return 1
  # The extra zero has GNU chmod clear set-id bits of directories too, which it otherwise keeps.
  [ -z "$6" ] || labctl_m=$(chmod -- "0$6" "$2" 2>&1) || labctl_drop "$1" "$3" mode "$labctl_m"
}
labctl_there() {
  labctl_o=$1${"$"}{2:+:$2}; labctl_w=$3; shift 3
  labctl_f=y
  for labctl_p do
    if [ -n "$labctl_f" ]; then set --; labctl_f=; fi
    if [ -f "$labctl_p" ]; then set -- "$@" "$labctl_p"; fi
  done
  [ $# -gt 0 ] || return 0
  { [ -z "$labctl_o" ] || chown -h -- "$labctl_o" "$@"; } 2>/dev/null || return 1
  [ -z "$labctl_w" ] || chmod -- "0$labctl_w" "$@" 2>/dev/null
}
labctl_check() {
  labctl_m=$(FILE=$3; export FILE; cd / && sh -c "$4" </dev/null 2>&1) || labctl_drop "$1" "$3" validate "$labctl_m"
}
labctl_show_up() {
  [ -f "$3" ] || [ -L "$3" ] || return 0
  labctl_target "$1" "$2" || { rm -f -- "$3"; return 1; }
  labctl_m=$(mv -f -- "$3" "$2" 2>&1) || labctl_drop "$1" "$3" rename "$labctl_m"
}
# mv renames to one new name a call. Where there is a perl, one call of it renames all; what it leaves is left to mv.
labctl_rename() {
  command -v perl >/dev/null 2>&1 || return 0
  labctl_f=y
  for labctl_p do
    if [ -n "$labctl_f" ]; then set --; labctl_f=; labctl_x=; fi
    if [ -z "$labctl_x" ]; then labctl_x=$labctl_p; continue; fi
    if [ -f "$labctl_p" ] && [ ! -d "$labctl_x" ]; then set -- "$@" "$labctl_x" "$labctl_p"; fi
    labctl_x=
  done
  [ $# -lt 5 ] || PERL5OPT='' PERL_UNICODE='' perl -e 'while (@ARGV) { rename $ARGV[1], $ARGV[0]; splice @ARGV, 0, 2 }' -- "$@" 2>/dev/null
}
# SELinux: a file keeps the context of where it was made unless it is told where it is.
labctl_context() {
  if [ -e /sys/fs/selinux/enforce ] && command -v restorecon >/dev/null 2>&1; then restorecon -- "$@" 2>/dev/null; fi
}
labctl_sync() { sync -- "$@" 2>/dev/null || sync; }
labctl_sync_there() {
  labctl_f=y
  for labctl_p do
    if [ -n "$labctl_f" ]; then set --; labctl_f=; fi
    if [ -f "$labctl_p" ]; then set -- "$@" "$labctl_p"; fi
  done
  [ $# -eq 0 ] || labctl_sync "$@"
}`);

/** The text that a shell can hold and write: exactly these bytes, and no NUL among them. */
function shellText(bytes: Uint8Array): string | undefined {
  const content = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  return content.includes(0) || !isUtf8(content) ? undefined : content.toString("utf8");
}

/** Content is delivered by the shell's own printf: no command line shows it, and no argument limit applies. */
function contentStep(i: number, work: FileWork): ShellText | undefined {
  switch (work.content?.from) {
    case "inline": {
      const text = shellText(work.content.bytes);
      if (text !== undefined) return sh`labctl_text ${i} ${work.path} ${work.temporary} ${text}`;
      return sh`printf %s ${Buffer.from(work.content.bytes).toString("base64")} | labctl_put ${i} ${work.path} ${work.temporary}`;
    }
    case "uploaded":
      return sh`labctl_target ${i} ${work.path}`;
    case "kept":
      return sh`labctl_fetch ${i} ${work.path} ${work.temporary} ${work.keepId}`;
    case "previous":
      return sh`labctl_previous ${i} ${work.path} ${work.temporary} ${work.keepId} ${work.content.sha256}`;
    case "link":
      return sh`labctl_link ${i} ${work.path} ${work.temporary} ${work.content.target}`;
    case undefined:
      return undefined;
  }
}

/** Everything about one file before it becomes visible, but for {@link ownership}; after a failure its later steps are not taken. */
function prepareSteps(i: number, work: FileWork): ShellText {
  const content = contentStep(i, work);
  if (content === undefined) {
    return sh`if [ -L ${work.path} ] || [ ! -f ${work.path} ]; then labctl_say ${i} not-a-file; else ${modeStep(i, work)}; fi`;
  }
  const steps = [
    content,
    ...(work.validate === undefined ? [] : [sh`labctl_check ${i} ${work.path} ${work.temporary} ${work.validate}`]),
    ...(work.keep === true ? [sh`labctl_keep ${i} ${work.path} ${work.temporary} ${work.keepId}`] : []),
    ...(work.keepPrevious === undefined
      ? []
      : [sh`labctl_keep_previous ${i} ${work.path} ${work.temporary} ${work.keepId} ${work.keepPrevious}`]),
    ...(work.content?.from === "link"
      ? [sh`labctl_owner ${i} ${work.temporary} ${work.temporary} ${work.owner ?? ""} ${work.group ?? ""}`]
      : []),
  ];
  return shJoin(steps, " && ");
}

function modeStep(i: number, work: FileWork): ShellText {
  const on = work.content === undefined ? work.path : work.temporary;
  return sh`labctl_mode ${i} ${on} ${work.temporary} ${work.owner ?? ""} ${work.group ?? ""} ${work.mode ?? ""}`;
}

/**
 * Owner and mode of the new files. Those that get the same get it by one call: starting programs is what takes a host's
 * time. Where that fails, one by one, to tell which file it was.
 */
function ownership(works: readonly FileWork[]): ShellText[] {
  const alike = new Map<string, { readonly i: number; readonly work: FileWork }[]>();
  for (const [i, work] of works.entries()) {
    if (work.content === undefined || work.content.from === "link") continue;
    const key = JSON.stringify([work.owner, work.group, work.mode]);
    const group = alike.get(key);
    if (group === undefined) alike.set(key, [{ i, work }]);
    else group.push({ i, work });
  }
  return [...alike.values()].map((group) => {
    const { owner = "", group: gid = "", mode = "" } = group[0]?.work ?? {};
    const singly = group.map(({ i, work }) => sh`[ ! -f ${work.temporary} ] || ${modeStep(i, work)}`);
    return sh`labctl_there ${owner} ${gid} ${mode} ${group.map(({ work }) => work.temporary)} || {
${shJoin(singly)}
}`;
  });
}

/**
 * All of one machine's files in one script: each is written beside its place, made safe on disk together (one sync), then
 * renamed. Prints `E INDEX STEP TEXT` for what failed, then, after a line `READ`, what is there (see entriesScript).
 */
export function filesScript(works: readonly FileWork[], readBack: readonly EntryRequest[]): ShellText {
  const placed = works.filter((work) => work.content !== undefined);
  const temporaries = placed.map((work) => work.temporary);
  const directories = [...new Set(placed.map((work) => dirname(work.path)))];
  return shJoin([
    ...(works.some(usesStore) ? [STORE] : []),
    FILE_FUNCTIONS,
    ...(placed.length === 0
      ? []
      : [sh`labctl_clean() { rm -f -- ${temporaries}; }`, new ShellText("trap 'labctl_clean; exit 143' TERM INT HUP")]),
    ...works.map((work, i) => prepareSteps(i, work)),
    ...ownership(works),
    ...(placed.length === 0 ? [] : [sh`labctl_sync_there ${temporaries}`]),
    ...(placed.length < 2 ? [] : [sh`labctl_rename ${placed.flatMap((work) => [work.path, work.temporary])}`]),
    ...works.flatMap((work, i) =>
      work.content === undefined ? [] : [sh`labctl_show_up ${i} ${work.path} ${work.temporary}`],
    ),
    ...(placed.length === 0
      ? []
      : [sh`labctl_context ${placed.map((work) => work.path)}`, sh`labctl_sync ${directories}`]),
    sh`echo READ`,
    entriesScript(readBack),
  ]);
}

function usesStore(work: FileWork): boolean {
  const from = work.content?.from;
  return work.keep === true || work.keepPrevious !== undefined || from === "kept" || from === "previous";
}

export interface FileRemoval {
  readonly path: string;
  readonly temporary: string;
  readonly keepId: string;
  /** Remove what labctl made there; what is neither a file nor a link stays. */
  readonly remove: boolean;
}

/** Removes the file and what labctl kept of it. Prints like {@link filesScript}. */
export function removalScript(removal: FileRemoval): ShellText {
  return shJoin([
    STORE,
    FILE_FUNCTIONS,
    sh`rm -f -- ${removal.temporary}`,
    ...(removal.remove
      ? [
          sh`if [ -L ${removal.path} ] || [ -f ${removal.path} ]; then labctl_m=$(rm -f -- ${removal.path} 2>&1) || labctl_say 0 remove "$labctl_m"; fi`,
        ]
      : []),
    sh`for labctl_k in "$labctl_store/"${removal.keepId}-* "$labctl_store/"${removal.keepId}.*; do rm -f -- "$labctl_k"; done`,
    sh`rmdir "$labctl_store" "$labctl_home" 2>/dev/null || :`,
  ]);
}

export interface StepFailure {
  readonly step: string;
  readonly text: string;
}

/** The failures by index, and the lines that {@link entriesScript} printed. */
export function parseFilesOutput(output: string): {
  readonly failures: ReadonlyMap<number, StepFailure>;
  readonly entries: readonly string[];
  readonly complete: boolean;
} {
  const lines = output.trimEnd().split("\n");
  const failures = new Map<number, StepFailure>();
  const read = lines.indexOf("READ");
  for (const line of read < 0 ? lines : lines.slice(0, read)) {
    const match = /^E ([0-9]+) (\S+) ?(.*)$/.exec(line);
    // The first failure of a file is its reason; later ones follow from it.
    if (match !== null && !failures.has(Number(match[1]))) {
      failures.set(Number(match[1]), { step: match[2] ?? "", text: (match[3] ?? "").trim() });
    }
  }
  return { failures, entries: read < 0 ? [] : lines.slice(read + 1), complete: read >= 0 };
}
