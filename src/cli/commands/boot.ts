import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Transform } from "node:stream";
import { type Command, Option } from "commander";
import { LabError, toProblem } from "../../diagnostics/index.ts";
import { formatDuration, parseSize } from "../../model/index.ts";
import { BootCapture, causeLines, failureOf, verdictText } from "../boot-report.ts";
import { type Context, countOption, durationOption } from "../context.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { visible, visibleLine } from "../renderers/text.ts";
import type { Services } from "../services.ts";

interface BootFlags {
  readonly installed?: boolean;
  readonly initrd?: string;
  readonly cpus: number;
  readonly memory: number;
  readonly arch?: string;
  readonly machine?: "q35" | "microvm" | "virt";
  readonly accel?: "kvm" | "tcg";
  readonly append?: string;
  readonly share: readonly string[];
  readonly root?: string;
  readonly modules?: string;
  readonly busybox?: string;
  readonly timeout: number;
  readonly commandTimeout?: number;
  readonly silence: number;
  readonly consoleLog?: string;
}

type BootRequest = Parameters<Services["boot"]>[0];
type BootReport = Awaited<ReturnType<Services["boot"]>>;

const HELP = `
The guest sees the current directory, to read and write, at the same path, and the command starts there. Its root is this
machine's own, read-only, where the guest has the same architecture; with --initrd the initrd's; else a busybox. Folders
come in by 9p or virtiofs, where the kernel has one of them built in or as a module that is found (beside the image as in an
unpacked package, in /lib/modules, or by --modules); into other kernels a read-only copy of the current directory is packed.

The command's own stdin, stdout and stderr are passed through; on a terminal it gets one (Ctrl-A X ends the guest). Without
a command: a shell on a terminal, else the machine is booted to user space and that is all.

Exit codes: the command's own; 128 and the signal's number where one killed it. labctl's own words are on stderr, with a
code such as [E_BOOT_CRASHED], and in the verdict of --json, which tells the two apart for certain:
  3  not a kernel, of another architecture, an initrd or folder that is not there
  5  QEMU is not installed
  6  the kernel died, hung or took too long while the command ran; QEMU failed
  7  the kernel died, hung or was too late before the command began

Examples:
  labctl boot arch/x86/boot/bzImage -- uname -a
  labctl boot bzImage --append slub_debug=FZ -- ./run-tests.sh --all
  labctl boot --installed -- dmesg --level err
  labctl boot linux-image-6.1.0-9-amd64.deb --memory 4GiB --cpus 4 -- make -C tests check
  labctl boot Image --arch arm64 --initrd rootfs.cpio.gz --console-log console.txt -- uname -m
  labctl boot bzImage --share ~/ltp --share ./out:rw -- ~/ltp/runltp -o out/ltp.log
  labctl boot bzImage`;

export function registerBoot(program: Command, host: Host): void {
  const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];
  const boot = program
    .command("boot")
    .argument("[kernel]", "a kernel image (bzImage, Image, zImage, vmlinux), or a Debian package with one")
    .argument("[command...]", "the command and its arguments, after --")
    .summary("boot a kernel in QEMU and run a command in it")
    .description(
      "Boots a kernel in QEMU, without a spec, root or a disk image, runs a command in it, and exits as the command did. A panic, an oops or a hang is recognised at once and reported with the lines that matter.",
    )
    .option("--installed", "the newest kernel in /boot, in place of naming one")
    .option("--initrd <file>", "an initramfs: the guest's root, and where the command is looked for")
    .option("--root <path>", "the guest's root: a folder (read-only) or a disk image (changes are thrown away)")
    .option(
      "--share <folder[:rw]>",
      "one more folder that the guest sees, read-only without :rw (repeatable)",
      collect,
      [],
    )
    .option("--cpus <n>", "processors", (text) => countOption("--cpus", text), 2)
    .addOption(new Option("--memory <size>", "memory").argParser(sizeOption).default(1024 * 2 ** 20, "1GiB"))
    .option("--arch <arch>", "refuse another architecture than this: x86_64, arm64, arm, riscv64")
    .addOption(
      new Option("--machine <type>", "QEMU's machine; microvm is experimental, and for KVM").choices([
        "q35",
        "microvm",
        "virt",
      ]),
    )
    .addOption(
      new Option("--accel <accel>", "how it runs (default: kvm where a trial guest runs under it)").choices([
        "kvm",
        "tcg",
      ]),
    )
    .option("--append <cmdline>", "more words for the kernel's command line")
    .option("--modules <folder>", "the kernel's modules, such as /lib/modules/6.1.0-9-amd64")
    .option("--busybox <file>", "a busybox without shared libraries, for a guest of another architecture")
    .addOption(
      new Option("--timeout <duration>", "how long it may take until the command begins")
        .argParser((text) => durationOption("--timeout", text))
        .default(60_000, "60s"),
    )
    .option("--command-timeout <duration>", "how long the command may take (default: as long as it wants)", (text) =>
      durationOption("--command-timeout", text),
    )
    .addOption(
      new Option("--silence <duration>", "how long without a sign of life counts as a hang")
        .argParser((text) => durationOption("--silence", text))
        .default(30_000, "30s"),
    )
    .option("--console-log <file>", "record the console from its first byte")
    .addHelpText("after", HELP);
  boot.action(async (kernel: string | undefined, words: string[], flags: BootFlags) => {
    await host.invoke((context) => bootOnce(context, kernel, words, flags), boot);
  });
}

