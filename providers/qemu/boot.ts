import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { LabError } from "../../src/index.ts";
import { findAccel, hostArch } from "./accel.ts";
import type { BootReport, BootRequest, BootStreams } from "./boot-types.ts";
import { commandScript, type GuestPlan, HOME, initScript } from "./guest-init.ts";
import { type KernelImage, parseArch, readKernel } from "./image.ts";
import {
  type Accel,
  consoleArguments,
  type GuestDisk,
  type GuestPort,
  machineFeatures,
  machineOf,
  type MachineType,
  programOf,
} from "./machine.ts";
import { type Driver, findDrivers } from "./modules.ts";
import { packageHint } from "./packages.ts";
import { hasProgram, runBriefly } from "./process.ts";
import { startGuest } from "./runner.ts";
import { arrange, type Sharing, type Wanted } from "./sharing.ts";
import { watchBoot } from "./session.ts";
import { diskFormat, findUserland, initramfs, isDebianPackage, readInitrd } from "./userland.ts";

const UNPACK_MS = 120_000;

/**
 * Boots a kernel in QEMU and runs one command in it. The root of the guest is, in this order: what `root` names; the initrd's
 * own; this machine's, read-only, where the guest is of its architecture and its kernel can share folders; else a busybox.
 * Always ends what it started, and removes what it made.
 * @throws LabError where nothing could be begun: E_SOURCE_FILE, E_BOOT_IMAGE, E_IMAGE_ARCH, E_BOOT_USERLAND, E_QEMU_MISSING,
 * E_QEMU, E_CANCELLED
 */
export async function bootKernel(request: BootRequest, streams: BootStreams): Promise<BootReport> {
  const work = await mkdtemp(join(tmpdir(), "labctl-boot-"));
  let sharing: Sharing | undefined;
  try {
    const { image, modules } = await locate(request, work, streams.signal);
    const kernel = await readKernel(image, request.arch === undefined ? undefined : parseArch(request.arch));
    const initrd = request.initrd === undefined ? undefined : await readInitrd(request.initrd);
    const userland = await findUserland(kernel.arch, request.busybox, initrd);
    if (!hasProgram(programOf(kernel.arch))) {
      const program = programOf(kernel.arch);
      throw new LabError("E_QEMU_MISSING", `${program} is not installed`, { hint: packageHint(program) });
    }
    const machine = machineFor(kernel, request.machine);
    const features = machineFeatures(kernel.arch, machine);
    const drivers = await findDrivers(kernel, modules);
    const root = await chooseRoot(request, kernel);
    const transport: Driver = features.bus === "pci" ? "virtio_pci" : "virtio_mmio";
    sharing = await arrange(await wantedOf(request), root.share, drivers, transport);
    const needed: Driver[] = [transport, "virtio_console", ...sharing.drivers];
    if (root.disk !== undefined) needed.push("virtio_blk");
    const load = await drivers.load(needed);
    const plan = planFor(
      request,
      kernel,
      machine,
      sharing,
      root.disk !== undefined,
      load.map(({ name }) => `${name}.ko`),
    );
    const shell = "busybox" in userland ? `/${HOME}/bin/busybox sh` : userland.shell;
    const archive = join(work, "initramfs");
    await writeFile(
      archive,
      initramfs({
        initrd,
        userland,
        init: initScript(plan, shell),
        command: commandScript(plan),
        modules: load,
        packed: sharing.packed,
      }),
    );
    const accel =
      request.accel === undefined
        ? await findAccel(kernel.arch, { signal: streams.signal })
        : { accel: request.accel, reason: "asked for" };
    const guest = {
      spec: {
        arch: kernel.arch,
        machine,
        accel: accel.accel,
        cpus: request.cpus,
        memory: request.memory,
        kernel: resolve(kernel.path),
        initrd: archive,
        append: commandLine(request, kernel, machine),
        shares: sharing.shares,
        disks: root.disk === undefined ? [] : [root.disk],
        name: "labctl-boot",
      },
      ports: portsFor(request, features.serials.length),
      signal: streams.signal,
      ...(request.consoleLog !== undefined && { consoleLog: resolve(request.consoleLog) }),
    };
    const outcome = await watchBoot(request, streams, (onConsole) => startGuest({ ...guest, onConsole }));
    const release = outcome.release ?? kernel.release;
    return {
      ...outcome.result,
      kernel: {
        path: request.kernel,
        arch: kernel.arch,
        ...(release !== undefined && { release }),
        ...(outcome.version !== undefined && { version: outcome.version }),
        ...(outcome.buildId !== undefined && { build_id: outcome.buildId }),
      },
      machine,
      accel: accel.accel,
      accel_reason: accel.reason,
      notes: [...machineNotes(machine, accel.accel), ...sharing.notes, ...outcome.notes],
      shares: sharing.mounts.map((mount) => ({
        path: mount.target,
        how: outcome.shares.get(mount.tag) ?? "unknown",
        writable: mount.writable && outcome.shares.get(mount.tag) !== "packed",
      })),
      ...(request.consoleLog !== undefined && { console_log: resolve(request.consoleLog) }),
    };
  } finally {
    await sharing?.close();
    await rm(work, { recursive: true, force: true });
  }
}

