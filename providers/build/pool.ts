import {
  type Address,
  type Candidate,
  type InventoryEntry,
  type KindContext,
  LabError,
  lastSegment,
  type Plain,
  type Selection,
  standingOf,
} from "../../src/index.ts";
import { DEFAULT_MAX_BUILDS, type ServerDesired } from "./server-model.ts";
import { probeServer, type ServerState } from "./server-probe.ts";
import { minFreeOf, workdirOf } from "./server.ts";
import type { Toolchain } from "./toolchains.ts";

/** A build server of the lab as it is found at this moment. */
export interface PoolServer {
  /** The host. */
  readonly address: Address;
  readonly workdir: string;
  readonly candidate: Candidate;
  /** Digests of the builds that run there. */
  readonly active: readonly string[];
  /** The compiler for what is asked; absent: it has none, or could not be reached. */
  readonly compiler?: Toolchain;
}

/** The compiler that a spec's `toolchain:` means on one machine, for one architecture. Pure. */
export function compilerFor(toolchains: readonly Toolchain[], wanted: string, arch: string): Toolchain | undefined {
  const usable = toolchains.filter((one) => one.available && one.arch === arch);
  const exact = usable.find((one) => one.name === wanted);
  if (exact !== undefined) return exact;
  const [, family, suffix = ""] = /^(gcc|clang)(-[0-9.]+)?$/.exec(wanted) ?? [];
  if (family === undefined) return undefined;
  return usable.find((one) => one.family === family && one.suffix === suffix);
}

interface Known {
  readonly at: number;
  readonly state: Promise<ServerState>;
}

/** Looking at a server takes a second; all builds of one plan look at the same. Milliseconds. */
const FRESH_MS = 20_000;
const caches = new WeakMap<object, Map<string, Known>>();

async function look(ctx: KindContext, host: Address, workdir: string, fresh: boolean): Promise<ServerState> {
  const cache = caches.get(ctx.inventory) ?? new Map<string, Known>();
  caches.set(ctx.inventory, cache);
  const key = `${host}\n${workdir}`;
  const known = cache.get(key);
  const now = performance.now();
  if (known !== undefined && !fresh && now - known.at < FRESH_MS) return known.state;
  const state = probeServer(ctx.machine(host), workdir, ctx.signal);
  cache.set(key, { at: now, state });
  state.catch(() => cache.delete(key));
  return state;
}

/** Every build server of the lab, as a candidate for something that needs this toolchain and architecture. */
export async function buildServers(
  ctx: KindContext,
  wanted: { readonly toolchain: string; readonly arch: string },
  options: { readonly fresh: boolean } = { fresh: false },
): Promise<readonly PoolServer[]> {
  const servers = ctx.inventory.all("build_server").filter((one) => one.parent !== undefined);
  return Promise.all(
    servers.map(async (entry) => {
      const host = ctx.inventory.get(entry.parent ?? "");
      return describeServer(ctx, entry, host, wanted, options.fresh);
    }),
  );
}

async function describeServer(
  ctx: KindContext,
  entry: InventoryEntry,
  host: InventoryEntry | undefined,
  wanted: { readonly toolchain: string; readonly arch: string },
  fresh: boolean,
): Promise<PoolServer> {
  const address = entry.parent ?? "";
  const desired = entry.desired as Partial<ServerDesired>;
  const workdir = workdirOf(desired);
  const base = {
    address,
    name: lastSegment(address).key ?? address,
    ...labelsOf(host),
    min_free_disk: minFreeOf(desired),
    on_low_disk: desired.on_low_disk ?? "refuse",
  } as const;
  const standing = standingOf(host, Date.now());
  try {
    let state = await look(ctx, address, workdir, fresh);
    let compiler = compilerFor(state.report.toolchains, wanted.toolchain, wanted.arch);
    // It may have been installed a moment ago.
    if (compiler === undefined && !fresh) {
      state = await look(ctx, address, workdir, true);
      compiler = compilerFor(state.report.toolchains, wanted.toolchain, wanted.arch);
    }
    const { capacity, report } = state;
    const found = report.toolchains.filter((one) => one.available);
    return {
      address,
      workdir,
      ...(compiler !== undefined && { compiler: prefixed(compiler, desired.toolchains) }),
      active: capacity.active,
      candidate: {
        ...base,
        status: "online",
        ...standing,
        arch: state.arch,
        also: [...new Set([...found, ...declared(desired, wanted)].map((one) => one.arch))],
        total: {
          cpus: capacity.cores,
          memory: capacity.memory,
          disk: capacity.disk_total,
          builds: desired.max_builds ?? DEFAULT_MAX_BUILDS,
        },
        reserved: { builds: capacity.active.length },
        used: {
          memory: capacity.memory - capacity.memory_available,
          disk: capacity.disk_total - capacity.disk_free,
        },
        load: capacity.load / capacity.cores,
        toolchains: [
          ...declared(desired, wanted),
          ...found.map(({ name, arch, version }) => ({ name, arch, version })),
          ...(compiler === undefined ? [] : [{ name: wanted.toolchain, arch: wanted.arch, version: compiler.version }]),
        ],
      },
    };
  } catch (error) {
    if (ctx.signal.aborted) throw error;
    return {
      address,
      workdir,
      active: [],
      candidate: { ...base, ...unseen(entry, host, wanted, standing, error), total: {}, reserved: {} },
    };
  }
}