async function bootOnce(
  context: Context,
  named: string | undefined,
  words: readonly string[],
  flags: BootFlags,
): Promise<number> {
  const { term, services, signals } = context;
  const { cwd } = term.io;
  // With --installed there is no kernel among the words.
  const command = flags.installed === true && named !== undefined ? [named, ...words] : words;
  const kernel = flags.installed === true ? await installedKernel("/boot") : named;
  if (kernel === undefined) {
    throw new LabError("E_USAGE", "which kernel?", {
      hint: "labctl boot arch/x86/boot/bzImage -- uname -a, or --installed for the newest in /boot",
    });
  }
  const json = term.options.json;
  const terminal = !json && term.interactive ? terminalSize(term.io.stdout) : undefined;
  const request: BootRequest = {
    kernel: resolve(cwd, kernel),
    command,
    cpus: flags.cpus,
    memory: flags.memory,
    cwd,
    shares: flags.share.map((text) => shareOption(text, cwd)),
    timeout: flags.timeout,
    silence: flags.silence,
    ...(flags.initrd !== undefined && { initrd: resolve(cwd, flags.initrd) }),
    ...(flags.root !== undefined && { root: resolve(cwd, flags.root) }),
    ...(flags.arch !== undefined && { arch: flags.arch }),
    ...(flags.machine !== undefined && { machine: flags.machine }),
    ...(flags.accel !== undefined && { accel: flags.accel }),
    ...(flags.append !== undefined && { append: flags.append }),
    ...(flags.modules !== undefined && { modules: resolve(cwd, flags.modules) }),
    ...(flags.busybox !== undefined && { busybox: resolve(cwd, flags.busybox) }),
    ...(flags.commandTimeout !== undefined && { commandTimeout: flags.commandTimeout }),
    ...(flags.consoleLog !== undefined && { consoleLog: resolve(cwd, flags.consoleLog) }),
    ...(terminal !== undefined && { terminal }),
  };
  const capture = new BootCapture();
  const escape = new AbortController();
  const keyboard = terminal === undefined ? undefined : takeKeyboard(context, escape);
  const write = (stream: "stdout" | "stderr") => (chunk: Buffer) =>
    json ? capture.add(stream, chunk) : writeTo(context, stream, chunk);
  try {
    const report = await services.boot(request, {
      stdout: write("stdout"),
      stderr: write("stderr"),
      signal: AbortSignal.any([signals.cancellation.soft, term.closed, escape.signal]),
      ...(term.options.verbose > 0 && { console: (chunk: Buffer) => term.raw(chunk, "stderr") }),
      ...(keyboard !== undefined
        ? { stdin: keyboard.input, started: keyboard.raw }
        : term.io.stdin.isTTY !== true && { stdin: term.io.stdin }),
    });
    keyboard?.release();
    return show(context, request, report, capture);
  } finally {
    keyboard?.release();
  }
}

