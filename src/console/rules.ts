import type { ConsoleKind, ConsoleSeverity } from "./types.ts";

/**
 * What is recognised, in the order in which it is tried. Texts are the kernel's own (kernel/panic.c, init/main.c,
 * init/do_mounts.c, arch/{x86,arm64,riscv}/mm/fault.c, mm/kasan/report.c, kernel/kcsan/report.c, lib/ubsan.c,
 * kernel/locking/lockdep.c, kernel/watchdog.c, kernel/rcu/tree_stall.h, kernel/hung_task.c, mm/oom_kill.c), SeaBIOS's,
 * EDK II's, GRUB's and U-Boot's.
 */
export interface Rule {
  readonly kind: ConsoleKind;
  readonly severity: ConsoleSeverity;
  readonly match: RegExp;
  /** printk says it: where the kernel stamps its lines with the time, a line without a stamp is somebody else's text. */
  readonly kernel: boolean;
  /** More lines belong to it. */
  readonly report: boolean;
  /** Default: the text from where it matched. */
  readonly title?: (match: RegExpExecArray, text: string) => string;
}

const report = (kind: ConsoleKind, severity: ConsoleSeverity, match: RegExp, title?: Rule["title"]): Rule => ({
  kind,
  severity,
  match,
  kernel: true,
  report: true,
  ...(title !== undefined && { title }),
});
const printk = (kind: ConsoleKind, severity: ConsoleSeverity, match: RegExp): Rule => ({
  kind,
  severity,
  match,
  kernel: true,
  report: false,
});
const other = (kind: ConsoleKind, severity: ConsoleSeverity, match: RegExp): Rule => ({
  kind,
  severity,
  match,
  kernel: false,
  report: false,
});

/** "exitcode=0x0000000b" is a status as wait(2) has it. */
function initDied(match: RegExpExecArray): string {
  const status = Number.parseInt(match[1] ?? "", 16);
  if (Number.isNaN(status)) return "init died: Attempted to kill init!";
  const signal = status & 0x7f;
  const how = signal === 0 ? `exited with ${(status >> 8) & 0xff}` : `was killed by signal ${signal}`;
  return `init died: it ${how} (Attempted to kill init!)`;
}

