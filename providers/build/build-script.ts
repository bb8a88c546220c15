import { sh, ShellText, shJoin } from "../../src/index.ts";
import type { BuildPaths } from "./layout.ts";
import { APPLY_FUNCTIONS, applySource, type PreparedSource } from "./source-script.ts";

/** How a kernel is built for an architecture: the kernel's own name for it, where its files are, what is made of it. */
export const KERNEL_ARCHS = {
  x86_64: { arch: "x86_64", srcarch: "x86", target: "bzImage", image: "arch/x86/boot/bzImage" },
  arm64: { arch: "arm64", srcarch: "arm64", target: "Image", image: "arch/arm64/boot/Image" },
  armv7: { arch: "arm", srcarch: "arm", target: "zImage", image: "arch/arm/boot/zImage" },
  riscv64: { arch: "riscv", srcarch: "riscv", target: "Image", image: "arch/riscv/boot/Image" },
} as const satisfies Record<string, { arch: string; srcarch: string; target: string; image: string }>;
export type KernelArch = keyof typeof KERNEL_ARCHS;

/** What every kernel can be configured with, besides the files of its `configs`. */
export const CONFIG_TARGETS: readonly string[] = [
  "defconfig",
  "tinyconfig",
  "allnoconfig",
  "allmodconfig",
  "allyesconfig",
  "alldefconfig",
];

/** What of a toolchain a build needs; a Toolchain is one. */
export interface Compiler {
  readonly name: string;
  readonly family: "gcc" | "clang";
  readonly path: string;
  readonly cross_compile: string;
  readonly suffix: string;
  readonly llvm_tools: boolean;
}

export interface KernelBuild {
  readonly type: "kernel";
  readonly arch: KernelArch;
  /** A target such as `defconfig`, or a whole configuration. */
  readonly base: { readonly defconfig: string } | { readonly config: string };
  readonly modules: boolean;
  /** All device trees of the configuration, or some by name (`broadcom/bcm2711-rpi-4-b.dtb`). */
  readonly dtbs: boolean | readonly string[];
  readonly makeArgs: readonly string[];
}

export interface RunBuild {
  readonly type: "run";
  readonly arch: string;
  /** What the user wrote. */
  readonly run: ShellText;
  /** Name -> path below the source, and the type of artifact, where it has one of its own. */
  readonly outputs: Readonly<Record<string, { readonly path: string; readonly type?: string }>>;
}

export interface ScriptInputs {
  readonly paths: BuildPaths;
  readonly digest: string;
  readonly source: PreparedSource;
  readonly work: KernelBuild | RunBuild;
  readonly compiler: Compiler;
  /** Absent: as many as the machine has cores. */
  readonly jobs?: number;
  readonly ccache: boolean;
  /** Builds from nothing. */
  readonly clean: boolean;
}

/**
 * Words that labctl's own steps write into `problem` before they end a build, each with further fields after tabs:
 * `stale` (the tree is not what the stage was made for: prepare again), `source TEXT`, `tarball TEXT`, `defconfig NAME` (then `near` lines),
 * `dropped SYMBOL VALUE` lines, `output NAME PATH` (then `near` lines), `step TEXT`.
 */
export type ProblemWord = "stale" | "source" | "tarball" | "defconfig" | "dropped" | "output" | "near" | "step";

const COMMON = new ShellText(String.raw`unset MAKEFLAGS MAKELEVEL MFLAGS CDPATH GREP_OPTIONS
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export PATH
umask 022
# The build's own environment, for its own commands only: what it sets must not lead our steps astray.
labctl_env=$(cat)
exec </dev/null
labctl_phase() { echo "$1" >"$job/phase"; }
labctl_problem() { (IFS='	'; printf '%s\n' "$*") >>"$job/problem"; }
labctl_die() { labctl_problem "$@"; shift; echo "labctl: $*" >&2; exit 1; }
labctl_or_die() { labctl_w=$1; shift; "$@" || { labctl_c=$?; labctl_problem step "$labctl_w"; exit $labctl_c; }; }
# Type, name and file of a thing that was made, and what it is called where that is not the file's name.
labctl_keep() {
  mkdir -p -- "$new" && cp --reflink=auto -- "$3" "$new/$labctl_k" || exit 1
  labctl_m=0644; labctl_f=${"$"}{4:-${"$"}{3##*/}}
  case $(stat -c %A -- "$3") in *x*|*s*|*t*) labctl_m=0755 ;; esac
  chmod "$labctl_m" -- "$new/$labctl_k"
  labctl_d=$(sha256sum <"$new/$labctl_k") || exit 1
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "${"$"}{labctl_d%% *}" "$(stat -c %s -- "$new/$labctl_k")" "$labctl_k" "$labctl_f" >>"$new/outputs.tsv" || exit 1
  labctl_k=$((labctl_k+1))
}
labctl_publish() {
  if [ -n "$released" ]; then printf 'release\t%s\n' "$released" >>"$new/outputs.tsv" || exit 1; fi
  sync -- "$new/outputs.tsv" 2>/dev/null
  rm -rf -- "$out" && mv -- "$new" "$out"
}
labctl_near() { head -n 200 | while IFS= read -r x; do labctl_problem near "$x"; done; }
labctl_k=0 released=
`);