function show(context: Context, request: BootRequest, report: BootReport, capture: BootCapture): number {
  const { term } = context;
  const failure = failureOf(report);
  const exit = failure?.exitCode ?? report.exit_code ?? 0;
  if (term.options.json) {
    term.json({
      ...report,
      command: request.command,
      exit,
      ...capture.result(),
      ...(failure !== undefined && { error: toProblem(failure) }),
    });
    return exit;
  }
  const paint = paintFor({ color: term.errColor });
  for (const note of report.notes) term.err(paint.dim(`labctl: ${visible(note)}`));
  for (const event of report.events) {
    if (event === report.cause) continue;
    term.err(`labctl: ${paint.yellow(event.severity)} on the console: ${visible(event.title)}`);
    if (term.options.verbose > 0) for (const line of event.lines) term.err(`    ${visibleLine(line)}`);
  }
  if (term.options.verbose > 0) {
    term.err(paint.dim(`labctl: ${report.accel}, ${report.machine}: ${visible(report.accel_reason)}`));
    term.err(paint.dim(`labctl: ${visible(report.qemu.join(" "))}`));
  }
  if (failure !== undefined) {
    for (const line of causeLines(report)) term.err(`  ${visibleLine(line)}`);
    throw failure;
  }
  if (request.command.length === 0 && request.terminal === undefined) term.out(verdictText(report));
  else if (term.options.verbose > 0) {
    term.err(
      paint.dim(
        `labctl: ${verdictText(report)} The command took ${formatDuration(report.duration_ms - (report.boot_ms ?? 0))}.`,
      ),
    );
  }
  return exit;
}

function writeTo(context: Context, stream: "stdout" | "stderr", chunk: Buffer): Promise<void> | undefined {
  const { term } = context;
  if (term.closed.aborted) return undefined;
  const out = term.io[stream];
  if (out.write(chunk)) return undefined;
  // A reader that is slow slows the guest down, and not our memory.
  return new Promise((done) => {
    const go = (): void => {
      for (const name of ["drain", "close", "error"]) out.removeListener(name, go);
      done();
    };
    for (const name of ["drain", "close", "error"]) out.once(name, go);
  });
}

function terminalSize(out: { readonly rows?: number; readonly columns?: number }): { rows: number; columns: number } {
  return { rows: out.rows ?? 24, columns: out.columns ?? 80 };
}

const CTRL_A = 0x01;

/** The keyboard goes to the guest byte by byte; Ctrl-A X ends it, Ctrl-A Ctrl-A is one Ctrl-A. As in QEMU itself. */
function takeKeyboard(
  context: Context,
  escape: AbortController,
): { readonly input: Transform; readonly raw: () => void; readonly release: () => void } {
  const { stdin } = context.term.io;
  let prefixed = false;
  const input = new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      const bytes: number[] = [];
      for (const byte of chunk) {
        if (!prefixed && byte === CTRL_A) prefixed = true;
        else if (prefixed) {
          prefixed = false;
          if (byte === 0x78 || byte === 0x58) escape.abort();
          else bytes.push(byte);
        } else bytes.push(byte);
      }
      callback(null, Buffer.from(bytes));
    },
  });
  stdin.pipe(input);
  let held = false;
  const setRaw = (on: boolean): void => {
    if (!("setRawMode" in stdin) || typeof stdin.setRawMode !== "function") return;
    stdin.setRawMode(on);
  };
  return {
    input,
    // Not before: until the command begins, Ctrl-C is ours.
    raw: () => {
      held = true;
      setRaw(true);
    },
    release: () => {
      if (held) setRaw(false);
      held = false;
      stdin.unpipe(input);
      stdin.pause();
    },
  };
}

/** @throws LabError E_USAGE */
function sizeOption(text: string): number {
  // `2G` is what QEMU and everybody's fingers say.
  const value = parseSize(/^\d+(?:\.\d+)?[KMGT]$/.test(text) ? `${text}iB` : text);
  if (value === undefined || value < 32 * 2 ** 20) {
    throw new LabError("E_USAGE", `--memory takes a size from 32MiB on, not ${JSON.stringify(text)}`, {
      hint: "for example 512MiB or 4GiB",
    });
  }
  return value;
}

function shareOption(text: string, cwd: string): { readonly path: string; readonly writable: boolean } {
  const match = /^(.+):(rw|ro)$/.exec(text);
  return { path: resolve(cwd, match?.[1] ?? text), writable: match?.[2] === "rw" };
}

/** The newest by version. @throws LabError E_USAGE */
async function installedKernel(folder: string): Promise<string> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.startsWith("vmlinuz-"));
  const newest = names.sort((a, b) => a.localeCompare(b, "en", { numeric: true })).at(-1);
  if (newest === undefined) {
    throw new LabError("E_USAGE", `there is no kernel in ${folder}`, { hint: "name one: labctl boot KERNEL" });
  }
  return join(folder, newest);
}
