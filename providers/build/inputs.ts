import { homedir } from "node:os";
import { type KindContext, LabError, parseDuration, Sensitive, type ShellText, userScript } from "../../src/index.ts";
import type { KernelArch, KernelBuild, RunBuild } from "./build-script.ts";
import type { BuildDesired } from "./build-model.ts";
import type { BuildInputs } from "./digest.ts";
import { instrumentMap, planInstruments, requireInstruments, type WantedInstruments } from "./instrumentation.ts";
import { checkKernelTree } from "./kernel-tree.ts";
import { configSource, mergeConfig, type MergedConfig, parseFragment } from "./kernel-config.ts";
import type { BuildSource } from "./build-types.ts";
import { type HashCache, scanDirectory } from "./source-directory.ts";
import { localGit, machineGit, resolveGit } from "./source-git.ts";
import { checkTarball, isRemoteTarball } from "./source-tarball.ts";
import { splitUrl } from "./source-url.ts";
import type { PoolServer } from "./pool.ts";
import type { Toolchain } from "./toolchains.ts";

/** A build as it is asked for: everything but the compiler that will do it. */
export interface PreparedBuild {
  readonly source: BuildSource;
  /** What the source is, without its version: see PathInputs. */
  readonly sourceName: string;
  readonly commit?: string;
  readonly branch?: string;
  readonly work: KernelBuild | RunBuild;
  readonly config?: MergedConfig;
  /** Values of secrets are Sensitive. */
  readonly env: Readonly<Record<string, string | Sensitive<string>>>;
  /** Milliseconds. */
  readonly timeout: number;
}

const hashes: HashCache = new Map();

/** Reads what the spec names, and resolves the source. Changes nothing anywhere. `servers`: who else may know the repository. */
export async function prepareBuild(
  ctx: KindContext,
  desired: BuildDesired,
  sensitive: ReadonlySet<string>,
  servers: readonly PoolServer[],
): Promise<PreparedBuild> {
  const env = Object.fromEntries(
    Object.entries(desired.env ?? {}).map(([name, value]) => [
      name,
      sensitive.has(`env.${name}`) || sensitive.has("env") ? new Sensitive(String(value)) : String(value),
    ]),
  );
  const arch = desired.arch ?? "x86_64";
  const common = { env, timeout: parseDuration(desired.timeout ?? "2h") ?? 7_200_000 };
  const found = await resolveSource(ctx, desired, sensitive, servers);
  if (desired.kernel === undefined) {
    const run: ShellText = userScript(desired.run ?? "");
    const outputs = Object.fromEntries(
      Object.entries(desired.outputs ?? {}).map(([name, one]) => [
        name,
        typeof one === "string" ? { path: one } : { path: one.path, ...(one.type !== undefined && { type: one.type }) },
      ]),
    );
    return { ...common, ...found, work: { type: "run", arch, run, outputs } };
  }
  const { kernel } = desired;
  const defconfig = kernel.defconfig ?? "defconfig";
  if (arch === "x86_64" && kernel.dtbs !== undefined && kernel.dtbs !== false) {
    throw new LabError("E_SPEC_VALUE", "`dtbs`: kernels for x86_64 have no device trees", {
      hint: "leave it out, or build for arm64, armv7 or riscv64",
    });
  }
  if (found.source.type === "directory") await checkKernelTree(found.source.scan, arch as KernelArch, defconfig);
  const config = await mergedConfig(ctx, desired, arch);
  return {
    ...common,
    ...found,
    config,
    work: {
      type: "kernel",
      arch: arch as KernelArch,
      base: { defconfig },
      modules: kernel.modules ?? false,
      dtbs: kernel.dtbs ?? false,
      makeArgs: kernel.make_args ?? [],
    },
  };
}

async function mergedConfig(ctx: KindContext, desired: BuildDesired, arch: string): Promise<MergedConfig> {
  const { kernel } = desired;
  const fragments = await Promise.all(
    (kernel?.fragments ?? []).map(async (path) => parseFragment(path, (await ctx.local.read(path)).toString("utf8"))),
  );
  const own = configSource("config", kernel?.config ?? {});
  const explicit = mergeConfig([...fragments, own]);
  const wanted = instrumentMap((kernel?.instrumentation ?? []) as readonly string[] | WantedInstruments);
  const [, family, version] = /^(?:.*-)?(gcc|clang)(?:-([0-9.]+))?$/.exec(desired.toolchain ?? "gcc") ?? [];
  const target = {
    arch,
    ...((family === "gcc" || family === "clang") &&
      version !== undefined && { compiler: { family, version } as const }),
  };
  const plan = requireInstruments(planInstruments(wanted, target, explicit.requests));
  // Without it a kernel has none, and make says so of each and fails at none.
  const modules = kernel?.modules === true ? [configSource("modules: true", { MODULES: "y" })] : [];
  return mergeConfig([...fragments, ...plan.sources, own, ...modules]);
}

