import {
  type Address,
  defineKind,
  explainChoice,
  type Item,
  type KindContext,
  LabError,
  type Machine,
  nextCandidate,
  type OperationContext,
  parseSize,
  type Reading,
  type ReconcileItem,
  selectionError,
  sh,
} from "../../src/index.ts";
import { clear, deploy, type Deployment, ENVIRONMENTS, findDomain, mark, stop } from "./environment-deploy.ts";
import { bootImages, derivedDigests, digestOf } from "./environment-images.ts";
import {
  cmdlineOf,
  environmentAttributes,
  type EnvironmentDesired,
  type EnvironmentObserved,
  environmentSchema,
} from "./environment-model.ts";
import { allocateHost, guestOf, HOST_FAILURES, previewHost } from "./environment-select.ts";
import { type ConsoleReading, readConsole, type Ready } from "./environment-verify.ts";
import { libvirtHosts, qemuHost, type QemuHost, uriOf } from "./host-facts.ts";
import { uuidOf } from "./model/ids.ts";
import { CLOCK_HINT } from "./model/vm-resolve.ts";
import { reachGuest } from "./reach.ts";
import type { Domain } from "./rpc/index.ts";
import { observeDomain } from "./xml/domain-observe.ts";

type EnvironmentItem = Item<EnvironmentDesired, EnvironmentObserved>;

/** Most of a console that is read back: a boot's worth. Bytes. */
const CONSOLE = 1 << 20;

const CLOCK_ARGUMENT = new RegExp(String.raw` ${CLOCK_HINT}=\d+$`);

function readyOf(desired: Pick<EnvironmentDesired, "boot">): Ready {
  return desired.boot.ready ?? "init";
}

/** Where it may be: where it was last seen, where an interrupted deployment was, and every other host of the lab. */
function whereabouts(ctx: KindContext, item: EnvironmentItem): Address[] {
  const said = item.prior?.checkpoint?.data;
  const interrupted =
    said !== null && typeof said === "object" && !Array.isArray(said) ? said["host" as never] : undefined;
  const known = [item.prior?.observed?.host, typeof interrupted === "string" ? (interrupted as string) : undefined];
  const others = item.prior === undefined ? [] : libvirtHosts(ctx);
  return [...new Set([...known, ...others])].filter((one): one is Address => one !== undefined);
}

async function observe(ctx: KindContext, host: QemuHost, domain: Domain, ready: Ready): Promise<EnvironmentObserved> {
  const options = { signal: ctx.signal };
  const { domains } = host.libvirt;
  const running = await domains.isActive(domain, options);
  const model = observeDomain(await domains.xml(domain, options), {
    running,
    autostart: await domains.autostart(domain, options),
  });
  const { log } = model.console;
  const seen = readConsole(log === undefined ? Buffer.alloc(0) : await recorded(host.machine, log, ctx.signal), ready);
  const kernel = digestIn(model.boot?.kernel);
  const initrd = digestIn(model.boot?.initrd);
  return {
    host: host.address,
    domain: model.name,
    running,
    ready: running && seen.ready,
    status: statusOf(running, seen),
    ...(seen.release !== undefined && { release: seen.release }),
    ...(seen.buildId !== undefined && { build_id: seen.buildId }),
    ...(kernel !== undefined && { kernel_digest: kernel }),
    ...(initrd !== undefined && { initrd_digest: initrd }),
    ...(model.boot?.cmdline !== undefined && { cmdline: model.boot.cmdline }),
    arch: model.arch,
    machine: model.machine,
    cpus: model.cpus.count,
    memory: model.memory.size,
    ...(log !== undefined && { console: log }),
    ...(seen.problem !== undefined && { problem: seen.problem }),
  };
}

/** What the machine shows of its deployment. Pure. */
export function statusOf(
  running: boolean,
  seen: Pick<ConsoleReading, "ready" | "problem">,
): NonNullable<EnvironmentObserved["status"]> {
  if (!running || seen.problem !== undefined) return "failed";
  return seen.ready ? "completed" : "unverified";
}

