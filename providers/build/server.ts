import {
  type Address,
  defineKind,
  formatSize,
  type KindContext,
  LabError,
  type Machine,
  type OperationContext,
  parseSize,
  type PropertyDiff,
  type Reading,
  sh,
} from "../../src/index.ts";
import { listJobs } from "./jobs.ts";
import { checkedWorkdir } from "./layout.ts";
import {
  DEFAULT_MIN_FREE,
  DEFAULT_WORKDIR,
  serverAttributes,
  type ServerDesired,
  type ServerObserved,
  serverSchema,
} from "./server-model.ts";
import { probeServer, type ServerState } from "./server-probe.ts";
import { commandFailure, lastLines, list } from "./text.ts";
import type { Toolchain } from "./toolchains.ts";

type WantedToolchain = NonNullable<ServerDesired["toolchains"]>[number];

export function workdirOf(desired: Partial<ServerDesired>): string {
  return checkedWorkdir(desired.workdir ?? DEFAULT_WORKDIR);
}

export function minFreeOf(desired: Partial<ServerDesired>): number {
  return parseSize(desired.min_free_disk ?? DEFAULT_MIN_FREE) ?? 10e9;
}

/** The first toolchain that is what was asked for, of those that work. */
export function findToolchain(
  toolchains: readonly Pick<Toolchain, "name" | "arch" | "version" | "available">[],
  wanted: Pick<WantedToolchain, "name" | "arch"> & { readonly version?: string | undefined },
): (typeof toolchains)[number] | undefined {
  return toolchains.find(
    (one) =>
      one.available &&
      one.name === wanted.name &&
      one.arch === wanted.arch &&
      (wanted.version === undefined || one.version === wanted.version || one.version.startsWith(`${wanted.version}.`)),
  );
}

function observedOf(state: ServerState, workdir: string): ServerObserved {
  const { capacity, report, arch } = state;
  const { active, ...figures } = capacity;
  return {
    ...(state.workdir && { workdir }),
    ...figures,
    active_builds: active.length,
    arch,
    toolchains: report.toolchains.map(({ name, arch: target, version, path, cross_compile, available, ...rest }) => ({
      name,
      arch: target,
      version,
      path,
      cross_compile,
      available,
      ...rest,
    })),
    tools: Object.keys(report.tools).sort(),
  };
}

function missing(desired: ServerDesired, observed: ServerObserved): WantedToolchain[] {
  const found = observed.toolchains;
  return (desired.toolchains ?? []).filter((one) => findToolchain(found, one) === undefined);
}

function diffServer(desired: ServerDesired, observed: ServerObserved): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  const workdir = workdirOf(desired);
  if (observed.workdir !== workdir) {
    out.push({
      path: "workdir",
      ...(observed.workdir !== undefined && { before: observed.workdir }),
      after: workdir,
      effect: "update",
    });
  }
  const lacking = missing(desired, observed);
  if (lacking.length > 0) {
    out.push({
      path: "toolchains",
      before: describe(observed.toolchains),
      after: [...describe(observed.toolchains), ...lacking.map((one) => `${one.name} for ${one.arch}`)],
    });
  }
  return out;
}

/** `gcc 12.2.0 for x86_64`: as people read it. */
export function describe(toolchains: readonly Pick<Toolchain, "name" | "version" | "arch" | "available">[]): string[] {
  return toolchains.filter((one) => one.available).map((one) => `${one.name} ${one.version} for ${one.arch}`);
}

async function read(ctx: KindContext, parent: Address, desired: ServerDesired): Promise<Reading<ServerObserved>> {
  const workdir = workdirOf(desired);
  const state = await probeServer(ctx.machine(parent), workdir, ctx.signal);
  return { is: "present", value: observedOf(state, workdir) };
}

function parentOf(item: { readonly address: Address; readonly parent: Address | undefined }): Address {
  if (item.parent !== undefined) return item.parent;
  throw new LabError("E_INTERNAL", "a build server is a host's, and this one has none", { address: item.address });
}

/** Makes the work directory: as the login where that may, else as root for the login. */
async function makeWorkdir(ctx: OperationContext, machine: Machine, workdir: string): Promise<void> {
  const own = await machine.exec(sh`mkdir -p -m 0755 -- ${workdir} 2>/dev/null && [ -w ${workdir} ]`, {
    root: false,
    signal: ctx.signal,
  });
  if (own.code === 0) return;
  const who = await machine.exec(sh`id -u; id -g`, { root: false, signal: ctx.signal });
  const [uid = "", gid = ""] = who.stdout.toString("utf8").split("\n");
  const made = await machine.exec(
    sh`mkdir -p -- ${workdir} && chown -- ${`${uid}:${gid}`} ${workdir} && chmod 0755 -- ${workdir}`,
    { signal: ctx.signal },
  );
  if (made.code !== 0) throw commandFailure(machine, `making ${workdir}`, lastLines(made.stderr), made.code);
}