/** Pure: the whole script of a build, from its source to what it made. Runs below the supervisor of its job. */
export function buildScript(inputs: ScriptInputs): ShellText {
  const { paths, work } = inputs;
  return shJoin([
    sh`job=${paths.job} tree=${paths.tree} obj=${paths.objects} out=${paths.outputs} new=${`${paths.outputs}.new`} stage=${paths.stage} workdir=${paths.workdir} digest=${inputs.digest}
jobs=${inputs.jobs ?? new ShellText('"$(nproc)"')}`,
    COMMON,
    APPLY_FUNCTIONS,
    sh`rm -rf -- "$new"
labctl_phase source`,
    ...(inputs.clean ? [sh`rm -rf -- "$obj"`] : []),
    applySource(inputs.source, { pristine: work.type === "kernel" }),
    environment(inputs),
    work.type === "kernel" ? kernelSteps(inputs, work) : runSteps(work),
    sh`rm -rf -- "$stage"
labctl_publish || labctl_die step "keep what was made"
exit 0`,
  ]);
}

/**
 * What makes two builds of one digest alike: dates from the source, names that say which build it is and nothing of the
 * machine (Documentation/kbuild/reproducible-builds.rst in the kernel). The build's host name is the digest: a
 * running kernel says in /proc/version which build it is.
 */
function environment(inputs: ScriptInputs): ShellText {
  const { compiler, digest, ccache, paths } = inputs;
  return shJoin([
    sh`LC_ALL=C; TZ=UTC; SOURCE_DATE_EPOCH=$labctl_epoch
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$labctl_epoch" '+%a %b %e %H:%M:%S UTC %Y' 2>/dev/null || date -u -r "$labctl_epoch")
KBUILD_BUILD_USER=labctl; KBUILD_BUILD_HOST=${digest.slice(0, 16)}; KBUILD_BUILD_VERSION=1
export LC_ALL TZ SOURCE_DATE_EPOCH KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER KBUILD_BUILD_HOST KBUILD_BUILD_VERSION
cc=${compiler.path} cross=${compiler.cross_compile === "" ? "" : `${directoryOf(compiler.path)}${compiler.cross_compile}`}
wrap=`,
    ...(ccache
      ? [
          sh`if command -v ccache >/dev/null 2>&1; then
  CCACHE_DIR=${paths.ccache}; CCACHE_COMPILERCHECK=content; export CCACHE_DIR CCACHE_COMPILERCHECK
  wrap="ccache "
fi`,
        ]
      : []),
  ]);
}

function directoryOf(path: string): string {
  const cut = path.lastIndexOf("/");
  // A compiler in PATH is called by its name alone: its path would otherwise be part of every recorded command.
  return ["/usr/bin", "/bin", "/usr/local/bin"].includes(path.slice(0, cut)) ? "" : path.slice(0, cut + 1);
}

/** KCFLAGS of several places as one: the last on a command line would be the only one. */
function splitFlags(args: readonly string[]): { readonly flags: string; readonly rest: readonly string[] } {
  const flags = args.filter((arg) => arg.startsWith("KCFLAGS=")).map((arg) => arg.slice("KCFLAGS=".length));
  return { flags: flags.join(" "), rest: args.filter((arg) => !arg.startsWith("KCFLAGS=")) };
}

