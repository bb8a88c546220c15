import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { LabError } from "../../src/index.ts";
import { type Accel, type GuestArch, option, programOf } from "./machine.ts";
import { runBriefly } from "./process.ts";

/** How guests run here, and why so. */
export interface AccelFinding {
  readonly accel: Accel;
  readonly reason: string;
}

export interface AccelOptions {
  /** Milliseconds that the trial guest may take; with KVM it takes a quarter of a second, QEMU's own start included. */
  readonly timeout?: number;
  /** Folder of the cache; default labctl's own below $XDG_CACHE_HOME or ~/.cache. */
  readonly cache?: string;
  /** Try this in place of kvm: tests show with `tcg` that the trial guest itself works. */
  readonly trial?: Accel;
  readonly signal?: AbortSignal;
}

/** A native processor counts to the end in a twentieth of a second, one emulated by KVM in minutes. */
const TRIAL_MS = 4000;
/** What the trial guest writes to the exit device; QEMU exits with twice that and one. */
const TOKEN = 0x2a;

/**
 * Whether guests of an architecture run under KVM, found by running one for a moment: /dev/kvm may be there, open, and
 * never run a single instruction. The finding is kept for this boot of the machine.
 */
export async function findAccel(arch: GuestArch, options: AccelOptions = {}): Promise<AccelFinding> {
  const host = HOSTS[process.arch];
  if (host !== arch) return { accel: "tcg", reason: `this machine is ${host ?? process.arch}, the guest ${arch}` };
  const wanted = options.trial ?? "kvm";
  const trial = trialArguments(arch, wanted);
  if (trial === undefined) return { accel: "tcg", reason: `no trial guest for ${arch}` };
  if (wanted === "kvm") {
    const there = await stat("/dev/kvm").catch(() => undefined);
    if (there === undefined) return { accel: "tcg", reason: "there is no /dev/kvm" };
  }
  const cache = await cacheFile(arch, wanted, options.cache);
  const known = cache === undefined ? undefined : await readFinding(cache);
  if (known !== undefined) return known;
  const finding = await tryGuest(arch, wanted, trial, options);
  if (cache !== undefined) await writeFinding(cache, finding);
  return finding;
}

async function tryGuest(
  arch: GuestArch,
  wanted: Accel,
  trial: TrialGuest,
  options: AccelOptions,
): Promise<AccelFinding> {
  const folder = await mkdtemp(join(tmpdir(), "labctl-accel-"));
  const timeout = options.timeout ?? TRIAL_MS;
  try {
    const file = join(folder, "guest.bin");
    await writeFile(file, trial.code);
    const ended = await runBriefly(programOf(arch), ["-accel", wanted, ...trial.args(file)], timeout, options.signal);
    if (ended.code === trial.exit) return { accel: wanted, reason: `a trial guest ran under ${wanted}` };
    const lines = ended.stderr.split("\n");
    const words = lines.find((line) => line.includes("error: ")) ?? lines.at(-1) ?? "";
    return { accel: "tcg", reason: `${wanted} does not run a guest here${words === "" ? "" : `: ${words}`}` };
  } catch (error) {
    if (!(error instanceof LabError) || error.code !== "E_TIMEOUT") throw error;
    return { accel: "tcg", reason: `a trial guest under ${wanted} did not come to its end in ${timeout / 1000} s` };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface TrialGuest {
  readonly code: Uint8Array;
  readonly exit: number;
  readonly args: (file: string) => readonly string[];
}

const BASE = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "64M", "-smp", "1"] as const;

/**
 * A guest that counts for a moment, on the processor that real guests get, and ends QEMU in a way that nothing else does.
 * Some clouds' KVM runs each instruction through an emulator, or refuses what `-cpu host` asks: real kernels would crawl or die.
 */
function trialArguments(arch: GuestArch, accel: Accel): TrialGuest | undefined {
  if (arch === "x86_64") {
    const code = Buffer.alloc(512);
    code.set(BOOT_SECTOR);
    code.set([0x55, 0xaa], 510);
    return {
      code,
      exit: TOKEN * 2 + 1,
      args: (file) => [
        ...BASE,
        "-machine",
        "pc",
        ...(accel === "kvm" ? ["-cpu", "host"] : []),
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
        "-drive",
        option("if=ide", { format: "raw", snapshot: true, file }),
      ],
    };
  }
  if (arch === "aarch64") {
    // PSCI SYSTEM_OFF: movz w0, #8; movk w0, #0x8400, lsl 16; hvc #0; b .
    const words = [0x52800100, 0x72b08000, 0xd4000002, 0x14000000];
    const code = Buffer.alloc(words.length * 4);
    for (const [index, word] of words.entries()) code.writeUInt32LE(word, index * 4);
    return {
      code,
      exit: 0,
      args: (file) => [
        ...BASE,
        "-machine",
        "virt",
        "-cpu",
        "max",
        "-device",
        option("loader", { file, addr: "0x40100000", "cpu-num": 0, "force-raw": true }),
      ],
    };
  }
  return undefined;
}

/**
 * cli; xor ax, ax; mov ds, ax; lgdt [0x7c30]; cr0 |= 1; jmp 8:0x7c18; then with 32 bits: ecx = 2^25; dec ecx; jnz; write TOKEN
 * to the exit device; hlt for ever. In protected mode, since old processors emulate real mode and run this natively.
 */
const BOOT_SECTOR = Buffer.from(
  [
    "fa31c08ed80f0116407c0f20c00c010f22c0",
    "66ea1a7c00000800",
    `b9000000024975fdb0${TOKEN.toString(16)}e6f4f4ebfd`,
    // Padding up to the table of segments at 0x30: nothing, and flat code. Its size and address follow at 0x40.
    "00000000000000",
    "0000000000000000ffff0000009bcf00",
    "0f00307c0000",
  ].join(""),
  "hex",
);

/** Node.js' names of architectures. */
const HOSTS: Readonly<Record<string, GuestArch>> = {
  x64: "x86_64",
  arm64: "aarch64",
  arm: "arm",
  riscv64: "riscv64",
};

/** The architecture of this machine, where guests can have it. */
export function hostArch(): GuestArch | undefined {
  return HOSTS[process.arch];
}

async function cacheFile(arch: GuestArch, wanted: Accel, folder: string | undefined): Promise<string | undefined> {
  const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8").catch(() => "")).trim();
  if (!/^[0-9a-f-]{36}$/.test(boot)) return undefined;
  const base = folder ?? join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "labctl");
  // Who may open /dev/kvm differs from user to user.
  return join(base, `accel-${wanted}-${arch}-${process.getuid?.() ?? 0}-${boot}.json`);
}

async function readFinding(path: string): Promise<AccelFinding | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof value !== "object" || value === null) return undefined;
    const { accel, reason } = value as Partial<Record<"accel" | "reason", unknown>>;
    if ((accel !== "kvm" && accel !== "tcg") || typeof reason !== "string") return undefined;
    return { accel, reason };
  } catch {
    // Not there, or cut off: found again.
    return undefined;
  }
}

async function writeFinding(path: string, finding: AccelFinding): Promise<void> {
  const temporary = `${path}.${process.pid}`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(temporary, `${JSON.stringify(finding)}\n`);
    await rename(temporary, path);
  } catch {
    // No place to remember it: it is tried again next time.
    await rm(temporary, { force: true });
  }
}
