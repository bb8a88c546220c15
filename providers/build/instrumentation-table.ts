import type { Arch } from "./toolchains.ts";

/** When an entry holds: all that is given must. Versions are `MAJOR.MINOR`. */
export interface When {
  readonly mode?: string;
  readonly style?: string;
  readonly arch?: readonly Arch[];
  readonly since?: string;
  readonly before?: string;
}

export interface SymbolEntry extends When {
  readonly symbol: string;
  readonly value: string;
  /** Wished for where the kernel has it; not missed where it does not survive. */
  readonly optional?: true;
}

/** How to see, on a running kernel, that it is at work. Evaluated by checks of readiness, not here. */
export type RuntimeProbe =
  | { readonly look: "dmesg"; readonly pattern: string }
  | { readonly look: "file"; readonly path: string; readonly pattern?: string }
  | { readonly look: "command"; readonly run: string; readonly pattern: string };

export interface Instrument {
  readonly title: string;
  /** Values of the option `mode`, the default first. */
  readonly modes?: readonly string[];
  /** Values of the option `style`, the default first. */
  readonly styles?: readonly string[];
  readonly symbols: readonly SymbolEntry[];
  /** Where it exists: for each mode, architecture -> first kernel version. What is not listed has no such limit. */
  readonly support?: readonly (Pick<When, "mode"> & { readonly archs: Readonly<Partial<Record<Arch, string>>> })[];
  /** First version of a compiler that can do it; one that is not listed cannot. */
  readonly compilers?: readonly (Pick<When, "mode"> & { readonly gcc?: string; readonly clang?: string })[];
  readonly excludes?: readonly string[];
  /** What the kernel's command line should have for it to be at work, or to be of use. */
  readonly params?: readonly (When & { readonly text: string })[];
  readonly probes: readonly (When & RuntimeProbe)[];
}

const y = (symbol: string, when: Omit<SymbolEntry, "symbol" | "value"> = {}): SymbolEntry => ({
  symbol,
  value: "y",
  ...when,
});
const n = (symbol: string, when: Omit<SymbolEntry, "symbol" | "value"> = {}): SymbolEntry => ({
  symbol,
  value: "n",
  ...when,
});
const maybe = { optional: true } as const;

/** tinyconfig picks SLOB up to 6.3, and what needs SLUB is then dropped without a word. */
const SLUB = [y("SLUB"), n("SLOB", { before: "6.4" }), n("SLUB_TINY", { since: "6.2", optional: true }), y("SYSFS")];
const DEBUG = [y("DEBUG_KERNEL")];
const DEBUGFS = [...DEBUG, y("DEBUG_FS")];
const TRACING = [...DEBUGFS, y("FTRACE"), y("PERF_EVENTS", maybe)];

/**
 * What each sort of instrumentation needs in a kernel's configuration. Sources: the Kconfig files and
 * Documentation/dev-tools, Documentation/trace of the kernel (6.1, and the history of these files for the versions).
 */