export const RULES: readonly Rule[] = [
  report("no-root", "fatal", /Kernel panic - not syncing: VFS: Unable to mount root fs on .*/),
  report(
    "init-died",
    "fatal",
    /Kernel panic - not syncing: Attempted to kill init!(?: exitcode=0x([0-9a-f]{1,8}))?/,
    initDied,
  ),
  report("init-died", "fatal", /Kernel panic - not syncing: Attempted to kill the idle task!/),
  report("no-init", "fatal", /Kernel panic - not syncing: (?:No working init found\.|Requested init \S+ failed).*/),
  report(
    "oom-panic",
    "fatal",
    /Kernel panic - not syncing: (?:Out of memory|System is deadlocked on memory|out of memory).*/,
  ),
  report("panic", "fatal", /Kernel panic - not syncing(?:: .*|$)/),

  report("kasan", "error", /BUG: KASAN: .*/),
  report("kmsan", "error", /BUG: KMSAN: .*/),
  report("kfence", "error", /BUG: KFENCE: .*/),
  report("kcsan", "warning", /BUG: KCSAN: .*/),
  report("ubsan", "warning", /UBSAN: .*/),
  report("leak", "warning", /BUG: memory leak|kmemleak: \d+ new suspected memory leaks/),

  report("soft-lockup", "error", /BUG: soft lockup - CPU#\d+ stuck for \d+s!.*/),
  report("hard-lockup", "error", /(?:NMI watchdog: )?Watchdog detected hard LOCKUP on cpu \d+.*/),
  report("soft-lockup", "error", /BUG: workqueue lockup - .*/),
  report("rcu-stall", "error", /(?:INFO: )?rcu_\w+ (?:self-)?detected (?:expedited )?stalls?.*/),
  report("hung-task", "error", /INFO: task .{1,64} blocked (?:in I\/O wait )?for more than \d+ seconds.*/),
  report("hung-task", "error", /INFO: task .{1,64} can't die for more than \d+ seconds.*/),

  // What x86, arm64, arm and riscv say of an access or an instruction that could not be done.
  report(
    "oops",
    "error",
    /BUG: (?:unable to handle (?:kernel )?|kernel NULL pointer dereference|Unable to handle kernel ).*/i,
  ),
  report(
    "oops",
    "error",
    /Unable to handle kernel (?:NULL pointer dereference|paging request|access to user memory|read from unreadable memory|write to read-only memory|execute from non-executable memory|execution of user memory|unaligned access|handler).*/,
  ),
  report(
    "oops",
    "error",
    /(?:general protection fault|stack segment|invalid opcode|divide[ _]error|double fault|alignment check|int3|Oops: .{0,40} fault)[:,].*\[#\d+\].*/,
  ),
  report("oops", "error", /general protection fault,?(?: probably| maybe)? for (?:non-canonical )?address .*/),
  report("oops", "error", /PANIC: double fault.*/),
  report("oops", "error", /kernel BUG at \S+:\d+!/),
  report("oops", "error", /Internal error: .*\[#\d+\].*/),
  report("oops", "error", /(?:Oops|Kernel BUG)(?: - [^[]*|: [^[]*)? ?\[#\d+\].*/),
  report("oops", "error", /Unhandled fault: .*|Bad mode in .* handler detected.*/),

  report(
    "lockdep",
    "warning",
    /WARNING: (?:possible (?:circular|recursive) locking.*|possible irq lock inversion.*|inconsistent lock state.*|suspicious RCU usage.*|bad unlock balance.*|held lock freed.*|lock held when returning.*|.*still has locks held!|Nested lock was not taken.*|.*-safe -> .*-unsafe lock order detected)/,
  ),
  report(
    "lockdep",
    "warning",
    /(?:INFO: (?:possible (?:circular|recursive) locking|possible irq lock inversion|inconsistent lock state|suspicious RCU usage|trying to register non-static key)|BUG: (?:Invalid wait context|MAX_|.{1,64} still has locks held!|sleeping function called from invalid context)|\[ BUG: Invalid wait context \]|DEBUG_LOCKS_WARN_ON).*/,
  ),
  report(
    "bug",
    "error",
    /BUG: (?:scheduling while atomic|spinlock|rwlock|Bad page|Bad rss-counter|non-zero |Dentry|using \w+\(\) in preemptible|workqueue leaked|stack guard page|TASK stack guard|held lock|bad unlock|unable|sleeping|lock).*/i,
  ),
  // mm/slub.c: "BUG kmalloc-8 (Tainted: G B): Object already free"; fs/open.c, fs/super.c.
  report("bug", "error", /BUG \S{1,64} \((?:Not tainted|Tainted[^)]{0,80})\): .*/),
  printk("bug", "error", /VFS: (?:Busy inodes after unmount of|Close: file count is) .*/),
  // Not "WARNING:" alone: programs say that too. "WARNING: CPU: 0 PID: 1 at f:1 fn+0x" up to 6.16, "WARNING: f:1 at fn+0x" since.
  report(
    "warning",
    "warning",
    /WARNING: (?:CPU: \d+ PID: \d+ at .*|\S+:\d+ at .*|\[.*\] \S+:\d+ at .*|stack .* corruption.*|kernel stack .*)/,
  ),
  report("oom", "warning", /\S{1,64} invoked oom-killer: .*/),
  printk("oom", "warning", /(?:Out of memory|Memory cgroup out of memory): Killed? process \d+.*/),

  printk(
    "initramfs",
    "warning",
    /Initramfs unpacking failed: .*|rootfs image is not initramfs.*|Failed to execute \/\S+ \(error -\d+\)|check access for rdinit=\S+ failed: -\d+.*/,
  ),
  printk("init", "info", /Run \/\S+ as init process/),
  printk("restart", "info", /reboot: (?:Restarting system.*|machine restart)/),
  printk("power-off", "info", /reboot: (?:Power down|System halted|Power off not available.*)/),

  // Firmware and boot loaders.
  other(
    "no-boot",
    "fatal",
    /^No bootable device\.?.*|No bootable (?:device|medium|media) found.*|^FATAL: .*[Nn]o bootable.*/,
  ),
  other("no-boot", "fatal", /^ ?-- System halted/),
  other(
    "no-boot",
    "fatal",
    /BdsDxe: No bootable option or device was found\.?|### ERROR ### Please RESET the board ###.*|^ERROR: can't get kernel image!|^Bad Linux \S+ (?:Image )?magic!?.*|^Wrong Image (?:Format|Type) for \S+ command.*|^Bad (?:Data|Header) CRC|^ERROR: Did not find a cmdline Flattened Device Tree/,
  ),
  other("no-boot", "fatal", /^(?:Failed to load|Could not read) (?:kernel|initrd|the kernel)\b.*/i),
  other(
    "firmware",
    "info",
    /^SeaBIOS \(version .*|^UEFI firmware \(version .*|^OpenSBI v\S+.*|^NOTICE:\s+BL1: .*|^qboot.*/,
  ),
  other(
    "bootloader",
    "info",
    /^U-Boot (?:SPL )?\d{4}\.\d{2}.*|^(?:GNU )?GRUB\s+version .*|^\s*GNU GRUB\s+version.*|^iPXE .* -- .*/,
  ),
];

/** Ends of lines that wait for an answer. */
export const PROMPTS: readonly { readonly kind: ConsoleKind; readonly match: RegExp }[] = [
  { kind: "login", match: /^(?!Last )(?:\S{1,64} )?login: $/ },
  { kind: "prompt", match: /^(?:=> |U-Boot[^>]{0,24}> )$/ },
  { kind: "prompt", match: /^(?:grub(?: rescue)?> |\(initramfs\) |Shell> )$/ },
  { kind: "prompt", match: /^(?:[\w.-]{1,32}@[\w.-]{1,64}:[^\s]{0,128}|~|\/[^\s]{0,128}|)\s?[#$] $/ },
];

export const LINUX_VERSION = /Linux version (\S+) (.*)/;
/** `CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0 #1 BUILDID`: dump_stack_print_info() */
export const BUILD_ID = /^CPU: \d+ .*#\d+.* ([0-9a-f]{40})\b/;

/** A line with one of these words may be a header; all others are passed over quickly. */
export const QUICK =
  /panic|BUG|Unable|fault|error|[Oo]ops|Oops|KASAN|UBSAN|WARNING|rcu_|LOCKUP|INFO|oom|memory|emory|Initramfs|initramfs|execute|rdinit|init process|reboot:|bootable|halted|BdsDxe|ERROR|Bad |Wrong|[Ff]ailed|Could not|SeaBIOS|UEFI|OpenSBI|BL1|qboot|U-Boot|GRUB|iPXE|DEBUG_LOCKS|VFS:|divide|opcode|segment|alignment|int3|FATAL/;
