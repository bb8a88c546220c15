import { sh, ShellText, shJoin } from "../../src/index.ts";
import type { BuildPaths } from "./layout.ts";

/**
 * A build on its server is a job: a directory with
 *
 *     lock     held by the supervisor for as long as it lives
 *     pid      process id, start time and boot id of the supervisor; these three name one process for ever
 *     lease    touched by whoever wants the build to go on; when nobody does for a while, the supervisor ends it
 *     cancel   made by who wants it ended
 *     script   what is run
 *     log      its output
 *     phase    what it is doing: waiting, source, configure, build, modules, collect
 *     problem  why one of labctl's own steps ended the build; see PROBLEMS in build-script.ts
 *     result   `key=value` lines, written last
 *
 * The supervisor is detached from the connection. It runs the script in a session of its own, with a mark in its
 * environment by which all that it starts can be found again, wherever it hides (a daemon with a session of its own).
 */
export const JOB_FUNCTIONS = new ShellText(String.raw`labctl_job_alive() {
  { IFS=' ' read -r labctl_p labctl_s labctl_b <"$1/pid"; } 2>/dev/null || return 1
  IFS= read -r labctl_x </proc/sys/kernel/random/boot_id
  [ "$labctl_b" = "$labctl_x" ] || return 1
  { IFS= read -r labctl_x <"/proc/$labctl_p/stat"; } 2>/dev/null || return 1
  labctl_x=${"$"}{labctl_x##*) }
  set -- $labctl_x
  [ "$1" != Z ] && [ "${"$"}{20}" = "$labctl_s" ]
}
labctl_running() {
  { IFS= read -r labctl_x <"/proc/$1/stat"; } 2>/dev/null || return 1
  case ${"$"}{labctl_x##*) } in Z*|X*) return 1 ;; esac
}
# All that belongs to a job: what carries its mark, and the session, group and descendants of process $2.
labctl_members() {
  for labctl_e in $(grep -lszxF -- "LABCTL_BUILD_JOB=$1" /proc/[0-9]*/environ 2>/dev/null); do
    labctl_e=${"$"}{labctl_e#/proc/}; labctl_e=${"$"}{labctl_e%/environ}
    case $labctl_l in *" $labctl_e "*) ;; *) labctl_l="$labctl_l$labctl_e " ;; esac
  done
  labctl_more=1
  while [ $labctl_more = 1 ]; do
    labctl_more=0
    for labctl_f in /proc/[0-9]*/stat; do
      { IFS= read -r labctl_x <"$labctl_f"; } 2>/dev/null || continue
      labctl_i=${"$"}{labctl_x%% *}; labctl_x=${"$"}{labctl_x##*) }
      case $labctl_l in *" $labctl_i "*) continue ;; esac
      set -- "$1" "$2" $labctl_x
      [ "$3" = Z ] && continue
      if [ -n "$2" ] && { [ "$5" = "$2" ] || [ "$6" = "$2" ]; }; then labctl_l="$labctl_l$labctl_i "; labctl_more=1; continue; fi
      case $labctl_l in *" $4 "*) labctl_l="$labctl_l$labctl_i "; labctl_more=1 ;; esac
    done
  done
}
# TERM, then KILL after three seconds. $1: the job's mark; $2: leader of its session, or nothing.
labctl_end_all() {
  labctl_l=" "
  for labctl_sig in TERM KILL KILL; do
    labctl_members "$1" "$2"
    labctl_a=
    for labctl_i in $labctl_l; do if labctl_running "$labctl_i"; then labctl_a="$labctl_a $labctl_i"; fi; done
    [ -n "$labctl_a" ] || return 0
    # Continued, so that what was stopped can end.
    kill -$labctl_sig $labctl_a 2>/dev/null
    kill -CONT $labctl_a 2>/dev/null
    labctl_n=0
    while [ $labctl_n -lt 15 ]; do
      labctl_c=0
      for labctl_i in $labctl_a; do if labctl_running "$labctl_i"; then labctl_c=1; fi; done
      [ $labctl_c = 1 ] || break
      sleep 0.2
      labctl_n=$((labctl_n+1))
    done
  done
  return 1
}
labctl_free_kib() { df -Pk -- "$1" 2>/dev/null | awk 'END { print $4 }'; }
`);

