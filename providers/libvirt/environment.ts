import {
  type Address,
  defineKind,
  explainChoice,
  type Item,
  type KindContext,
  LabError,
  nextCandidate,
  type OperationContext,
  parseSize,
  type Plain,
  type Reading,
  type ReconcileItem,
  selectionError,
} from "../../src/index.ts";
import { digestOf } from "./boot-file.ts";
import { requireDiskLimit } from "./disk-limit.ts";
import { clear, deploy, findDomain, mark, stop } from "./environment-deploy.ts";
import { afterFailure, clearQuietly, wellBoot } from "./environment-failure.ts";
import { bootImages, derivedDigests } from "./environment-images.ts";
import {
  cmdlineOf,
  diskSizesOf,
  environmentAttributes,
  type EnvironmentDesired,
  type EnvironmentObserved,
  environmentSchema,
} from "./environment-model.ts";
import { observe } from "./environment-observe.ts";
import { type Deployment, ENVIRONMENTS } from "./environment-place.ts";
import { allocateHost, guestOf, hostFor, HOST_FAILURES, previewHost } from "./environment-select.ts";
import { pinnedLogin } from "./environment-ssh.ts";
import type { Ready } from "./environment-verify.ts";
import { libvirtHosts, qemuHost } from "./host-facts.ts";
import { uuidOf } from "./model/ids.ts";
import { CLOCK_HINT } from "./model/vm-resolve.ts";
import { reachGuest } from "./reach.ts";

type EnvironmentItem = Item<EnvironmentDesired, EnvironmentObserved>;

const CLOCK_ARGUMENT = new RegExp(String.raw` ${CLOCK_HINT}=\d+$`);

/** Which property of the spec a digest comes from, and whether a machine may do without. */
const PARTS: Readonly<Record<string, { readonly from: string; readonly optional?: true }>> = {
  kernel_digest: { from: "boot.kernel" },
  initrd_digest: { from: "boot.initrd", optional: true },
  rootfs_digest: { from: "boot.rootfs", optional: true },
  modules_digest: { from: "boot.modules", optional: true },
  release: { from: "boot.release" },
};

function readyOf(desired: Pick<EnvironmentDesired, "boot">): Ready {
  return desired.boot.ready ?? "init";
}