function kernelSteps(inputs: ScriptInputs, work: KernelBuild): ShellText {
  const { compiler } = inputs;
  const kernel = KERNEL_ARCHS[work.arch];
  const { flags, rest } = splitFlags(work.makeArgs);
  const llvm = compiler.family === "clang" && compiler.llvm_tools;
  const name = compiler.path.slice(compiler.path.lastIndexOf("/") + 1);
  const cc = `${directoryOf(compiler.path)}${name}`;
  const tools = llvm
    ? sh`LLVM=${directoryOf(compiler.path) || compiler.suffix || "1"} CC="$wrap"${cc}`
    : sh`CROSS_COMPILE="$cross" CC="$wrap"${cc}`;
  return shJoin([
    sh`mkdir -p -- "$obj" || exit 1
touch -- "$obj"
labctl_read_only
labctl_make() { labctl_guarded make --no-print-directory -C "$tree" O="$obj" ARCH=${kernel.arch} ${tools} KCFLAGS=${flags === "" ? "" : `${flags} `}"-ffile-prefix-map=$tree/= -ffile-prefix-map=$obj/=" ${rest} "$@"; }
srcarch=${kernel.srcarch}`,
    configureSteps(work),
    sh`labctl_phase build
labctl_or_die build labctl_make -j"$jobs" ${kernel.target} vmlinux`,
    ...(work.modules
      ? [
          sh`if grep -qx 'CONFIG_MODULES=y' "$obj/.config"; then
  labctl_phase modules
  labctl_or_die modules labctl_make -j"$jobs" modules
fi`,
        ]
      : []),
    ...(work.dtbs === false ? [] : [sh`labctl_phase dtbs`]),
    ...(work.dtbs === true ? [sh`labctl_or_die dtbs labctl_make -j"$jobs" dtbs`] : []),
    ...(typeof work.dtbs === "object" && work.dtbs.length > 0
      ? [sh`labctl_or_die dtbs labctl_make -j"$jobs" ${work.dtbs}`]
      : []),
    sh`labctl_phase collect
mkdir -p -- "$new" || exit 1
released=$(cat -- "$obj/include/config/kernel.release")
labctl_keep kernel_image kernel_image "$obj/"${kernel.image}
labctl_keep vmlinux vmlinux "$obj/vmlinux"
labctl_keep system_map system_map "$obj/System.map"
labctl_keep kernel_config config "$obj/.config" config
tarball() { tar --sort=name --mtime="@$labctl_epoch" --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw -C "$1" -cf "$2" .; }`,
    ...(work.modules
      ? [
          sh`if grep -qx 'CONFIG_MODULES=y' "$obj/.config"; then
  rm -rf -- "$new.mod"; mkdir -- "$new.mod" || exit 1
  labctl_or_die modules labctl_make INSTALL_MOD_PATH="$new.mod" modules_install
  # They point to this server's directories.
  rm -f -- "$new.mod"/lib/modules/*/build "$new.mod"/lib/modules/*/source
  labctl_or_die modules tarball "$new.mod" "$new.tar"
  labctl_keep kernel_modules modules "$new.tar" modules.tar
  rm -rf -- "$new.mod" "$new.tar"
fi`,
        ]
      : []),
    ...(work.dtbs === true
      ? [
          sh`rm -rf -- "$new.dtb"; mkdir -- "$new.dtb" || exit 1
(cd -- "$obj/arch/$srcarch/boot/dts" && find . -name '*.dtb' -exec cp --parents -t "$new.dtb" -- {} +) || exit 1
labctl_or_die dtbs tarball "$new.dtb" "$new.tar"
labctl_keep device_trees dtbs "$new.tar" dtbs.tar
rm -rf -- "$new.dtb" "$new.tar"`,
        ]
      : []),
    ...(typeof work.dtbs === "object"
      ? work.dtbs.map((dtb) => sh`labctl_keep device_tree ${baseName(dtb)} "$obj/arch/$srcarch/boot/dts/"${dtb}`)
      : []),
  ]);
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/**
 * The configuration is made anew each time, and put in place only where it came out differently: kbuild then compiles
 * what depends on the symbols that changed, and nothing where none did.
 */
function configureSteps(work: KernelBuild): ShellText {
  const base =
    "config" in work.base
      ? sh`cp -- "$job/base.config" "$obj/.config" || exit 1`
      : shJoin(defconfigWords(work.base.defconfig).map((word) => sh`labctl_defconfig ${word}`));
  return shJoin([
    CONFIGURE,
    VERIFY,
    sh`labctl_phase configure
rm -f -- "$obj/.config.before"
[ ! -f "$obj/.config" ] || cp -p -- "$obj/.config" "$obj/.config.before" || exit 1
labctl_before=
[ ! -f "$obj/.config.before" ] || labctl_before=1`,
    base,
    sh`labctl_or_die configure labctl_merge
labctl_or_die configure labctl_make olddefconfig
if [ -n "$labctl_before" ] && cmp -s -- "$obj/.config" "$obj/.config.before"; then mv -f -- "$obj/.config.before" "$obj/.config"; fi
rm -f -- "$obj/.config.before"
labctl_verify || { cp -- "$obj/.config" "$job/config"; echo "labctl: symbols that were asked for did not survive olddefconfig" >&2; exit 1; }`,
  ]);
}

/** `defconfig kvm_guest.config`: a target, then further fragments of the kernel's own. A fragment alone goes onto defconfig. */
export function defconfigWords(text: string): readonly string[] {
  const words = text.split(/\s+/).filter((word) => word !== "");
  return words[0]?.endsWith(".config") === false ? words : ["defconfig", ...words];
}

const CONFIGURE = new ShellText(String.raw`labctl_defconfig() {
  case $1 in
    ${CONFIG_TARGETS.join("|")}) ;;
    *)
      if [ ! -f "$tree/arch/$srcarch/configs/$1" ] && [ ! -f "$tree/kernel/configs/$1" ] && ! grep -q "^$1:" "$tree/arch/$srcarch/Makefile" 2>/dev/null; then
        labctl_problem defconfig "$1"
        (cd -- "$tree/arch/$srcarch/configs" 2>/dev/null && ls) | labctl_near
        for a in "$tree"/arch/*/configs; do
          [ -f "$a/$1" ] && { a=${"$"}{a%/configs}; labctl_problem near "$1 (of ${"$"}{a##*/})"; }
        done
        exit 1
      fi
      ;;
  esac
  labctl_or_die configure labctl_make "$1"
}
# Drops each symbol that is asked for, then appends what is asked for, as scripts/kconfig/merge_config.sh does.
labctl_merge() {
  awk -F '\t' 'BEGIN { while ((getline x < ARGV[1]) > 0) { sub(/\t.*/, "", x); want[x] = 1 } ARGV[1] = "" }
    { s = $0; if (match(s, /^(# )?CONFIG_[A-Za-z0-9_]+/)) { sub(/^# /, "", s); sub(/^CONFIG_/, "", s); sub(/[^A-Za-z0-9_].*$/, "", s); if (s in want) next } print }' \
    "$job/requested" "$obj/.config" >"$obj/.config.labctl" &&
  cat -- "$job/fragment" >>"$obj/.config.labctl" && mv -f -- "$obj/.config.labctl" "$obj/.config"
}
`);

/** Finds the requests that olddefconfig dropped. The same rule as verifyConfig() in kernel-config.ts: m is met by y, n by absence. */
export const VERIFY = new ShellText(String.raw`labctl_verify() {
  awk -F '\t' 'BEGIN { while ((getline x < ARGV[1]) > 0) if (match(x, /^CONFIG_[A-Za-z0-9_]+=/)) have[substr(x, 8, RLENGTH - 8)] = substr(x, RLENGTH + 1); ARGV[1] = "" }
    { h = ($1 in have) ? have[$1] : "n"; if ($3 == "optional" || tolower(h) == tolower($2)) next
      if ($2 == "m" && h == "y") next
      if ($2 == "\"\"" && h == "n") next
      print "dropped\t" $1 "\t" h }' "$obj/.config" "$job/requested" >"$job/dropped" || return 1
  [ ! -s "$job/dropped" ] || { cat -- "$job/dropped" >>"$job/problem"; return 1; }
}
`);

function runSteps(work: RunBuild): ShellText {
  const outputs = Object.entries(work.outputs);
  return shJoin([
    sh`labctl_phase build
touch -- "$obj"
ARCH=${work.arch} CROSS_COMPILE=$cross CC="$wrap$cc" LABCTL_JOBS=$jobs
export ARCH CROSS_COMPILE CC LABCTL_JOBS
printf %s ${work.run.text} >"$job/run" || exit 1
cd -- "$tree" || exit 1
labctl_run() { (set -- "$job/run"; eval "$labctl_env"; exec sh "$1"); }
labctl_run || exit $?
labctl_of_source() {
  if [ -f "$tree.manifest" ]; then labctl_paths "$tree.manifest" | grep -qxF -e "$1"; else labctl_git -C "$tree" ls-files --error-unmatch -- "$1" >/dev/null 2>&1; fi
}
# What this run did not touch may be of an earlier source: it is made anew, or it is not there.
labctl_old=
labctl_untouched() {
  f=$tree/$1
  if [ ! -f "$f" ] || [ -n "$(find "$f" -prune -cnewer "$job/run")" ] || labctl_of_source "$1"; then return; fi
  rm -f -- "$f" && labctl_old=1
}`,
    ...outputs.map(([, { path }]) => sh`labctl_untouched ${path.replace(/^(\.\/+)+/, "")}`),
    sh`[ -z "$labctl_old" ] || labctl_run || exit $?
labctl_phase collect
mkdir -p -- "$new" || exit 1
labctl_output() {
  f=$tree/$3
  if [ ! -f "$f" ]; then
    w=missing; [ ! -d "$f" ] || w=directory
    labctl_problem output "$2" "$3" "$w"
    (cd -- "$tree" && find . -type f -newer "$job/run" ! -path './.git/*' ! -name '*.o' | sed 's|^[.]/||' | LC_ALL=C sort) | labctl_near
    exit 1
  fi
  labctl_keep "$1" "$2" "$f"
}
: >>"$new/outputs.tsv"`,
    ...outputs.map(([name, output]) => sh`labctl_output ${output.type ?? name} ${name} ${output.path}`),
  ]);
}
