import { sh, ShellText, shJoin } from "../../src/index.ts";

/** Architectures that labctl builds for. What a compiler targets otherwise keeps its own first word (`i686`, `mips`). */
export type Arch = "x86_64" | "arm64" | "armv7" | "riscv64";
export const ARCHS: readonly Arch[] = ["x86_64", "arm64", "armv7", "riscv64"];

/** A compiler that was tried on a machine, for one architecture. clang has an entry for each that it can build for. */
export interface Toolchain {
  /** As it is called: `gcc`, `gcc-12`, `clang-14`, `aarch64-linux-gnu-gcc`. */
  readonly name: string;
  readonly family: "gcc" | "clang";
  readonly version: string;
  /** From -dumpmachine, never from the name. */
  readonly machine: string;
  readonly arch: string;
  readonly path: string;
  /** What stands before `gcc` in the name; the value of CROSS_COMPILE. Empty for native compilers and clang. */
  readonly cross_compile: string;
  /** What stands after `gcc` or `clang`: `-12`; the value of LLVM= for a kernel build. */
  readonly suffix: string;
  /** Compiles and links an empty freestanding object, for real. */
  readonly available: boolean;
  /** Compiles and links a program with the C library of its target. */
  readonly hosted: boolean;
  /** All of ld.lld, llvm-ar, llvm-nm, llvm-objcopy, llvm-objdump, llvm-readelf, llvm-strip of the same suffix; clang only. */
  readonly llvm_tools: boolean;
  /** The compiler's own words where it is not available. */
  readonly why?: string;
}

/** Programs that builds ask for, with the Debian package that brings each. */
export const TOOL_PACKAGES = {
  make: "make",
  ccache: "ccache",
  pahole: "pahole",
  bc: "bc",
  flex: "flex",
  bison: "bison",
  git: "git",
  tar: "tar",
  cpio: "cpio",
  perl: "perl",
  python3: "python3",
  rsync: "rsync",
  xz: "xz-utils",
  zstd: "zstd",
  lz4: "lz4",
  dtc: "device-tree-compiler",
  depmod: "kmod",
  openssl: "openssl",
  flock: "util-linux",
  setsid: "util-linux",
  curl: "curl",
} as const;
export type Tool = keyof typeof TOOL_PACKAGES;

/** Headers that kernel builds ask for, with the Debian package that brings each. */
export const HEADER_PACKAGES = {
  "openssl/opensslv.h": "libssl-dev",
  "gelf.h": "libelf-dev",
  "gmp.h": "libgmp-dev",
  "ncurses.h": "libncurses-dev",
} as const;
export type Header = keyof typeof HEADER_PACKAGES;

const LLVM_TOOLS = ["ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy", "llvm-objdump", "llvm-readelf", "llvm-strip"];

/** What clang is tried with. */
const CLANG_TARGETS: Readonly<Record<Arch, string>> = {
  x86_64: "x86_64-linux-gnu",
  arm64: "aarch64-linux-gnu",
  armv7: "arm-linux-gnueabihf",
  riscv64: "riscv64-linux-gnu",
};

/**
 * Finds the compilers of a machine and tries each. Prints lines of fields separated by tabs:
 * `toolchain NAME PATH FAMILY VERSION MACHINE TARGET FREESTANDING HOSTED LLVM WHY`, `tool NAME PATH`,
 * `header NAME`, and `end` when it came to its end. Writes only below a temporary directory of its own, and with
 * `link: false` nowhere: compilers then compile from a pipe to /dev/null, and nothing is linked.
 *
 * Compilers are looked for in PATH, in /usr/lib/llvm-N/bin, in /opt/NAME/bin, and in `directories`. A compiler under two names
 * is tried once; both names are told.
 */
export function toolchainsScript(
  options: { readonly directories?: readonly string[]; readonly link?: boolean } = {},
): ShellText {
  return shJoin([
    sh`labctl_link=${options.link === false ? "0" : "1"}`,
    sh`labctl_dirs() { (IFS=:; set -f; for d in $PATH; do printf '%s\n' "$d"; done); set +f; printf '%s\n' /usr/lib/llvm-*/bin /opt/*/bin; printf '%s\n' ${options.directories ?? []}; }
labctl_targets() { printf '%s\n' ${ARCHS.map((arch) => CLANG_TARGETS[arch])}; }
labctl_llvm_names() { printf '%s\n' ${LLVM_TOOLS}; }
labctl_tools() { printf '%s\n' ${Object.keys(TOOL_PACKAGES)}; }
labctl_headers() { printf '%s\n' ${Object.keys(HEADER_PACKAGES)}; }`,
    PROBE,
  ]);
}