/** Bytes that are set aside in a job's directory, so that its end can be recorded on a full disk. */
const RESERVE_KIB = 64;

/**
 * The supervisor. Arguments: job directory, digest, lock of the tree, seconds of the lease, seconds of the timeout.
 * The build's environment comes on stdin and is passed on so, that it is neither on a disk nor on a command line, and
 * cannot disturb the supervisor's own.
 */
const SUPERVISOR = shJoin([
  JOB_FUNCTIONS,
  new ShellText(String.raw`PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
job=$1 mark=$2 tree_lock=$3 lease_s=$4 timeout_s=$5
labctl_env=$(cat)
cd / || exit 1
umask 022
trap '' HUP
exec 9>>"$job/lock" </dev/null
flock -w 2 9 || exit 0
rm -f -- "$job/result" "$job/cancel" "$job/problem" "$job/phase"
: >"$job/log" || exit 1
IFS= read -r boot </proc/sys/kernel/random/boot_id
IFS= read -r stat <"/proc/$$/stat"
rest=${"$"}{stat##*) }
set -- $rest
up() { read -r labctl_u labctl_x </proc/uptime; now=${"$"}{labctl_u%.*}; }
lease_state=; lease_at=; why=; limit=0
echo "$$ ${"$"}{20} $boot" >"$job/pid.new" && mv -f -- "$job/pid.new" "$job/pid" || exit 1
started=$(date +%s)
up; begun=$now; low=
finish() {
  rm -f -- "$job/reserve"
  up
  printf 'end=%s\ncode=%s\nstarted=%s\nfinished=%s\nseconds=%s\nlow_kib=%s\n' "$1" "$2" "$started" "$(date +%s)" "$((now-begun))" "$low" >"$job/result.new"
  sync -- "$job/result.new" "$job/log" 2>/dev/null
  mv -f -- "$job/result.new" "$job/result"
  exit 0
}
# Somebody who ends the supervisor wants the build ended.
trap 'why=cancelled' TERM INT
# Sets why when the build must end. Time is the machine's uptime: clocks are set, and a build must not end by that.
look() {
  [ -z "$why" ] || return 0
  [ ! -e "$job/cancel" ] || { why=cancelled; return 0; }
  up
  labctl_x=$(stat -c %y:%i -- "$job/lease" 2>/dev/null)
  if [ "$labctl_x" != "$lease_state" ]; then lease_state=$labctl_x; lease_at=$now; fi
  if [ $((now-lease_at)) -gt "$lease_s" ]; then why=lease; return 0; fi
  if [ "$limit" -gt 0 ] && [ $((now-begun)) -ge "$limit" ]; then why=timeout; fi
}
echo waiting >"$job/phase"
exec 8>>"$tree_lock"
until flock -n 8; do
  look
  [ -z "$why" ] || finish "$why" ""
  sleep 0.5
done
# Waiting for another build is not building.
up; begun=$now; limit=$timeout_s
touch -- "$tree_lock"
printf '%s\n' "$labctl_env" | (
  exec 8>&- 9>&-
  LABCTL_BUILD_JOB=$mark; export LABCTL_BUILD_JOB
  # Short of memory the compiler is to go, and neither this nor sshd.
  { echo 500 >/proc/self/oom_score_adj; } 2>/dev/null
  exec setsid sh "$job/script"
) >>"$job/log" 2>&1 &
child=$!
# Where the disk is full, what tools say of it may not find room in the log.
room() {
  labctl_x=$(labctl_free_kib "$job")
  if [ -z "$low" ] || { [ -n "$labctl_x" ] && [ "$labctl_x" -lt "$low" ]; }; then low=$labctl_x; fi
}
ticks=0
while labctl_running "$child"; do
  look
  [ -z "$why" ] || break
  [ $((ticks % 4)) != 0 ] || room
  ticks=$((ticks+1))
  sleep 0.3
done
if [ -n "$why" ]; then
  labctl_end_all "$mark" "$child"
  finish "$why" ""
fi
wait "$child"
code=$?
room
# What it left in the background goes with it.
labctl_end_all "$mark" "$child"
finish exit "$code"
`),
]);

