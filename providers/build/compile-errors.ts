import { stripVTControlCharacters } from "node:util";
import { DISK_FULL } from "./text.ts";

/** One error of a compiler, linker or other tool of a build. */
export interface CompileError {
  readonly tool: "compiler" | "linker" | "make" | "modpost" | "dtc" | "kconfig" | "objtool" | "system" | "other";
  readonly message: string;
  readonly file?: string;
  readonly line?: number;
  readonly column?: number;
}

/** A program or header that a build asked for and did not find. */
export interface MissingTool {
  readonly name: string;
  /** Debian's package, where it is known. */
  readonly package?: string;
}

type Rule = readonly [
  tool: CompileError["tool"],
  pattern: RegExp,
  read: (match: RegExpExecArray) => Omit<CompileError, "tool">,
];

const at = (
  file: string | undefined,
  line: string | undefined,
  column?: string,
): Pick<CompileError, "file" | "line" | "column"> => ({
  ...(file !== undefined && { file }),
  ...(line !== undefined && { line: Number(line) }),
  ...(column !== undefined && { column: Number(column) }),
});

/** In this order; the first that fits a line counts. Forms: gcc and clang, GNU ld and lld, kbuild, dtc, kconfig, GNU make. */
const RULES: readonly Rule[] = [
  [
    "modpost",
    /^ERROR: modpost: (?:"(.+?)" \[(.+?)\] (undefined!)|(.+))$/,
    (m) => ({
      message: m[1] === undefined ? (m[4] ?? "") : `${m[1]} is undefined`,
      ...at(m[2], undefined),
    }),
  ],
  [
    "dtc",
    /^Error: ([^\s:]+\.dtsi?):(\d+)\.(\d+)-[\d.]+ (.+)$/,
    (m) => ({ message: m[4] ?? "", ...at(m[1], m[2], m[3]) }),
  ],
  [
    "dtc",
    /^([^\s:]+\.dtsi?):(\d+)[.:](\d+)(?:-[\d.]+)?: (?:ERROR|FATAL ERROR|error)(?: \([^)]*\))?:? (.+)$/,
    (m) => ({
      message: m[4] ?? "",
      ...at(m[1], m[2], m[3]),
    }),
  ],
  [
    "dtc",
    /^(?:FATAL )?ERROR: (Unable to parse input tree|Syntax error parsing input tree|Couldn't open .+|Input tree has errors.*)$/,
    (m) => ({ message: m[1] ?? "" }),
  ],
  [
    "kconfig",
    /^([^\s:]*Kconfig[^\s:]*):(\d+):\s*(?:error: )?(syntax error.*|invalid .+|unknown .+|can't open .+|recursive .+)$/,
    (m) => ({
      message: m[3] ?? "",
      ...at(m[1], m[2]),
    }),
  ],
  ["kconfig", /^\*{3} (Can't find default configuration "[^"]+"!?)$/, (m) => ({ message: m[1] ?? "" })],
  [
    "compiler",
    /^(?:.*?: )?([^\s:()][^:()]*):(\d+):(\d+): (?:fatal error|error): (.+)$/,
    (m) => ({ message: m[4] ?? "", ...at(m[1], m[2], m[3]) }),
  ],
  [
    "compiler",
    /^([^\s:()][^:()]*\.[cChHsSi](?:pp|xx)?):(\d+): (?:fatal error|error|Error): (.+)$/,
    (m) => ({ message: m[3] ?? "", ...at(m[1], m[2]) }),
  ],
  [
    "compiler",
    /^(?:\S*\/)?(?:gcc|cc|clang|[\w.-]+-gcc|cc1)(?:-\d+)?: (?:fatal error|error|internal compiler error): (.+)$/,
    (m) => ({ message: m[1] ?? "" }),
  ],
  [
    "linker",
    /^(?:\S*\/)?(?:[\w.-]*ld[\w.-]*): ([^\s:()][^:()]*):(\d+): (undefined reference to .+|multiple definition of .+)$/,
    (m) => ({ message: m[3] ?? "", ...at(m[1], m[2]) }),
  ],
  ["linker", /^(?:\S*\/)?[\w.-]*ld[\w.-]*: error: (.+)$/, (m) => ({ message: m[1] ?? "" })],
  [
    "linker",
    /^(?:\S*\/)?(?:[\w.-]*ld[\w.-]*: )?([^\s:()][^:()]*):(?:\([^)]*\+0x[0-9a-f]+\)|in function [^:]+):? ?((?:undefined reference to|multiple definition of|relocation ).+)$/,
    (m) => ({ message: m[2] ?? "", ...at(m[1], undefined) }),
  ],
  [
    "linker",
    /^(?:\S*\/)?[\w.-]*ld[\w.-]*: (cannot find .+|final link failed: .+|region .+ overflowed.+|.+ undefined reference to .+)$/,
    (m) => ({ message: m[1] ?? "" }),
  ],
  ["objtool", /^(\S+\.o): error: objtool: (.+)$/, (m) => ({ message: m[2] ?? "", ...at(m[1], undefined) })],
  [
    "make",
    /^([^\s:()][^:()]*):(\d+): \*\*\* (.+?)\.?(?:\s+Stop\.)$/,
    (m) => ({ message: m[3] ?? "", ...at(m[1], m[2]) }),
  ],
  [
    "make",
    /^(?:\S*g?make)(?:\[\d+\])?: \*\*\* (No rule to make target .+|missing .+|No targets.*|.+ Stop)\.?$/,
    (m) => ({ message: (m[1] ?? "").replace(/\.?\s+Stop\.?$/, "") }),
  ],
  [
    "system",
    /^(?:.*: )?((?:\S+: )?(?:No space left on device|Disk quota exceeded|Cannot allocate memory|virtual memory exhausted.*|Read-only file system))$/,
    (m) => ({ message: m[1] ?? "" }),
  ],
  [
    "system",
    /^(?:\S+: )*(?:fatal error: )?(Killed signal terminated program \S+|\d+ Killed .*|Killed)$/,
    (m) => ({
      message: `${m[1] ?? ""} (the machine ran out of memory, as it seems)`,
    }),
  ],
  [
    "other",
    /^(?:\S*\/)?(?:\w*sh|script): (?:line )?(\d+): (.+: (?:not found|command not found|Permission denied))$/,
    (m) => ({ message: m[2] ?? "" }),
  ],
  ["other", /^\/?bin\/(?:ba)?sh: (?:line )?\d+: (.+)$/, (m) => ({ message: m[1] ?? "" })],
  ["other", /^(?:ERROR|FATAL|Error|error): (.+)$/, (m) => ({ message: m[1] ?? "" })],
];

/** Words by which missing things are known, and Debian's package for each. */
const MISSING: readonly (readonly [RegExp, string, string])[] = [
  [/(?:^|[\s/:])flex: (?:not found|command not found|No such file)/, "flex", "flex"],
  [/(?:^|[\s/:])bison: (?:not found|command not found|No such file)/, "bison", "bison"],
  [/(?:^|[\s/:])bc: (?:not found|command not found|No such file)/, "bc", "bc"],
  [/(?:^|[\s/:])perl: (?:not found|command not found|No such file)/, "perl", "perl"],
  [/(?:^|[\s/:])python3: (?:not found|command not found|No such file)/, "python3", "python3"],
  [/(?:^|[\s/:])cpio: (?:not found|command not found|No such file)/, "cpio", "cpio"],
  [/(?:^|[\s/:])rsync: (?:not found|command not found|No such file)/, "rsync", "rsync"],
  [/(?:^|[\s/:])lz4c?: (?:not found|command not found|No such file)/, "lz4", "lz4"],
  [/(?:^|[\s/:])zstd: (?:not found|command not found|No such file)/, "zstd", "zstd"],
  [/(?:^|[\s/:])xz: (?:not found|command not found|No such file)/, "xz", "xz-utils"],
  [/(?:^|[\s/:])lzop: (?:not found|command not found|No such file)/, "lzop", "lzop"],
  [
    /(?:^|[\s/:])mkimage: (?:not found|command not found|No such file)|"mkimage" command not found/,
    "mkimage",
    "u-boot-tools",
  ],
  [
    /(?:^|[\s/:])depmod: (?:not found|command not found|No such file)|Warning: 'make modules_install' requires .*depmod/,
    "depmod",
    "kmod",
  ],
  [/(?:^|[\s/:])openssl: (?:not found|command not found|No such file)/, "openssl", "openssl"],
  [/(?:^|[\s/:])cmake: (?:not found|command not found|No such file)/, "cmake", "cmake"],
  [/(?:^|[\s/:])ninja: (?:not found|command not found|No such file)/, "ninja", "ninja-build"],
  [/(?:^|[\s/:])meson: (?:not found|command not found|No such file)/, "meson", "meson"],
  [/(?:^|[\s/:])pkg-config: (?:not found|command not found|No such file)/, "pkg-config", "pkg-config"],
  [/(?:^|[\s/:])autoreconf: (?:not found|command not found)/, "autoreconf", "autoconf"],
  [/(?:^|[\s/:])git: (?:not found|command not found)/, "git", "git"],
  [/(?:^|[\s/:])make: (?:not found|command not found)/, "make", "make"],
  [
    /pahole \(pahole\) is not available|(?:^|[\s/:])pahole: (?:not found|command not found)|BTF: .*pahole.* not available/,
    "pahole",
    "pahole",
  ],
  [/(?:^|[\s/:])(?:dtc|device-tree-compiler): (?:not found|command not found)/, "dtc", "device-tree-compiler"],
  [/openssl\/[\w]+\.h: No such file|'openssl\/[\w]+\.h' file not found/, "openssl/opensslv.h", "libssl-dev"],
  [
    /(?:gelf|libelf)\.h: No such file|'(?:gelf|libelf)\.h' file not found|[Pp]lease install libelf-dev/,
    "gelf.h",
    "libelf-dev",
  ],
  [/elfutils\/libdw\.h: No such file/, "elfutils/libdw.h", "libdw-dev"],
  [/(?:gmp|mpc|mpfr)\.h: No such file|gcc-plugin\.h: No such file/, "gcc-plugin.h", "gcc-12-plugin-dev"],
  [/ncurses\.h: No such file|Unable to find the ncurses package/, "ncurses.h", "libncurses-dev"],
  [
    /(?:^|[\s/:])(aarch64-linux-gnu-\w+(?:-\d+)?): (?:not found|command not found|No such file)/,
    "aarch64-linux-gnu-gcc",
    "gcc-aarch64-linux-gnu",
  ],
  [
    /(?:^|[\s/:])(arm-linux-gnueabihf-\w+(?:-\d+)?): (?:not found|command not found|No such file)/,
    "arm-linux-gnueabihf-gcc",
    "gcc-arm-linux-gnueabihf",
  ],
  [
    /(?:^|[\s/:])(riscv64-linux-gnu-\w+(?:-\d+)?): (?:not found|command not found|No such file)/,
    "riscv64-linux-gnu-gcc",
    "gcc-riscv64-linux-gnu",
  ],
  [/(?:^|[\s/:])(gcc|cc): (?:not found|command not found|No such file)/, "gcc", "gcc"],
  [/(?:^|[\s/:])(clang(?:-\d+)?): (?:not found|command not found|No such file)/, "clang", "clang"],
  [/(?:^|[\s/:])(ld\.lld(?:-\d+)?): (?:not found|command not found|No such file)/, "ld.lld", "lld"],
];

/** Errors kept; the first ones are the ones that matter. */
const KEPT = 10;
const LONGEST = 4096;

/** Finds the first errors in a log as it passes by: memory stays the same whatever the length of the log. */
export class ErrorScanner {
  readonly errors: CompileError[] = [];
  readonly missing: MissingTool[] = [];
  /** Lines that tell of a step: kbuild's `  CC      file.o`, and compilers called by make. */
  steps = 0;
  /** Hundredths, as cmake (`[ 42%]`) and ninja (`[3/12]`) say; undefined where nothing says so. */
  percent: number | undefined;
  /** A disk was full, in somebody's words. */
  full = false;
  readonly #seen = new Set<string>();
  #rest = "";

  push(chunk: Buffer | string): void {
    const text = this.#rest + chunk.toString();
    const lines = text.split("\n");
    this.#rest = (lines.pop() ?? "").slice(-LONGEST);
    for (const line of lines) this.#line(line);
  }

  /** The last line, where it has no end. */
  end(): void {
    if (this.#rest !== "") this.#line(this.#rest);
    this.#rest = "";
  }

  #line(raw: string): void {
    // Colours that a tool writes even where no terminal is.
    const line = stripVTControlCharacters(raw.slice(0, LONGEST)).trimEnd();
    if (
      /^ {2}[A-Z][A-Z0-9_+]*(?: \[M\])? +\S|^(?:ccache )?(?:\S*\/)?(?:[\w.-]+-)?(?:gcc|cc|g\+\+|c\+\+|clang|clang\+\+|ld|ar)(?:-\d+)? .*-?[-\w./]+$/.test(
        line,
      )
    )
      this.steps++;
    const share = /^\[ *(\d{1,3})%\]|^\[(\d+)\/(\d+)\]/.exec(line);
    if (share !== null) {
      const value =
        share[1] === undefined ? (100 * Number(share[2])) / Math.max(1, Number(share[3])) : Number(share[1]);
      this.percent = Math.min(100, value);
      this.steps++;
    }
    // make's own summary of failures says nothing that was not said before.
    if (line === "" || /\*\*\* \[.*\] (?:Error|Killed)/.test(line)) return;
    if (DISK_FULL.test(line)) this.full = true;
    for (const [pattern, name, debian] of MISSING) {
      if (pattern.test(line) && !this.missing.some((one) => one.name === name))
        this.missing.push({ name, package: debian });
    }
    if (this.errors.length >= KEPT) return;
    const error = parseErrorLine(line);
    if (error === undefined) return;
    const key = JSON.stringify([error.file, error.line, error.message]);
    if (this.#seen.has(key)) return;
    this.#seen.add(key);
    this.errors.push(error);
  }
}

/** One line as an error; undefined where it tells of none. Pure. */
export function parseErrorLine(line: string): CompileError | undefined {
  if (/warning:|note:/.test(line) && !/error:/i.test(line)) return undefined;
  // What the linker itself said stands before it.
  if (/linker command failed with exit code|ld returned \d+ exit status/.test(line)) return undefined;
  for (const [tool, pattern, read] of RULES) {
    const match = pattern.exec(line);
    if (match !== null) return { tool, ...read(match) };
  }
  return undefined;
}

/** All of a log at once. */
export function scanLog(text: string): ErrorScanner {
  const scanner = new ErrorScanner();
  scanner.push(text);
  scanner.end();
  return scanner;
}

/** `drivers/x.c:12:3: 'foo' undeclared`, with the build's own directories taken off the front. */
export function formatCompileError(error: CompileError, prefixes: readonly string[] = []): string {
  const cut = (file: string): string => {
    const prefix = prefixes.find((one) => file.startsWith(`${one}/`));
    return prefix === undefined ? file.replace(/^(\.\/)+/, "") : file.slice(prefix.length + 1);
  };
  const place =
    error.file === undefined
      ? ""
      : `${[cut(error.file), error.line, error.column].filter((part) => part !== undefined).join(":")}: `;
  return `${place}${error.message}`;
}