async function resolveSource(
  ctx: KindContext,
  desired: BuildDesired,
  sensitive: ReadonlySet<string>,
  servers: readonly PoolServer[],
): Promise<Pick<PreparedBuild, "source" | "sourceName" | "commit" | "branch">> {
  const { git, ref, depth, path, tarball, sha256 } = desired.source;
  const address = (text: string, name: string): string | Sensitive<string> =>
    sensitive.has(`source.${name}`) ? new Sensitive(text) : text;
  if (path !== undefined) {
    const root = ctx.local.resolve(path);
    const scan = await scanDirectory(root, { cache: hashes, signal: ctx.signal, env: environment() });
    return { source: { type: "directory", scan }, sourceName: root };
  }
  if (tarball !== undefined) {
    const given = { from: address(tarball, "tarball"), sha256: sha256 ?? "" };
    const from = isRemoteTarball(given) ? given.from : ctx.local.resolve(tarball);
    const source = { from, sha256: (sha256 ?? "").toLowerCase() };
    await checkTarball(source);
    return { source: { type: "tarball", source }, sourceName: "tarball" };
  }
  if (git !== undefined && !REACHABLE.test(git)) {
    throw new LabError("E_SPEC_VALUE", "`git`: this path means another place on each machine that reads it", {
      hint: "give a URL, HOST:PATH or an absolute path that the build server can read; a directory beside the spec is `path:`",
    });
  }
  const source = { url: address(git ?? "", "git"), ...(ref !== undefined && { ref }) };
  const resolved = await resolveSomewhere(ctx, source, servers);
  const branch = ref ?? resolved.branch;
  return {
    source: { type: "git", source, resolved, ...(depth !== undefined && { depth }) },
    sourceName: splitUrl(source.url).url,
    commit: resolved.commit,
    ...(branch !== undefined && { branch }),
  };
}

/** A URL, an scp-like address, or an absolute path. */
const REACHABLE = /^(\/|[a-z][a-z0-9+.-]*:\/\/|[^/:]+:)/i;

/** Asked from here, and, where the repository cannot be read from here, from a server that would fetch it. */
async function resolveSomewhere(
  ctx: KindContext,
  source: Parameters<typeof resolveGit>[1],
  servers: readonly PoolServer[],
): Promise<Awaited<ReturnType<typeof resolveGit>>> {
  try {
    return await resolveGit(localGit(environment()), source, ctx.signal);
  } catch (error) {
    const elsewhere = error instanceof LabError && (error.code === "E_SOURCE_FETCH" || error.code === "E_BUILD_TOOL");
    const server = servers.find((one) => one.candidate.status === "online");
    if (!elsewhere || server === undefined) throw error;
    try {
      return await resolveGit(machineGit(ctx.machine(server.address)), source, ctx.signal);
    } catch (there) {
      // What is wrong with the ref is known there alone; that it cannot be reached is told as it is seen from here.
      throw there instanceof LabError && there.code === "E_SOURCE_UNRESOLVED" ? there : error;
    }
  }
}

/** What git needs of the user's own environment. */
function environment(): Record<string, string | undefined> {
  const { PATH, SSH_AUTH_SOCK, GIT_SSH_COMMAND } = process.env;
  return { PATH, SSH_AUTH_SOCK, GIT_SSH_COMMAND, HOME: homedir() };
}

/** All that the build's identity is made of, with the compiler that does it. Values of secrets have no part in it. */
export function inputsOf(prepared: PreparedBuild, compiler: Toolchain): BuildInputs {
  const { source, work, config } = prepared;
  const env = Object.fromEntries(
    Object.entries(prepared.env).map(([name, value]) => [name, typeof value === "string" ? value : "(secret)"]),
  );
  return {
    source:
      source.type === "git"
        ? { type: "git", commit: source.resolved.commit }
        : source.type === "directory"
          ? { type: "directory", digest: source.scan.digest }
          : { type: "tarball", sha256: source.source.sha256 },
    arch: work.arch,
    toolchain: { name: compiler.family, version: compiler.version, target: compiler.machine },
    env,
    work:
      work.type === "run"
        ? { type: "run", run: work.run.text, outputs: work.outputs }
        : {
            type: "kernel",
            base: work.base,
            symbols: Object.fromEntries([...(config?.requests ?? [])].map(([symbol, { value }]) => [symbol, value])),
            modules: work.modules,
            dtbs: work.dtbs,
            make_args: work.makeArgs,
          },
  };
}