const PROBE = new ShellText(String.raw`PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C; export LC_ALL PATH
unset CPATH C_INCLUDE_PATH LIBRARY_PATH GCC_EXEC_PREFIX COMPILER_PATH CCC_OVERRIDE_OPTIONS
labctl_t=
if [ "$labctl_link" = 1 ]; then
  labctl_t=$(mktemp -d 2>/dev/null) || { echo 'failed	no temporary directory can be made'; exit 0; }
  trap 'rm -rf -- "$labctl_t"' EXIT
  trap 'exit 143' TERM INT HUP
fi
labctl_free='void _start(void) { }'
labctl_full='#include <stdio.h>
int main(void) { return printf("") < 0; }'
labctl_lim() { if command -v timeout >/dev/null 2>&1; then timeout 20 "$@"; else "$@"; fi; }
# Compiles and links; an empty file would be no proof. Where nothing may be written: compiles, from a pipe, to /dev/null.
labctl_try() {
  labctl_src=$1; shift
  if [ -n "$labctl_t" ]; then
    rm -f -- "$labctl_t/out"
    say=$(printf '%s\n' "$labctl_src" | labctl_lim "$@" -x c - -o "$labctl_t/out" 2>&1) && [ -s "$labctl_t/out" ]
  else
    say=$(printf '%s\n' "$labctl_src" | labctl_lim "$@" -pipe -x c -c - -o /dev/null 2>&1)
  fi
}
labctl_why() { printf '%s\n' "$1" | head -n 3 | tr '\t\r\n' '   ' | cut -c 1-300; }
labctl_gcc() {
  v=$(labctl_lim "$1" -dumpfullversion -dumpversion 2>/dev/null </dev/null | head -n 1)
  m=$(labctl_lim "$1" -dumpmachine 2>/dev/null </dev/null | head -n 1)
  a=0 h=0 w=
  if [ -n "$m" ]; then
    labctl_try "$labctl_free" "$1" -nostdlib -ffreestanding -static && a=1 || w=$(labctl_why "$say")
    labctl_try "$labctl_full" "$1" && h=1
  else
    w=$(labctl_why "$(labctl_lim "$1" -dumpmachine 2>&1 </dev/null)")
  fi
  printf '%s\t%s\t%s\t%s\t%s\t0\t%s\n' "$v" "$m" "$m" "$a" "$h" "$w"
}
labctl_clang() {
  v=$(labctl_lim "$1" -dumpversion 2>/dev/null </dev/null | head -n 1)
  m=$(labctl_lim "$1" -dumpmachine 2>/dev/null </dev/null | head -n 1)
  l=1
  for n in $(labctl_llvm_names); do
    [ -x "${"$"}{1%/*}/$n$2" ] || command -v "$n$2" >/dev/null 2>&1 || l=0
  done
  lld=; [ -x "${"$"}{1%/*}/ld.lld$2" ] && lld=${"$"}{1%/*}/ld.lld$2 || lld=$(command -v "ld.lld$2" 2>/dev/null)
  if [ -z "$m" ]; then printf '%s\t\t\t0\t0\t%s\t%s\n' "$v" "$l" "$(labctl_why "$(labctl_lim "$1" -dumpmachine 2>&1 </dev/null)")"; return; fi
  for g in $(labctl_targets); do
    a=0 h=0 w=
    labctl_try "$labctl_free" "$1" "--target=$g" ${"$"}{lld:+"-fuse-ld=$lld"} -nostdlib -ffreestanding -static && a=1 || w=$(labctl_why "$say")
    [ $a = 1 ] && labctl_try "$labctl_full" "$1" "--target=$g" ${"$"}{lld:+"-fuse-ld=$lld"} && h=1
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$v" "$m" "$g" "$a" "$h" "$l" "$w"
  done
}
labctl_dirs | {
seen=:
while IFS= read -r d; do
  [ -d "$d" ] || continue
  for f in "$d"/gcc "$d"/gcc-[0-9]* "$d"/clang "$d"/clang-[0-9]* "$d"/*-gcc "$d"/*-gcc-[0-9]*; do
    [ -f "$f" ] && [ -x "$f" ] || continue
    n=${"$"}{f##*/}
    case $n in c89-gcc|c99-gcc|*[!A-Za-z0-9_.+-]*) continue ;; esac
    case $seen in *:"$n":*) continue ;; esac
    r=$(readlink -f -- "$f" 2>/dev/null) || r=$f
    case ${"$"}{r##*/} in ccache|distcc|icecc) continue ;; esac
    seen=$seen$n:
    case $n in
      clang*) k=clang; s=${"$"}{n#clang} ;;
      *) k=gcc; s= ;;
    esac
    # The same binary under another name is not tried again; what clang finds beside it depends on the suffix too.
    i=$(printf '%s\n' "$r $k $s" | cksum | tr -c '0-9\n' _)
    eval 'said=$labctl_d'"$i"
    [ -n "$said" ] || { said=$("labctl_$k" "$f" "$s"); eval "labctl_d$i=\$said"; }
    printf '%s\n' "$said" | while IFS= read -r line; do printf 'toolchain\t%s\t%s\t%s\t%s\n' "$n" "$f" "$k" "$line"; done
  done
done
}
for n in $(labctl_tools); do
  f=$(command -v "$n" 2>/dev/null) && printf 'tool\t%s\t%s\n' "$n" "$f"
done
for c in gcc clang cc; do command -v $c >/dev/null 2>&1 && break; done
for n in $(labctl_headers); do
  printf '#include <%s>\n' "$n" | labctl_lim $c -E -x c - >/dev/null 2>&1 && printf 'header\t%s\n' "$n"
done
echo end`);