/** @throws LabError E_SPEC_VALUE where it is to be logged in to and no way leads to it */
function requireCard({ address, desired }: EnvironmentItem): void {
  if (readyOf(desired) !== "ssh" || (desired.vm.networks ?? []).length > 0) return;
  throw new LabError(
    "E_SPEC_VALUE",
    `${address} is up when it can be logged in to (boot.ready: ssh), and has no network`,
    {
      address,
      hint: "name one of `networks:` under `vm: { networks }`, or wait for something on its console: `ready: login`",
    },
  );
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

async function read(ctx: KindContext, item: EnvironmentItem): Promise<Reading<EnvironmentObserved>> {
  let why: LabError | undefined;
  for (const address of whereabouts(ctx, item)) {
    try {
      const host = await qemuHost(ctx, address);
      const domain = await findDomain(host, item.instance_id, ctx.signal);
      if (domain !== undefined)
        return { is: "present", value: await observe(ctx, host, domain, item, readyOf(item.desired)) };
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
  const guest = guestOf(ctx, address, instance_id, desired);
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

export const environment = defineKind({
  kind: "environment",
  title: "An environment",
  description: `A machine with the software that is to be tried: leased from the lab, booted, and shown to be up. labctl selects a QEMU host,
places the kernel there, with its initial RAM disk, root file system and modules, boots them, and follows the console from its first
byte: a panic, a hang or silence is seen at once, and the kernel that came up must be the one that was placed.

Where a host fails, the next one that fits is tried.`,
  section: { name: "environments", document: "pipeline", shape: "map", key: "name" },
  schema: environmentSchema,
  attributes: environmentAttributes,
  ownership: "exclusive",
  stages: ["allocate", "transfer", "boot", "verify"],

  awaits: (_desired, lab) => lab.filter((one) => one.kind === "qemu_host").map((one) => one.address),

  reach: (ctx, item) =>
    reachGuest(ctx, {
      address: item.address,
      hosts: whereabouts(ctx, item),
      uuid: uuidOf(item.instance_id),
      login: (host) => pinnedLogin(ctx.machine(host), item, ctx.signal),
    }),

  restore: (desired, good) => {
    const boot = wellBoot(desired, good);
    return good.ready && boot !== undefined ? { boot } : undefined;
  },

  async prepare(ctx, item) {
    hostFor(ctx, item.address, item.desired);
    requireCard(item);
    await requireDiskLimit(ctx, item.address);
    if (item.prior?.observed === undefined) {
      const { request, selection } = await previewHost(ctx, guestOf(ctx, item.address, item.instance_id, item.desired));
      if (selection.verdict === "never") throw selectionError(request, selection);
    }
    return derivedDigests(ctx, item.address, item.desired, item.unknown);
  },

  async readMany(ctx, items) {
    return new Map(await Promise.all(items.map(async (item) => [item.address, await read(ctx, item)] as const)));
  },

  diff({ desired, observed, unknown }) {
    const wanted: Readonly<Record<string, Plain | undefined>> = {
      kernel_digest: desired.kernel_digest ?? digestOf(desired.boot.kernel),
      initrd_digest: desired.initrd_digest ?? digestOf(desired.boot.initrd),
      rootfs_digest: desired.rootfs_digest ?? digestOf(desired.boot.rootfs),
      modules_digest: desired.modules_digest ?? digestOf(desired.boot.modules),
      cmdline: cmdlineOf(desired, desired.boot.rootfs !== undefined || unknown.has("boot.rootfs")),
      arch: desired.vm.arch ?? "x86_64",
      cpus: desired.vm.cpus ?? 1,
      memory: parseSize(desired.vm.memory ?? "1GiB"),
      ...(desired.vm.machine !== undefined && { machine: desired.vm.machine }),
      networks: desired.vm.networks ?? [],
      disks: diskSizesOf(desired),
      running: true,
      ready: true,
      // A console that does not tell proves nothing.
      ...(observed.release !== undefined && { release: desired.boot.release }),
    };
    const seen: Readonly<Record<string, Plain | undefined>> = observed;
    return Object.entries(wanted).flatMap(([path, after]) => {
      const before = seen[path];
      const { from, optional } = PARTS[path] ?? {};
      // What is yet to be built is another one than what is there; and what the spec has no more is there no more.
      if (
        from !== undefined &&
        (unknown.has(from) || (optional === true && after === undefined && before !== undefined))
      ) {
        return [{ path, ...(before !== undefined && { before }), effect: "restart" as const }];
      }
      if (after === undefined || JSON.stringify(before) === JSON.stringify(after)) return [];
      // The clock's frequency, which a microvm is told, is nobody's wish: see vm-resolve.ts.
      if (path === "cmdline" && typeof before === "string" && before.replace(CLOCK_ARGUMENT, "") === after) return [];
      // libvirt writes a machine type with its version.
      if (path === "machine" && typeof before === "string" && typeof after === "string" && before.includes(after))
        return [];
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
      if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
      if (error.code === "E_NEVER_FITS" || error.code === "E_BUSY") throw error;
      // Found out before anything was stopped: what runs goes on.
      if (error.code === "E_IMAGE_FORMAT" && item.observed !== undefined) throw error;
      throw await afterFailure(ctx, item, error);
    }
    const found = await qemuHost(ctx, host);
    const domain = await findDomain(found, item.instance_id, ctx.signal);
    if (domain === undefined)
      throw new LabError("E_MISMATCH", `${item.address} is gone from ${host} again`, { retryable: true });
    return observe(ctx, found, domain, item, readyOf(item.desired));
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