async function recorded(machine: Machine, log: string, signal: AbortSignal): Promise<Buffer> {
  const result = await machine.exec(sh`head -c ${CONSOLE} -- ${log} 2>/dev/null || true`, { signal, keep: CONSOLE });
  return result.stdout;
}

/** Names of what was placed end in its digest. */
function digestIn(path: string | undefined): string | undefined {
  return path === undefined ? undefined : /-([0-9a-f]{64})$/.exec(path)?.[1];
}

async function read(ctx: KindContext, item: EnvironmentItem): Promise<Reading<EnvironmentObserved>> {
  let why: LabError | undefined;
  for (const address of whereabouts(ctx, item)) {
    try {
      const host = await qemuHost(ctx, address);
      const domain = await findDomain(host, item.instance_id, ctx.signal);
      if (domain !== undefined)
        return { is: "present", value: await observe(ctx, host, domain, readyOf(item.desired)) };
    } catch (error) {
      if (!(error instanceof LabError) || error.code === "E_CANCELLED") throw error;
      // A host that cannot be asked matters where it was there; elsewhere it never was.
      if (address === item.prior?.observed?.host) why = error;
    }
  }
  return why === undefined ? { is: "absent" } : { is: "unreachable", why };
}

/** Tries the approved hosts in their order until one boots it. */
async function bringUp(
  ctx: OperationContext,
  item: ReconcileItem<EnvironmentDesired, EnvironmentObserved>,
  deployment: Deployment,
): Promise<Address> {
  const { desired, address, instance_id } = item;
  const seen = item.observed?.host ?? item.prior?.observed?.host;
  await mark(ctx, "pending", { ...(seen !== undefined && { host: seen }) });
  const guest = guestOf(address, instance_id, desired);
  const failed = new Set<Address>();
  let last: LabError | undefined;
  for (;;) {
    const allocation = await ctx
      .stage("allocate", () =>
        // Another host is only tried where it is free: a failure is not waited out.
        allocateHost(ctx, guest, { sticky: seen, failed, wait: last === undefined }),
      )
      .catch((error: unknown) => {
        throw last ?? error;
      });
    const host = allocation.address;
    ctx.log("info", `${address}: deploying on ${explainChoice(allocation.selection, host)}`);
    const before = item.observed?.host;
    if (before !== undefined && before !== host) await clear(await qemuHost(ctx, before), instance_id, ctx.signal);
    try {
      await deploy(ctx, host, deployment);
      await allocation.hold(Infinity);
      return host;
    } catch (error) {
      if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
      const booted = error.code === "E_BOOT_CRASHED" || error.code === "E_BOOT_HUNG";
      failed.add(host);
      const left =
        booted || HOST_FAILURES.has(error.code) ? nextCandidate(allocation.selection.ranking, failed) : undefined;
      ctx.log("warn", `${address} failed on ${host}${left === undefined ? "" : `: trying ${left.address}`}`);
      if (left === undefined) {
        // What is left of it keeps its room until it is known what becomes of it; the failure says more than a room that is lost.
        await allocation.hold(Infinity).catch(() => undefined);
        throw error;
      }
      last = error;
      await clearQuietly(ctx, host, instance_id);
      await allocation.release();
    }
  }
}

