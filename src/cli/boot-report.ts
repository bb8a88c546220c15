import { type Code, LabError } from "../diagnostics/index.ts";
import { formatDuration } from "../model/index.ts";
import type { Services } from "./services.ts";

type BootReport = Awaited<ReturnType<Services["boot"]>>;

const MOST_OUTPUT = 2 ** 20;

/** What the command printed, for --json; the first MiB of each stream. */
export class BootCapture {
  readonly #texts = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  readonly #sizes = { stdout: 0, stderr: 0 };

  add(stream: "stdout" | "stderr", chunk: Buffer): undefined {
    const room = MOST_OUTPUT - this.#sizes[stream];
    if (room > 0) this.#texts[stream].push(chunk.subarray(0, room));
    this.#sizes[stream] += chunk.length;
    return undefined;
  }

  result(): { readonly stdout: string; readonly stderr: string; readonly truncated?: true } {
    const cut = Math.max(this.#sizes.stdout, this.#sizes.stderr) > MOST_OUTPUT;
    return {
      stdout: Buffer.concat(this.#texts.stdout).toString("utf8"),
      stderr: Buffer.concat(this.#texts.stderr).toString("utf8"),
      ...(cut && { truncated: true }),
    };
  }
}

export function verdictText(report: BootReport): string {
  const { release, arch } = report.kernel;
  const how = report.accel === "tcg" ? "emulated" : report.accel;
  return `Booted ${release ?? "the kernel"} to user space in ${formatDuration(report.boot_ms ?? report.duration_ms)} (${arch}, ${report.machine}, ${how}).`;
}

/** Before the command began, a kernel is not ready (7); after, something that was begun has failed (6). */
const CODES_BY: Readonly<
  Record<Exclude<BootReport["verdict"], "exited">, { readonly before: Code; readonly after: Code }>
> = {
  crashed: { before: "E_BOOT_CRASHED", after: "E_GUEST_CRASHED" },
  lost: { before: "E_BOOT_CRASHED", after: "E_GUEST_CRASHED" },
  hung: { before: "E_BOOT_HUNG", after: "E_GUEST_HUNG" },
  late: { before: "E_BOOT_HUNG", after: "E_GUEST_HUNG" },
  timeout: { before: "E_BOOT_HUNG", after: "E_TIMEOUT" },
};

/** The error that a report amounts to; undefined where the command came to its end. */
export function failureOf(report: BootReport): LabError | undefined {
  if (report.verdict === "exited") return undefined;
  const codes = CODES_BY[report.verdict];
  const hint = hintFor(report);
  return new LabError(
    report.started ? codes.after : codes.before,
    messageOf(report),
    hint === undefined ? {} : { hint },
  );
}

function messageOf(report: BootReport): string {
  const when = report.started
    ? "while the command ran"
    : report.stage === "nothing"
      ? "before it printed anything"
      : `before the command began (it came as far as ${STAGES[report.stage] ?? report.stage})`;
  const after = formatDuration(report.duration_ms);
  switch (report.verdict) {
    case "crashed":
      return `${report.cause?.title ?? "the kernel died"}, ${when}, after ${after}`;
    case "hung":
      return `${report.cause?.title ?? "no sign of life"}, ${when}`;
    case "late":
      return `not ready after ${after}: it came as far as ${STAGES[report.stage] ?? report.stage}`;
    case "lost":
      return `the machine ended without a word, ${when}, after ${after}`;
    case "timeout":
      return `the command did not end in time and was stopped, after ${after}`;
    case "exited":
      return "";
  }
}

const STAGES: Readonly<Record<string, string>> = {
  nothing: "nothing: the console is empty",
  firmware: "the firmware",
  bootloader: "the boot loader",
  kernel: "the kernel's own start",
  init: "its first program",
  up: "user space",
};

function hintFor(report: BootReport): string | undefined {
  if (report.cause?.kind === "no-root" || report.cause?.kind === "no-init") {
    return "the kernel did not take the initramfs: does it have CONFIG_BLK_DEV_INITRD and the compression of --initrd?";
  }
  if (report.verdict === "crashed") return undefined;
  if (report.verdict === "late") return "give it longer with --timeout; -v shows the console as it comes";
  if (report.stage === "nothing") {
    return "does the kernel have this serial console built in (CONFIG_SERIAL_8250_CONSOLE, CONFIG_SERIAL_AMBA_PL011_CONSOLE), and does --append leave console= alone?";
  }
  return report.console_log === undefined ? "--console-log FILE keeps the whole console" : undefined;
}

/** What to show above the error: the lines that matter, else the console's last ones. */
export function causeLines(report: BootReport): readonly string[] {
  if (report.verdict === "timeout") return [];
  return report.cause !== undefined && report.cause.lines.length > 0 ? report.cause.lines : report.tail.slice(-12);
}