/** What Debian calls the compilers for each architecture. */
const DEBIAN_GCC: Readonly<Record<string, string>> = {
  x86_64: "gcc-x86-64-linux-gnu",
  arm64: "gcc-aarch64-linux-gnu",
  armv7: "gcc-arm-linux-gnueabihf",
  riscv64: "gcc-riscv64-linux-gnu",
};

/** Pure. E_TOOLCHAIN_MISSING, with the compilers that there are, where that is what every build server lacks. */
export function missingToolchain(
  { toolchain, arch }: { readonly toolchain: string; readonly arch: string },
  { rejected }: Selection,
): LabError | undefined {
  const lacks = rejected.flatMap(({ address, unmet }) => {
    const reason = unmet.find((one) => one.what === "toolchain");
    return reason === undefined ? [] : [`${address}: ${reason.text}`];
  });
  if (lacks.length === 0 || lacks.length < rejected.length) return undefined;
  const wanted = toolchain.startsWith("clang") ? "clang, lld and llvm" : (DEBIAN_GCC[arch] ?? "a compiler for it");
  return new LabError("E_TOOLCHAIN_MISSING", `no build server has ${toolchain} for ${arch}\n${lacks.join("\n")}`, {
    hint: `install it on one of them (Debian: ${wanted}), or name one of those that are there as \`toolchain:\``,
  });
}

/** Pure. With the CROSS_COMPILE that the spec gives for it, where it does: its tools need not be called as it is. */
export function prefixed(compiler: Toolchain, said: ServerDesired["toolchains"] = []): Toolchain {
  const own = said.find((one) => one.name === compiler.name && one.arch === compiler.arch)?.cross_compile;
  return own === undefined ? compiler : { ...compiler, cross_compile: own };
}

/** A toolchain that the spec says will be there, though it is not yet: the apply that brings it goes first. */
function declared(
  desired: Partial<ServerDesired>,
  wanted: { readonly toolchain: string; readonly arch: string },
): NonNullable<Candidate["toolchains"]> {
  const matches = (desired.toolchains ?? []).some(
    (one) => one.arch === wanted.arch && (one.name === wanted.toolchain || one.name.endsWith(`-${wanted.toolchain}`)),
  );
  return matches ? [{ name: wanted.toolchain, arch: wanted.arch, version: "" }] : [];
}

/** A server that cannot be looked at: what the spec says of it, and what was last seen, tell whether it could do at all. */
function unseen(
  entry: InventoryEntry,
  host: InventoryEntry | undefined,
  wanted: { readonly toolchain: string; readonly arch: string },
  standing: ReturnType<typeof standingOf>,
  error: unknown,
): Pick<Candidate, "status" | "why" | "decommissioned" | "arch" | "also" | "toolchains"> {
  const seen = (entry.observed?.["toolchains"] ?? []) as unknown as readonly Toolchain[];
  const said = ((entry.desired as Partial<ServerDesired>).toolchains ?? []).map(({ name, arch }) => ({
    name,
    arch,
    version: "",
  }));
  const compiler = compilerFor(seen, wanted.toolchain, wanted.arch);
  return {
    status: "offline",
    why: error instanceof Error ? error.message : String(error),
    ...standing,
    arch: text(host?.desired["arch"]) ?? text(entry.observed?.["arch"]) ?? wanted.arch,
    also: [...[...seen, ...said].map((one) => one.arch), ...(entry.observed === undefined ? [wanted.arch] : [])],
    toolchains: [
      ...seen,
      ...said,
      // Of a server that was never seen nobody can say what it has: it is not ruled out.
      ...(compiler !== undefined || entry.observed === undefined
        ? [{ name: wanted.toolchain, arch: wanted.arch, version: compiler?.version ?? "" }]
        : []),
    ],
  };
}

function labelsOf(host: InventoryEntry | undefined): Pick<Candidate, "labels" | "group"> {
  const labels = host?.desired["labels"];
  const group = text(host?.desired["group"]);
  return {
    ...(labels !== null &&
      typeof labels === "object" &&
      !Array.isArray(labels) && {
        labels: labels as Readonly<Record<string, string>>,
      }),
    ...(group !== undefined && { group }),
  };
}

function text(value: Plain | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}