async function clearQuietly(ctx: OperationContext, host: Address, instance_id: string): Promise<void> {
  try {
    await clear(await qemuHost(ctx, host), instance_id, ctx.signal);
  } catch (error) {
    ctx.log(
      "warn",
      `what is left on ${host} could not be taken away: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

/** What to do with a deployment that no host booted. */
async function afterFailure(
  ctx: OperationContext,
  item: ReconcileItem<EnvironmentDesired, EnvironmentObserved>,
  error: LabError,
): Promise<LabError> {
  const how = item.desired.on_failure ?? "cleanup";
  const good = item.prior?.observed;
  const known = good?.kernel_digest;
  const hosts = libvirtHosts(ctx);
  if (how === "rollback" && good !== undefined && known !== undefined) {
    const desired: EnvironmentDesired = {
      ...item.desired,
      boot: {
        ...item.desired.boot,
        kernel: `sha256:${known}`,
        ...(good.initrd_digest !== undefined && { initrd: `sha256:${good.initrd_digest}` }),
        ...(good.cmdline !== undefined && { cmdline: good.cmdline }),
        ...(good.release !== undefined && { release: good.release }),
      },
    };
    try {
      await ctx.stage("rollback", async () =>
        deploy(ctx, good.host, {
          address: item.address,
          instance_id: item.instance_id,
          desired,
          images: await bootImages(ctx, item.address, desired),
        }),
      );
      await mark(ctx, "rolled_back", { host: good.host });
      return new LabError(
        error.code,
        `${error.message}\nrolled back to the kernel ${known.slice(0, 12)} on ${good.host}`,
        {
          address: item.address,
          ...(error.hint !== undefined && { hint: error.hint }),
          cause: error,
        },
      );
    } catch (cause) {
      ctx.log("error", `the rollback failed too: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
  }
  const offer =
    how !== "rollback" && good?.ready === true && known !== undefined
      ? [`\`labctl rollback ${item.address}\` goes back to what booted last`]
      : [];
  // What runs, and only was not seen to be up, may yet be.
  if (how === "keep" || error.code === "E_BOOT_UNVERIFIED")
    return hinted(error, item.address, [...(await keptHint(ctx, item, hosts)), ...offer]);
  for (const host of hosts) await clearQuietly(ctx, host, item.instance_id);
  await ctx.scheduler.release(item.address);
  return hinted(error, item.address, offer);
}

/** How to look at a machine that is left as it is, and how to let it go. Empty where nothing of it is there. */
async function keptHint(
  ctx: OperationContext,
  item: ReconcileItem<EnvironmentDesired, EnvironmentObserved>,
  hosts: readonly Address[],
): Promise<string[]> {
  for (const address of hosts) {
    try {
      const domain = await findDomain(await qemuHost(ctx, address), item.instance_id, ctx.signal);
      if (domain === undefined) continue;
      return [
        `it is kept on ${address}: \`labctl ssh ${address}\`, and there \`virsh -c ${uriOf(ctx, address)} console ${domain.name}\``,
        `\`labctl destroy --target ${item.address}\` lets it go`,
      ];
    } catch (error) {
      if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
    }
  }
  return [];
}

function hinted(error: LabError, address: Address, more: readonly string[]): LabError {
  if (more.length === 0) return error;
  return new LabError(error.code, error.message, {
    address,
    hint: [...(error.hint === undefined ? [] : [error.hint]), ...more].join("; "),
    retryable: error.retryable,
    cause: error,
  });
}

export const environment = defineKind({
  kind: "environment",
  title: "An environment",
  description: `A machine with the software that is to be tried: leased from the lab, booted, and shown to be up. labctl selects a QEMU host,
places the kernel and the initial RAM disk there, boots them, and follows the console from its first byte: a panic, a hang
or silence is seen at once, and the kernel that came up must be the one that was placed.

Where a host fails, the next one that fits is tried.`,
  section: { name: "environments", document: "pipeline", shape: "map", key: "name" },
  schema: environmentSchema,
  attributes: environmentAttributes,
  ownership: "exclusive",
  stages: ["allocate", "transfer", "boot", "verify"],

  awaits: (_desired, lab) => lab.filter((one) => one.kind === "qemu_host").map((one) => one.address),

  reach: (ctx, item, context) =>
    reachGuest(ctx, {
      address: item.address,
      hosts: whereabouts(ctx, item),
      uuid: uuidOf(item.instance_id),
      context,
    }),

  restore: (desired, good) => {
    const { artifact: _query, initrd: _initrd, ...boot } = desired.boot;
    if (!good.ready || good.kernel_digest === undefined) return undefined;
    return {
      boot: {
        ...boot,
        kernel: `sha256:${good.kernel_digest}`,
        ...(good.initrd_digest !== undefined && { initrd: `sha256:${good.initrd_digest}` }),
        ...(good.cmdline !== undefined && { cmdline: good.cmdline }),
        ...(good.release !== undefined && { release: good.release }),
      },
    };
  },

  async prepare(ctx, item) {
    if (item.prior?.observed === undefined) {
      const { request, selection } = await previewHost(ctx, guestOf(item.address, item.instance_id, item.desired));
      if (selection.verdict === "never") throw selectionError(request, selection);
    }
    return derivedDigests(ctx, item.address, item.desired, item.unknown);
  },

  async readMany(ctx, items) {
    return new Map(await Promise.all(items.map(async (item) => [item.address, await read(ctx, item)] as const)));
  },

  diff({ desired, observed, unknown }) {
    const wanted: Record<string, string | number | boolean | undefined> = {
      kernel_digest: desired.kernel_digest ?? digestOf(desired.boot.kernel),
      initrd_digest: desired.initrd_digest ?? digestOf(desired.boot.initrd),
      cmdline: cmdlineOf(desired),
      arch: desired.vm.arch ?? "x86_64",
      cpus: desired.vm.cpus ?? 1,
      memory: parseSize(desired.vm.memory ?? "1GiB"),
      ...(desired.vm.machine !== undefined && { machine: desired.vm.machine }),
      running: true,
      ready: true,
      // A console that does not tell proves nothing.
      ...(observed.release !== undefined && { release: desired.boot.release }),
    };
    const seen = observed as unknown as Readonly<Record<string, string | number | boolean | undefined>>;
    const coming: Readonly<Record<string, string>> = {
      kernel_digest: "boot.kernel",
      initrd_digest: "boot.initrd",
      release: "boot.release",
    };
    return Object.entries(wanted).flatMap(([path, after]) => {
      const before = seen[path];
      // What is yet to be built is another one than what is there.
      if (unknown.has(coming[path] ?? "")) {
        return [{ path, ...(before !== undefined && { before }), effect: "restart" as const }];
      }
      if (after === undefined || before === after) return [];
      // The clock's frequency, which a microvm is told, is nobody's wish: see vm-resolve.ts.
      if (path === "cmdline" && typeof before === "string" && before.replace(CLOCK_ARGUMENT, "") === after) return [];
      // libvirt writes a machine type with its version.
      if (path === "machine" && typeof before === "string" && before.includes(String(after))) return [];
      return [{ path, ...(before !== undefined && { before }), after, effect: "restart" as const }];
    });
  },

  async reconcile(ctx, item) {
    const images = await bootImages(ctx, item.address, item.desired);
    const deployment = { address: item.address, instance_id: item.instance_id, desired: item.desired, images };
    let host: Address;
    try {
      host = await bringUp(ctx, item, deployment);
    } catch (error) {
      if (
        !(error instanceof LabError) ||
        ctx.signal.aborted ||
        error.code === "E_NEVER_FITS" ||
        error.code === "E_BUSY"
      )
        throw error;
      throw await afterFailure(ctx, item, error);
    }
    const found = await qemuHost(ctx, host);
    const domain = await findDomain(found, item.instance_id, ctx.signal);
    if (domain === undefined)
      throw new LabError("E_MISMATCH", `${item.address} is gone from ${host} again`, { retryable: true });
    return observe(ctx, found, domain, readyOf(item.desired));
  },

  async delete(ctx, item) {
    for (const address of whereabouts(ctx, item)) {
      const host = await qemuHost(ctx, address);
      await stop(host, item.instance_id, ctx.signal);
      await clear(host, item.instance_id, ctx.signal);
    }
    await ctx.scheduler.release(item.address);
  },

  manualCleanup: (item) =>
    `on ${item.prior?.observed?.host ?? "its host"}: virsh destroy and undefine ${item.prior?.observed?.domain ?? item.desired.name}; rm -rf ${ENVIRONMENTS}/${item.instance_id}`,
});