export interface StartOptions {
  readonly paths: BuildPaths;
  readonly digest: string;
  readonly script: ShellText;
  /** Who holds the lease, for people: `ada@laptop, run 01J...`. */
  readonly holder: string;
  /** Seconds without a sign of life after which the server ends the build. */
  readonly lease: number;
  /** Seconds; 0: none. */
  readonly timeout: number;
  /** More files of the job, by name: small text. */
  readonly files?: Readonly<Record<string, string>>;
  /** Forget a result that is there, and build again. */
  readonly again: boolean;
}

/**
 * Starts a job unless it runs or is done. What stands on stdin is the build's environment, as `export` lines. Prints one
 * line: `started`, `running` (somebody's, to be attached to), `done`, `missing PROGRAM`, `full TEXT` or `failed TEXT`.
 */
export function startScript(options: StartOptions): ShellText {
  const { paths } = options;
  const files = Object.entries(options.files ?? {});
  return shJoin([
    JOB_FUNCTIONS,
    sh`labctl_env=$(cat)
umask 022
job=${paths.job}
say() { printf '%s ' "$1"; printf '%s' "$2" | tr '\\n' ' '; echo; exit 0; }
for c in flock setsid tar awk sha256sum find stat; do command -v $c >/dev/null 2>&1 || PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin; command -v $c >/dev/null 2>&1 || say missing $c; done
m=$(mkdir -p -- ${paths.workdir}/jobs ${paths.workdir}/locks ${paths.workdir}/trees ${paths.workdir}/objects ${paths.workdir}/outputs ${paths.workdir}/tarballs ${paths.workdir}/mirrors "$job" 2>&1) || say failed "$m"
exec 7>>"$job/start.lock"
flock -w 60 7 || say failed "another start of this build does not come to its end"
if labctl_job_alive "$job"; then touch -- "$job/lease"; say running; fi
if [ ${options.again ? 1 : 0} = 0 ] && [ -f "$job/result" ] && grep -qx 'end=exit' "$job/result" && grep -qx 'code=0' "$job/result" && [ -f ${paths.outputs}/outputs.tsv ]; then say done; fi
# What a supervisor that was itself killed has left.
labctl_end_all ${options.digest} ""
rm -rf -- ${paths.outputs} ${`${paths.outputs}.new`}
m=$({
printf %s ${options.script.text} >"$job/script" &&
printf %s ${SUPERVISOR.text} >"$job/supervisor" &&
printf '%s\\n' ${options.holder} >"$job/lease" &&
${shJoin(
  files.map(([name, content]) => sh`printf %s ${content} >"$job/"${name} &&`),
  "\n",
)}
dd if=/dev/zero of="$job/reserve" bs=1024 count=${RESERVE_KIB}
} 2>&1) || case $m in *'No space left'*|*'quota exceeded'*) say full "$m" ;; *) say failed "$m" ;; esac
rm -f -- "$job/pid" "$job/result"
printf '%s\\n' "$labctl_env" | setsid sh "$job/supervisor" "$job" ${options.digest} ${paths.workdir}/locks/${paths.treeKey} ${options.lease} ${options.timeout} >/dev/null 2>"$job/supervisor.err" 7>&- &
n=0
while [ $n -lt 100 ]; do
  # Its process id was removed above: one that is there was written by this supervisor, even if it was killed since.
  if [ -e "$job/pid" ] || [ -e "$job/result" ]; then say started; fi
  sleep 0.1
  n=$((n+1))
done
say failed "the build did not start: $(head -c 500 "$job/supervisor.err" 2>/dev/null)"`,
  ]);
}