export const INSTRUMENTS = {
  kasan: {
    title: "KASAN, memory errors",
    modes: ["generic", "sw_tags", "hw_tags"],
    styles: ["outline", "inline"],
    symbols: [
      ...SLUB,
      ...DEBUG,
      y("KASAN"),
      y("KASAN_GENERIC", { mode: "generic", since: "5.0" }),
      y("KASAN_SW_TAGS", { mode: "sw_tags" }),
      y("KASAN_HW_TAGS", { mode: "hw_tags" }),
      y("ARM64_MTE", { mode: "hw_tags", arch: ["arm64"] }),
      y("KASAN_OUTLINE", { mode: "generic", style: "outline" }),
      y("KASAN_INLINE", { mode: "generic", style: "inline" }),
      y("KASAN_OUTLINE", { mode: "sw_tags", style: "outline" }),
      y("KASAN_INLINE", { mode: "sw_tags", style: "inline" }),
      y("KASAN_VMALLOC", maybe),
      y("STACKTRACE", maybe),
      n("KCSAN", maybe),
      n("KMSAN", maybe),
    ],
    support: [
      { mode: "generic", archs: { x86_64: "4.0", arm64: "4.4", riscv64: "5.6", armv7: "5.11" } },
      { mode: "sw_tags", archs: { arm64: "5.0" } },
      { mode: "hw_tags", archs: { arm64: "5.11" } },
    ],
    compilers: [
      { mode: "generic", gcc: "8.3", clang: "7" },
      { mode: "sw_tags", gcc: "11", clang: "7" },
      { mode: "hw_tags", gcc: "10", clang: "12" },
    ],
    excludes: ["kcsan", "kmsan"],
    params: [{ text: "kasan_multi_shot" }, { text: "kasan=on", mode: "hw_tags" }],
    probes: [
      { look: "dmesg", pattern: "kasan: KernelAddressSanitizer initialized|KernelAddressSanitizer initialized" },
      { look: "file", path: "/proc/kallsyms", pattern: " kasan_init" },
    ],
  },
  kcsan: {
    title: "KCSAN, data races",
    symbols: [
      ...DEBUG,
      y("EXPERT", { arch: ["arm64"] }),
      y("KCSAN"),
      y("KCSAN_REPORT_ONCE_IN_MS", { optional: true, before: "5.8" }),
      n("KASAN", maybe),
      n("KMSAN", maybe),
    ],
    support: [{ archs: { x86_64: "5.8", arm64: "5.17" } }],
    compilers: [{ gcc: "11", clang: "11" }],
    excludes: ["kasan", "kmsan"],
    probes: [{ look: "dmesg", pattern: "kcsan: (enabled|strict mode|non-strict mode)" }],
  },
  kmsan: {
    title: "KMSAN, uninitialized memory",
    symbols: [...SLUB, ...DEBUG, y("KMSAN"), n("KASAN", maybe), n("KCSAN", maybe), n("PREEMPT_RT", maybe)],
    support: [{ archs: { x86_64: "6.1" } }],
    compilers: [{ clang: "14.0.6" }],
    excludes: ["kasan", "kcsan"],
    probes: [{ look: "dmesg", pattern: "Starting KernelMemorySanitizer" }],
  },
  ubsan: {
    title: "UBSAN, undefined behaviour",
    symbols: [
      y("UBSAN"),
      y("UBSAN_BOUNDS", maybe),
      y("UBSAN_SHIFT", maybe),
      y("UBSAN_BOOL", maybe),
      y("UBSAN_ENUM", maybe),
      y("UBSAN_SANITIZE_ALL", { optional: true, before: "6.14" }),
      n("UBSAN_TRAP", maybe),
    ],
    support: [{ archs: { x86_64: "4.5", arm64: "4.5" } }],
    probes: [{ look: "file", path: "/proc/kallsyms", pattern: " __ubsan_handle_" }],
  },
  kfence: {
    title: "KFENCE, memory errors by sampling",
    symbols: [...SLUB, y("KFENCE")],
    support: [{ archs: { x86_64: "5.12", arm64: "5.12", riscv64: "5.14", armv7: "5.17" } }],
    params: [{ text: "kfence.sample_interval=100" }],
    probes: [{ look: "dmesg", pattern: "kfence: initialized" }],
  },
  lockdep: {
    title: "lockdep, locking order",
    symbols: [...DEBUG, y("PROVE_LOCKING"), y("DEBUG_ATOMIC_SLEEP", maybe), y("PROC_FS", maybe)],
    probes: [
      { look: "dmesg", pattern: "Lock dependency validator" },
      { look: "file", path: "/proc/lockdep_stats" },
    ],
  },
  kmemleak: {
    title: "kmemleak, leaked memory",
    symbols: [...DEBUGFS, y("DEBUG_KMEMLEAK"), n("DEBUG_KMEMLEAK_DEFAULT_OFF", maybe)],
    params: [{ text: "kmemleak=on" }],
    probes: [{ look: "file", path: "/sys/kernel/debug/kmemleak" }],
  },
  gcov: {
    title: "gcov, coverage of code",
    symbols: [...DEBUGFS, y("GCOV_KERNEL"), y("GCOV_PROFILE_ALL")],
    compilers: [{ gcc: "4.2", clang: "11" }],
    probes: [{ look: "file", path: "/sys/kernel/debug/gcov/reset" }],
  },
  kcov: {
    title: "KCOV, coverage for fuzzers",
    symbols: [...DEBUGFS, y("KCOV"), y("KCOV_INSTRUMENT_ALL"), y("KCOV_ENABLE_COMPARISONS", maybe)],
    support: [{ archs: { x86_64: "4.6", arm64: "4.7", armv7: "4.18", riscv64: "5.4" } }],
    probes: [{ look: "file", path: "/sys/kernel/debug/kcov" }],
  },
  ftrace: {
    title: "ftrace, tracing of functions",
    symbols: [
      ...TRACING,
      y("FUNCTION_TRACER"),
      y("DYNAMIC_FTRACE", maybe),
      y("FUNCTION_GRAPH_TRACER", maybe),
      y("STACKTRACE", maybe),
    ],
    probes: [
      { look: "file", path: "/sys/kernel/tracing/available_tracers", pattern: "\\bfunction\\b" },
      { look: "dmesg", pattern: "ftrace: allocat" },
    ],
  },
  kprobes: {
    title: "kprobes, probes at run time",
    symbols: [
      // Needed up to 6.8; after that probes have memory of their own.
      y("MODULES", { before: "6.9" }),
      ...TRACING,
      y("KPROBES"),
      y("KPROBE_EVENTS"),
      y("KALLSYMS"),
    ],
    probes: [{ look: "file", path: "/sys/kernel/tracing/kprobe_events" }],
  },
  perf: {
    title: "perf events",
    symbols: [
      y("PERF_EVENTS"),
      y("PROFILING", maybe),
      y("HW_PERF_EVENTS", { optional: true, arch: ["arm64", "armv7"] }),
    ],
    probes: [{ look: "file", path: "/proc/sys/kernel/perf_event_paranoid" }],
  },
  debug_info: {
    title: "debugging information",
    symbols: [
      ...DEBUG,
      y("DEBUG_INFO", { before: "5.18" }),
      n("DEBUG_INFO_NONE", { since: "5.18", optional: true }),
      y("DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT", { since: "5.18" }),
      n("DEBUG_INFO_REDUCED", maybe),
    ],
    probes: [],
  },
  btf: {
    title: "BTF type information",
    symbols: [
      ...DEBUG,
      y("DEBUG_INFO", { before: "5.18" }),
      n("DEBUG_INFO_NONE", { since: "5.18", optional: true }),
      y("DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT", { since: "5.18" }),
      n("DEBUG_INFO_REDUCED", maybe),
      n("DEBUG_INFO_SPLIT", maybe),
      y("BPF_SYSCALL"),
      y("SYSFS"),
      y("DEBUG_INFO_BTF"),
    ],
    support: [{ archs: { x86_64: "5.2", arm64: "5.2", armv7: "5.2", riscv64: "5.2" } }],
    probes: [{ look: "file", path: "/sys/kernel/btf/vmlinux" }],
  },
  fault_injection: {
    title: "injection of faults",
    symbols: [
      ...SLUB,
      ...DEBUGFS,
      y("FAULT_INJECTION"),
      y("FAILSLAB"),
      y("FAIL_PAGE_ALLOC"),
      y("FAULT_INJECTION_DEBUG_FS"),
    ],
    probes: [{ look: "file", path: "/sys/kernel/debug/failslab" }],
  },
  lkdtm: {
    title: "LKDTM, crashes on purpose",
    // In the menu "Kernel Testing and Coverage": without its menu symbol it is dropped without a word.
    symbols: [...DEBUGFS, y("RUNTIME_TESTING_MENU"), y("LKDTM")],
    probes: [{ look: "file", path: "/sys/kernel/debug/provoke-crash/DIRECT" }],
  },
  kunit: {
    title: "KUnit, unit tests of the kernel",
    symbols: [...DEBUGFS, y("KUNIT"), y("KUNIT_DEBUGFS", maybe)],
    support: [{ archs: { x86_64: "5.5", arm64: "5.5", armv7: "5.5", riscv64: "5.5" } }],
    probes: [{ look: "file", path: "/sys/kernel/debug/kunit" }],
  },
  slub_debug: {
    title: "checks of the slab allocator",
    symbols: [...SLUB, ...DEBUG, y("SLUB_DEBUG"), y("SLUB_DEBUG_ON")],
    params: [
      { text: "slub_debug=FZPU", before: "6.7" },
      { text: "slab_debug=FZPU", since: "6.7" },
    ],
    probes: [{ look: "file", path: "/sys/kernel/slab/kmalloc-64/sanity_checks", pattern: "1" }],
  },
  debug_objects: {
    title: "life of kernel objects",
    symbols: [
      ...DEBUG,
      y("DEBUG_OBJECTS"),
      y("DEBUG_OBJECTS_FREE", maybe),
      y("DEBUG_OBJECTS_TIMERS", maybe),
      y("DEBUG_OBJECTS_WORK", maybe),
      y("DEBUG_OBJECTS_RCU_HEAD", maybe),
      y("DEBUG_OBJECTS_PERCPU_COUNTER", maybe),
    ],
    probes: [{ look: "file", path: "/sys/kernel/debug/debug_objects/stats" }],
  },
  debug_pagealloc: {
    title: "pages that are not in use are not mapped",
    symbols: [...DEBUG, y("DEBUG_PAGEALLOC")],
    params: [{ text: "debug_pagealloc=on" }],
    probes: [{ look: "dmesg", pattern: "debug_pagealloc" }],
  },
  page_owner: {
    title: "who allocated each page",
    symbols: [...DEBUGFS, y("PAGE_OWNER")],
    params: [{ text: "page_owner=on" }],
    probes: [{ look: "file", path: "/sys/kernel/debug/page_owner" }],
  },
  hung_task: {
    title: "tasks that hang",
    symbols: [...DEBUG, y("DETECT_HUNG_TASK")],
    probes: [{ look: "file", path: "/proc/sys/kernel/hung_task_timeout_secs" }],
  },
  softlockup: {
    title: "processors that are stuck",
    symbols: [...DEBUG, y("SOFTLOCKUP_DETECTOR"), y("WQ_WATCHDOG", maybe)],
    probes: [{ look: "file", path: "/proc/sys/kernel/soft_watchdog" }],
  },
  hardlockup: {
    title: "processors that are stuck with interrupts off",
    symbols: [...DEBUG, y("HARDLOCKUP_DETECTOR")],
    probes: [{ look: "file", path: "/proc/sys/kernel/nmi_watchdog" }],
  },
  rcu_stall: {
    title: "RCU stalls, named sooner",
    // The detector itself is always there where there is more than one processor.
    symbols: [...DEBUG, y("SMP", maybe), { symbol: "RCU_CPU_STALL_TIMEOUT", value: "21" }],
    probes: [{ look: "file", path: "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout" }],
  },
  debug_list: {
    title: "checks of linked lists",
    symbols: [...DEBUG, y("DEBUG_LIST"), y("BUG_ON_DATA_CORRUPTION", maybe)],
    probes: [],
  },
  dynamic_debug: {
    title: "messages that are switched on at run time",
    symbols: [...DEBUGFS, y("PRINTK"), y("DYNAMIC_DEBUG")],
    probes: [{ look: "file", path: "/sys/kernel/debug/dynamic_debug/control" }],
  },
} as const satisfies Record<string, Instrument>;
export type InstrumentName = keyof typeof INSTRUMENTS;