export interface ToolchainReport {
  readonly toolchains: readonly Toolchain[];
  /** Tools that are there, with their paths. */
  readonly tools: Readonly<Partial<Record<Tool, string>>>;
  readonly headers: readonly Header[];
}

/** The architecture in labctl's words for a compiler's target triplet. */
export function archOfTriplet(triplet: string): string {
  const first = triplet.split("-")[0] ?? "";
  if (first === "x86_64" || first === "amd64") return triplet.endsWith("x32") ? "x32" : "x86_64";
  if (first === "aarch64" || first === "arm64") return "arm64";
  if (/^arm(v[4-8][a-z]*)?$/.test(first)) return "armv7";
  return first;
}

/** Reads what {@link toolchainsScript} printed; undefined where it did not come to its end. Foreign lines are passed over. */
export function parseToolchains(text: string): ToolchainReport | undefined {
  const toolchains: Toolchain[] = [];
  const tools: Partial<Record<Tool, string>> = {};
  const headers: Header[] = [];
  let complete = false;
  for (const line of text.split("\n")) {
    const [what, name = "", ...rest] = line.split("\t");
    if (what === "toolchain") {
      const toolchain = parseToolchain(name, rest);
      if (toolchain !== undefined) toolchains.push(toolchain);
    } else if (what === "tool" && Object.hasOwn(TOOL_PACKAGES, name)) tools[name as Tool] = rest[0] ?? "";
    else if (what === "header" && Object.hasOwn(HEADER_PACKAGES, name)) headers.push(name as Header);
    else if (line === "end") complete = true;
  }
  toolchains.sort((a, b) => compare(a.name, b.name) || compare(a.arch, b.arch));
  return complete ? { toolchains, tools, headers } : undefined;
}

function parseToolchain(name: string, fields: readonly string[]): Toolchain | undefined {
  const [path = "", family, version = "", machine = "", target = "", available, hosted, llvm, ...why] = fields;
  if ((family !== "gcc" && family !== "clang") || path === "") return undefined;
  const [, cross = "", suffix = ""] = /^(?:(.*-)?gcc|clang)(-.*)?$/.exec(name) ?? [];
  const reason = why.join(" ").trim();
  return {
    name,
    family,
    version,
    machine,
    arch: archOfTriplet(target),
    path,
    cross_compile: family === "gcc" ? cross : "",
    suffix,
    available: available === "1",
    hosted: hosted === "1",
    llvm_tools: llvm === "1",
    ...(available !== "1" && { why: reason === "" ? "it says nothing" : reason }),
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