/** A package is unpacked aside; its modules lie with it. */
async function locate(
  request: BootRequest,
  work: string,
  signal: AbortSignal,
): Promise<{ readonly image: string; readonly modules: string | undefined }> {
  if (!(await isDebianPackage(request.kernel))) return { image: request.kernel, modules: request.modules };
  if (!hasProgram("dpkg-deb")) {
    throw new LabError("E_BOOT_IMAGE", `${request.kernel} is a Debian package, and dpkg-deb is not here to open it`, {
      hint: packageHint("dpkg-deb"),
    });
  }
  const folder = join(work, "package");
  const ended = await runBriefly("dpkg-deb", ["-x", resolve(request.kernel), folder], UNPACK_MS, signal);
  const boot = await readdir(join(folder, "boot")).catch(() => []);
  const image = boot.find((name) => name.startsWith("vmlinuz-") || name.startsWith("vmlinux-"));
  if (ended.code !== 0 || image === undefined) {
    throw new LabError("E_BOOT_IMAGE", `${request.kernel} is a Debian package without a kernel in /boot`, {
      hint: `${ended.stderr === "" ? "a package such as linux-image-6.1.0-9-amd64 has one; linux-image-amd64 only depends on it" : ended.stderr}`,
    });
  }
  return { image: join(folder, "boot", image), modules: request.modules };
}

/** @throws LabError E_USAGE */
function machineFor(kernel: KernelImage, wanted: MachineType | undefined): MachineType {
  try {
    return machineOf(kernel.arch, wanted);
  } catch (cause) {
    throw new LabError("E_USAGE", cause instanceof Error ? cause.message : String(cause), {
      hint: "x86_64 has q35 and microvm, the others have virt",
    });
  }
}

/** What was found with QEMU 7.2 and Debian's kernel 6.1: with ACPI it finds no timer there, without ACPI no devices. */
function machineNotes(machine: MachineType, accel: Accel): readonly string[] {
  if (machine !== "microvm" || accel === "kvm") return [];
  return ["a microvm without KVM has no timer that every kernel can use; q35 is the machine for emulation"];
}

interface Root {
  /** A folder to share as the guest's root. */
  readonly share: string | undefined;
  readonly disk: GuestDisk | undefined;
}

/** @throws LabError E_SOURCE_FILE */
async function chooseRoot(request: BootRequest, kernel: KernelImage): Promise<Root> {
  if (request.root === undefined) {
    const own = request.initrd === undefined && kernel.arch === hostArch();
    return { share: own ? "/" : undefined, disk: undefined };
  }
  const path = resolve(request.root);
  const found = await stat(path).catch((cause: unknown) => {
    throw new LabError("E_SOURCE_FILE", `the root ${request.root ?? ""} is not there`, { cause });
  });
  if (found.isDirectory()) return { share: path, disk: undefined };
  return { share: undefined, disk: { path, format: await diskFormat(path), throwaway: true } };
}

/** The folder one stands in, to read and write; then those that were named. What is named twice is as it was named. */
async function wantedOf(request: BootRequest): Promise<readonly Wanted[]> {
  const wanted = new Map<string, Wanted>();
  const cwd = resolve(request.cwd);
  // All of this machine, to be written to by a kernel under test: nobody means that.
  wanted.set(cwd, { path: cwd, target: cwd, writable: cwd !== "/", explicit: false });
  for (const share of request.shares) {
    const path = isAbsolute(share.path) ? share.path : resolve(cwd, share.path);
    const found = await stat(path).catch(() => undefined);
    if (found?.isDirectory() !== true)
      throw new LabError("E_SOURCE_FILE", `--share ${share.path}: there is no such folder`);
    wanted.set(path, { path, target: path, writable: share.writable, explicit: true });
  }
  wanted.delete("/");
  // Outer folders first: an inner one is mounted over its place in the outer.
  return [...wanted.values()].sort((a, b) => (a.target < b.target ? -1 : 1));
}

function planFor(
  request: BootRequest,
  kernel: KernelImage,
  machine: MachineType,
  sharing: Sharing,
  disk: boolean,
  modules: readonly string[],
): GuestPlan {
  const features = machineFeatures(kernel.arch, machine);
  const tty = request.terminal;
  return {
    command: request.command.length > 0 || tty !== undefined ? request.command : ["true"],
    tty: tty !== undefined,
    cwd: resolve(request.cwd),
    environment: { TERM: tty === undefined ? "dumb" : (process.env["TERM"] ?? "vt100") },
    root: disk ? "disk" : sharing.root ? "share" : "own",
    mounts: sharing.mounts,
    modules,
    serials: features.serials,
    console: features.console,
    ...(tty !== undefined && { size: tty }),
  };
}

const SERIALS: readonly Omit<GuestPort, "socket">[] = [
  { name: "serial.control", kind: "serial" },
  { name: "serial.output", kind: "serial" },
  { name: "serial.errors", kind: "serial" },
];

/** Control and errors in any case; data on a terminal, or as streams; serial lines for a guest without virtio. */
function portsFor(request: BootRequest, serials: number): readonly Omit<GuestPort, "socket">[] {
  const data: readonly Omit<GuestPort, "socket">[] =
    request.terminal === undefined
      ? [
          { name: "labctl.input", kind: "port" },
          { name: "labctl.output", kind: "port" },
          { name: "labctl.errors", kind: "port" },
        ]
      : [{ name: "labctl.tty", kind: "tty" }];
  return [{ name: "labctl.control", kind: "port" }, ...data, ...SERIALS.slice(0, serials)];
}

/** `panic=-1`: a kernel that panics restarts at once, and QEMU ends in place of that. */
function commandLine(request: BootRequest, kernel: KernelImage, machine: MachineType): string {
  return [
    ...consoleArguments(kernel.arch, machine),
    `rdinit=/${HOME}/init`,
    "panic=-1",
    // A guest without entropy would wait for some.
    "random.trust_cpu=on",
    request.append ?? "",
  ]
    .filter((word) => word !== "")
    .join(" ");
}