function warnOfDisk(ctx: OperationContext, desired: ServerDesired, observed: ServerObserved, host: Address): void {
  const floor = minFreeOf(desired);
  if (observed.disk_free >= floor) return;
  const refused = desired.on_low_disk === "warn" ? "builds still come, as on_low_disk says" : "no new builds come";
  ctx.log("warn", `${host} has ${formatSize(observed.disk_free)} of disk left, below ${formatSize(floor)}: ${refused}`);
}

/** Folders that labctl makes below the work directory: see layout.ts. */
const OURS = ["mirrors", "tarballs", "trees", "objects", "stage", "jobs", "outputs", "locks", "ccache"] as const;

export const buildServer = defineKind({
  kind: "build_server",
  title: "A build server",
  description: `A host that builds. labctl finds its compilers, and what it can take: a build goes to a server that meets what it
asks for, the less used first.

Builds run as the user who logs in, below \`workdir\`. Nothing else on the host is touched: packages for building are
\`packages:\` of the host.`,
  section: { name: "build_server", within: "host", shape: "one" },
  schema: serverSchema,
  attributes: serverAttributes,
  ownership: "shared",

  /** After everything else on the host: packages bring the compilers, directories and mounts the work directory. */
  after: (_desired, siblings, address) => siblings.map((one) => one.address).filter((one) => one !== address),

  async readMany(ctx, items) {
    const readings = await Promise.all(
      items.map(async (item) => [item.address, await read(ctx, parentOf(item), item.desired)] as const),
    );
    return new Map(readings);
  },

  diff: ({ desired, observed }) => diffServer(desired, observed),

  async reconcile(ctx, item) {
    const host = parentOf(item);
    const machine = ctx.machine(host);
    const workdir = workdirOf(item.desired);
    if (item.observed?.workdir !== workdir) await makeWorkdir(ctx, machine, workdir);
    const reading = await read(ctx, host, item.desired);
    if (reading.is !== "present") throw new LabError("E_INTERNAL", "a build server is there, or out of reach");
    const lacking = missing(item.desired, reading.value);
    if (lacking.length > 0) {
      const there = describe(reading.value.toolchains);
      throw new LabError(
        "E_BUILD_TOOL",
        `${host} lacks ${list(lacking.map((one) => `${one.name}${one.version === undefined ? "" : ` ${one.version}`} for ${one.arch}`))}`,
        {
          address: item.address,
          hint: `it has ${there.length === 0 ? "no compiler at all" : list(there)}; add the package that brings it to \`packages:\` of the host, or take it off the list`,
        },
      );
    }
    warnOfDisk(ctx, item.desired, reading.value, host);
    return reading.value;
  },

  /** What labctl made below the work directory goes; a folder that was there before stays. */
  async delete(ctx, item) {
    const machine = ctx.machine(parentOf(item));
    const workdir = workdirOf(item.desired);
    const jobs = await listJobs(machine, workdir, ctx.signal).catch((error: unknown) => {
      if (error instanceof LabError && error.code === "E_BUILD_TOOL") return [];
      throw error;
    });
    const running = jobs.filter((job) => job.state === "running");
    if (running.length > 0) {
      throw new LabError("E_ACTIVE_WORKLOADS", `${running.length} builds still run on ${item.parent ?? ""}`, {
        address: item.address,
        hint: "wait for them, or `labctl cancel` them, and run again",
      });
    }
    const paths = OURS.map((name) => `${workdir}/${name}`);
    const was = item.prior?.original?.workdir === workdir;
    const gone = await machine.exec(
      sh`chmod -R u+rwX -- ${paths} 2>/dev/null; rm -rf -- ${paths} && { ${was ? "true" : "false"} || { [ ! -d ${workdir} ] || rmdir -- ${workdir} 2>/dev/null || [ -n "$(ls -A -- ${workdir})" ]; }; }`,
      { signal: ctx.signal },
    );
    if (gone.code !== 0) throw commandFailure(machine, `removing ${workdir}`, lastLines(gone.stderr), gone.code);
  },

  manualCleanup: (item) =>
    `on ${item.parent ?? "the host"}: rm -rf ${OURS.map((name) => `${item.desired.workdir ?? DEFAULT_WORKDIR}/${name}`).join(" ")}`,
});
