import type { ConsoleEvent } from "../../src/index.ts";
import type { Accel, GuestArch, MachineType } from "./machine.ts";

export interface BootRequest {
  /** A kernel image, or a Debian package that holds one. */
  readonly kernel: string;
  readonly initrd?: string;
  /** Words; none: a shell on a terminal, else nothing but reaching user space. */
  readonly command: readonly string[];
  /** As people write it: `arm64` is aarch64. Default: what the image says. */
  readonly arch?: string;
  readonly machine?: MachineType;
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
  /** Behind labctl's own words on the kernel's command line, so that these win. */
  readonly append?: string;
  /** Where the command starts, shared with the guest. */
  readonly cwd: string;
  readonly shares: readonly { readonly path: string; readonly writable: boolean }[];
  /** The guest's root: a folder or a disk image; default this machine's own where that can be, see {@link bootKernel}. */
  readonly root?: string;
  /** Folder of the kernel's modules. */
  readonly modules?: string;
  readonly busybox?: string;
  /** Not given: found by trying. */
  readonly accel?: Accel;
  /** Milliseconds until the command has to have begun. */
  readonly timeout: number;
  /** Milliseconds that the command may take; default: any. */
  readonly commandTimeout?: number;
  /** Milliseconds without a sign of life that count as a hang. */
  readonly silence: number;
  readonly consoleLog?: string;
  /** A terminal to run the command on. */
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

/** What a boot is connected to. Callbacks may take their time: what comes next waits. */
export interface BootStreams {
  readonly stdin?: NodeJS.ReadableStream;
  readonly stdout: (chunk: Buffer) => Promise<void> | void;
  readonly stderr: (chunk: Buffer) => Promise<void> | void;
  readonly console?: (chunk: Buffer) => void;
  readonly event?: (event: ConsoleEvent) => void;
  /** Told once, when the command begins. */
  readonly started?: () => void;
  readonly signal: AbortSignal;
}

/**
 * How it ended. `exited`: the command came to its end. `crashed`: the kernel died, or an oops met it before the command.
 * `hung`: no sign of life. `late`: alive, but not at the command in time. `lost`: the machine ended without a word.
 * `timeout`: the command took too long.
 */
export type BootVerdict = "exited" | "crashed" | "hung" | "late" | "lost" | "timeout";

export interface BootReport {
  readonly verdict: BootVerdict;
  /** The command's exit code, 128 and a signal's number where one killed it. */
  readonly exit_code?: number;
  /** Whether the command had begun. */
  readonly started: boolean;
  /** How far the machine came. */
  readonly stage: string;
  readonly kernel: {
    readonly path: string;
    readonly arch: GuestArch;
    readonly release?: string;
    readonly version?: string;
    readonly build_id?: string;
  };
  readonly machine: MachineType;
  readonly accel: Accel;
  readonly accel_reason: string;
  /** Milliseconds from the first instruction to the command, and in all. */
  readonly boot_ms?: number;
  readonly duration_ms: number;
  /** What decided, where the verdict is about the machine. */
  readonly cause?: ConsoleEvent;
  /** What else the console told, defects first come first kept. */
  readonly events: readonly ConsoleEvent[];
  /** The last lines of the console. */
  readonly tail: readonly string[];
  readonly notes: readonly string[];
  readonly root: string;
  readonly shares: readonly { readonly path: string; readonly how: string; readonly writable: boolean }[];
  readonly console_log?: string;
  readonly qemu: readonly string[];
}
