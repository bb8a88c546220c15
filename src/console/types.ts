/**
 * What a serial console tells. `panic` and its special cases, `no-boot` and `reboot-loop` end a boot; `oops` and the
 * sanitizers' and watchdogs' reports are defects that the kernel survives; the rest marks how far a boot has come.
 */
export type ConsoleKind =
  | "panic"
  | "no-root"
  | "no-init"
  | "init-died"
  | "oom-panic"
  | "oops"
  | "kasan"
  | "kmsan"
  | "kfence"
  | "kcsan"
  | "ubsan"
  | "bug"
  | "warning"
  | "lockdep"
  | "rcu-stall"
  | "soft-lockup"
  | "hard-lockup"
  | "hung-task"
  | "oom"
  | "leak"
  | "initramfs"
  | "no-boot"
  | "reboot-loop"
  | "silence"
  | "firmware"
  | "bootloader"
  | "kernel"
  | "init"
  | "login"
  | "prompt"
  | "marker"
  | "restart"
  | "power-off";

/** fatal: it will not come up, or is gone. error: a defect of the kernel. warning: a defect that may be harmless. info: a step. */
export type ConsoleSeverity = "fatal" | "error" | "warning" | "info";

export interface ConsoleEvent {
  readonly kind: ConsoleKind;
  readonly severity: ConsoleSeverity;
  /** One line for people, without time stamps. */
  readonly title: string;
  /** The lines that matter, in order, without time stamps: header, where it happened, the certain part of the call trace. */
  readonly lines: readonly string[];
  /** Where the first line begins, in bytes from the start of the console, and the milliseconds that its bytes came with. */
  readonly at: { readonly offset: number; readonly ms: number };
}

export interface ConsoleOptions {
  /** What says that the machine is up: a text anywhere in a line, or an expression that a whole line is held against. */
  readonly markers?: readonly (string | RegExp)[];
  /** Milliseconds without a byte that count as silence; default: never. */
  readonly silence?: number;
  /** Milliseconds after which a report that nothing followed counts as complete; default 700. */
  readonly settle?: number;
  /** How many starts without getting anywhere are a loop; default 3. */
  readonly loop?: number;
}

/** How far it has come, and what it said of itself. */
export interface ConsoleStatus {
  readonly stage: "nothing" | "firmware" | "bootloader" | "kernel" | "init" | "up";
  /** From "Linux version": what `uname -r` says. */
  readonly release: string | undefined;
  /** Of the same line, who built it and where: `user@host` (KBUILD_BUILD_USER, KBUILD_BUILD_HOST). */
  readonly builder: string | undefined;
  /** The rest of that line from its `#` on: what `uname -v` says. */
  readonly version: string | undefined;
  /** 40 hexadecimal digits, where the kernel prints them in its reports (CONFIG_STACKTRACE_BUILD_ID). */
  readonly buildId: string | undefined;
  /** Kernels that were started so far. */
  readonly boots: number;
  readonly bytes: number;
}
