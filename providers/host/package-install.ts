import { closest, distance } from "fastest-levenshtein";
import {
  type Address,
  type ExecResult,
  LabError,
  type Machine,
  type OperationContext,
  shJoin,
  type ShellText,
} from "../../src/index.ts";
import { PROLOGUE, requireSuccess } from "./common.ts";
import {
  APT_ENVIRONMENT,
  aptHealthScript,
  aptRepairScript,
  canBeDouble,
  installCommand,
  isUnknown,
  type Manager,
  namesCommand,
  refreshCommand,
  relevantLines,
  rpmRepairScript,
  unknownPackages,
} from "./package-commands.ts";
import type { PackageItem } from "./package-model.ts";

/** Milliseconds for one run of a package manager. */
const RUN_MS = 30 * 60_000;

/** One host's package manager, with what its output was kept. */
export class Installer {
  readonly ctx: OperationContext;
  readonly machine: Machine;
  readonly manager: Manager;
  #refreshed = false;
  constructor(ctx: OperationContext, machine: Machine, manager: Manager) {
    this.ctx = ctx;
    this.machine = machine;
    this.manager = manager;
  }

  run(command: ShellText): Promise<ExecResult> {
    return this.machine.exec(shJoin([PROLOGUE, command]), {
      env: APT_ENVIRONMENT,
      signal: this.ctx.signal,
      timeout: RUN_MS,
      onStdout: (chunk) => this.ctx.output("stdout", chunk),
      onStderr: (chunk) => this.ctx.output("stderr", chunk),
    });
  }

  /** Finishes what a killed run left, and has lists of packages that are not old. */
  async prepare(items: readonly PackageItem[]): Promise<void> {
    if (this.manager === "dnf") {
      const double = items.filter((item) => item.observed?.installed === false && canBeDouble(item.desired.name));
      if (double.length === 0) return;
      this.ctx.log("info", "finishing an installation that was cut off");
      await this.run(rpmRepairScript(double.map((item) => item.desired.name)));
    }
    if (this.manager !== "apt") return;
    const health = requireSuccess(
      await this.machine.exec(aptHealthScript(), { signal: this.ctx.signal }),
      "looking at apt's state",
    ).stdout.toString("utf8");
    if (health.includes("broken")) {
      this.ctx.log("info", "finishing an installation that was cut off");
      await this.run(aptRepairScript());
    }
    if (health.includes("stale")) await this.refresh();
  }

  async refresh(): Promise<boolean> {
    if (this.#refreshed) return false;
    this.#refreshed = true;
    this.ctx.progress(undefined, "reading lists of packages");
    const result = await this.run(refreshCommand(this.manager));
    if (result.code !== 0) this.ctx.log("warn", `lists of packages could not be read: ${relevantLines(text(result))}`);
    return result.code === 0;
  }

  /** Undefined: installed. Otherwise what the package manager said. */
  async install(items: readonly PackageItem[], again = false): Promise<string | undefined> {
    for (;;) {
      const result = await this.run(
        installCommand(
          this.manager,
          items.map((item) => item.desired),
          again,
        ),
      );
      if (result.code === 0) return undefined;
      const said = text(result);
      const outdated = unknownPackages(said).length > 0 || /404 +Not Found|Failed to fetch/i.test(said);
      if (!outdated || !(await this.refresh())) return said;
    }
  }
}

export function text(result: ExecResult): string {
  return `${result.stdout.toString("utf8")}\n${result.stderr.toString("utf8")}`;
}

async function packageError(installer: Installer, item: PackageItem, said: string): Promise<LabError> {
  const { name, version } = item.desired;
  const what = version === undefined ? name : `${name} ${version}`;
  const known = { address: item.address };
  if (/No space left|not have enough free space/i.test(said)) {
    return new LabError("E_DISK_FULL", `${what} cannot be installed: the host's disk is full`, {
      ...known,
      hint: "free some space on the host and run again",
    });
  }
  if (/Could not get lock|Unable to acquire the dpkg frontend lock|Waiting for cache lock/i.test(said)) {
    return new LabError("E_PACKAGE", `${what}: another package manager runs on the host and does not end`, {
      ...known,
      hint: "see what holds the lock there (`fuser /var/lib/dpkg/lock-frontend`), and run again",
      retryable: true,
    });
  }
  if (/are you root|Permission denied/i.test(said)) {
    return new LabError("E_SUDO", `${what} cannot be installed without root rights`, {
      ...known,
      hint: "set `sudo: true` on the host, or log in as root",
    });
  }
  if (isUnknown(item.desired, unknownPackages(said))) {
    const near =
      /E: Version '/.test(said) || !unknownPackages(said).includes(name) ? [] : await nearest(installer, name);
    const hint =
      near.length > 0
        ? `did you mean ${near.join(", ")}?`
        : "see which versions and packages the host's repositories have (`apt-cache policy NAME`)";
    return new LabError("E_PACKAGE", `${what} cannot be found: ${relevantLines(said)}`, { ...known, hint });
  }
  const network =
    /Temporary failure resolving|Could not connect|Connection timed out|Failed to fetch|Failed to download metadata|Cannot download/i.test(
      said,
    );
  return new LabError("E_PACKAGE", `${what} cannot be installed: ${relevantLines(said)}`, {
    ...known,
    hint: network
      ? "the host cannot reach its package repositories; run again when it can"
      : "the whole output is in the run's log",
    retryable: network,
  });
}

async function nearest(installer: Installer, name: string): Promise<string[]> {
  const result = await installer.machine.exec(namesCommand(installer.manager, name), {
    signal: installer.ctx.signal,
    keep: 4 << 20,
  });
  const names = result.stdout
    .toString("utf8")
    .split("\n")
    .filter((line) => line !== "" && line !== name);
  if (names.length === 0) return [];
  const best = closest(name, names);
  return distance(name, best) <= Math.max(2, Math.floor(name.length / 3)) ? [best] : [];
}

/** Installs all at once; where that fails, those that cannot be found are set aside, then each is tried alone. */
export async function installAll(
  installer: Installer,
  items: readonly PackageItem[],
  errors: Map<Address, Error>,
  again = false,
): Promise<void> {
  let left = items;
  while (left.length > 0) {
    const said = await installer.install(left, again);
    if (said === undefined) return;
    const unknown = unknownPackages(said);
    const bad = left.filter((item) => isUnknown(item.desired, unknown));
    if (bad.length === 0) break;
    for (const item of bad) errors.set(item.address, await packageError(installer, item, said));
    left = left.filter((item) => !bad.includes(item));
  }
  for (const item of left) {
    const said = await installer.install([item], again);
    if (said !== undefined) errors.set(item.address, await packageError(installer, item, said));
  }
}