/**
 * Passes on a job's log from a byte on, until it ends. stdout is the log and nothing else; stderr has lines `phase NAME`,
 * then `end`. Each line that comes on stdin renews the lease; when stdin ends, so does this, and the build goes on.
 */
export function followScript(job: string, offset: number): ShellText {
  return shJoin([
    JOB_FUNCTIONS,
    sh`job=${job} off=${offset}`,
    new ShellText(String.raw`PATH=$PATH:/usr/local/bin:/usr/bin:/bin
touch -c -- "$job/lease"
echo following >&2
exec 3<&0
{ while IFS= read -r x; do touch -c -- "$job/lease"; done; kill $$ 2>/dev/null; } <&3 >/dev/null 2>&1 &
reader=$!
old=
while :; do
  ended=0
  if [ -e "$job/result" ] || ! labctl_job_alive "$job"; then ended=1; fi
  if [ -e "$job/phase" ] && IFS= read -r p <"$job/phase" && [ "$p" != "$old" ]; then old=$p; echo "phase $p" >&2; fi
  size=$(stat -c %s -- "$job/log" 2>/dev/null || echo 0)
  if [ "$size" -gt "$off" ]; then
    tail -c "+$((off+1))" -- "$job/log" | head -c $((size-off)) || break
    off=$size
  elif [ $ended = 1 ]; then
    echo end >&2
    break
  else
    sleep 0.2
  fi
done
kill $reader 2>/dev/null
exit 0`),
  ]);
}

/** Ends a job and waits until it has ended. Prints `ended`, `none` (there was nothing), or `stuck`. */
export function cancelScript(job: string, digest: string): ShellText {
  return shJoin([
    JOB_FUNCTIONS,
    sh`job=${job} mark=${digest}`,
    new ShellText(String.raw`PATH=$PATH:/usr/local/bin:/usr/bin:/bin
[ -d "$job" ] || { echo none; exit 0; }
alive=0
if labctl_job_alive "$job"; then alive=1; fi
: 2>/dev/null >"$job/cancel" || { [ $alive = 0 ] || kill -TERM "$labctl_p"; }
n=0
while [ $alive = 1 ] && [ $n -lt 100 ]; do
  labctl_job_alive "$job" || break
  sleep 0.2
  n=$((n+1))
done
if labctl_job_alive "$job"; then kill -KILL "$labctl_p" 2>/dev/null; fi
# Also after the supervisor: it may have been killed itself.
labctl_end_all "$mark" "" || { echo stuck; exit 0; }
rm -f -- "$job/cancel"
[ $alive = 1 ] && echo ended || echo none`),
  ]);
}

/** Prints for each job a line `job DIGEST STATE AGE PHASE HOLDER`, its `result` lines, and what is in `problem`. */
export function statusScript(workdir: string, digest?: string): ShellText {
  return shJoin([
    JOB_FUNCTIONS,
    digest === undefined ? sh`set -- ${workdir}/jobs/*/` : sh`set -- ${workdir}/jobs/${digest}/`,
    new ShellText(String.raw`now=$(date +%s)
for j do
  [ -d "$j" ] || continue
  d=${"$"}{j%/}; d=${"$"}{d##*/}
  s=lost
  if labctl_job_alive "$j"; then s=running; elif [ -f "$j/result" ]; then s=finished; elif [ ! -f "$j/pid" ]; then s=unstarted; fi
  p=; [ ! -f "$j/phase" ] || IFS= read -r p <"$j/phase"
  h=; [ ! -f "$j/lease" ] || IFS= read -r h <"$j/lease"
  t=$(stat -c %Y -- "$j/lease" 2>/dev/null) || t=$now
  printf 'job\t%s\t%s\t%s\t%s\t%s\n' "$d" "$s" "$((now-t))" "$p" "$h"
  if [ "$s" = finished ]; then while IFS= read -r x; do printf 'result\t%s\n' "$x"; done <"$j/result"; fi
  if [ -f "$j/problem" ]; then while IFS= read -r x || [ -n "$x" ]; do printf 'problem\t%s\n' "$x"; done <"$j/problem"; fi
done
echo end`),
  ]);
}
