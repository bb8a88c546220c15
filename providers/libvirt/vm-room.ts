import {
  type Address,
  type Allocation,
  explainChoice,
  type KindContext,
  LabError,
  lastSegment,
  nextCandidate,
  type OperationContext,
  passes,
  type Placement,
  placementOf,
  readRequirements,
  type Selection,
  selectionError,
} from "../../src/index.ts";
import { allocateHost, type Guest, HOST_FAILURES, previewHost } from "./environment-select.ts";
import { type Arch, archOf } from "./model/arch.ts";
import { roomOf } from "./model/vm-resolve.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import { hostAddress, requireHost } from "./on-host.ts";
import { needsLibvirt } from "./plain/support.ts";
import { thingsOf, type Used, whereThingsAre } from "./things.ts";
import type { VmObserved } from "./vm-model.ts";

interface Who {
  readonly address: Address;
  readonly desired: VmDesired;
  readonly instance_id: string;
}

/**
 * The rules of environments hold for machines too: `max_vms`, `max_utilization`, processors, memory, a cordon. Only of hosts
 * that say `qemu_host`: of others nobody knows what they may give.
 */
function guestOf(ctx: KindContext, item: Who): Guest | undefined {
  const { desired, address, instance_id } = item;
  const named = hostAddress(desired);
  if (desired.type === "container") return undefined;
  if (named !== undefined && !ctx.inventory.all("qemu_host").some((one) => one.parent === named)) return undefined;
  const requires = readRequirements(desired.requires as Parameters<typeof readRequirements>[0]);
  const only = desired.host ?? whereThingsAre(ctx, address, used(item));
  return {
    address,
    instance_id,
    arch: desired.arch ?? archOf(requires.arch ?? "") ?? ownArch(ctx, named) ?? "x86_64",
    ...roomOf(desired, address),
    requires,
    ...(only !== undefined && { host: only }),
    environments: 0,
    libvirt: needsLibvirt(desired),
  };
}

/** What a host is itself, as it was seen, or as its spec says. */
function ownArch(ctx: KindContext, host: Address | undefined): Arch | undefined {
  const entry = host === undefined ? undefined : ctx.inventory.get(host);
  const said = entry?.observed?.["arch"] ?? entry?.desired["arch"];
  return typeof said === "string" ? archOf(said) : undefined;
}

function used({ desired }: Who): Used {
  return {
    volumes: (desired.disks ?? []).flatMap((disk) => disk.volume ?? []),
    networks: (desired.networks ?? []).flatMap((nic) => (typeof nic === "string" ? nic : (nic.network ?? []))),
  };
}

/** E_SPEC_VALUE where a volume that it uses is on another host. A network of that name may be the host's own. */
export function requireNear(ctx: KindContext, item: Who, host: Address): void {
  const name = lastSegment(host).key;
  const far = thingsOf(ctx, used(item)).find((one) => one.what.startsWith("volume.") && one.host !== name);
  if (far === undefined) return;
  throw new LabError("E_SPEC_VALUE", `${far.what} is on ${far.host}, and the machine on ${name ?? host}`, {
    address: item.address,
    hint: "put both on one host",
  });
}

/** Where a new machine would go, and why; no host: it has to wait for one. */
export interface Choice {
  readonly host?: Address | undefined;
  /** Absent where its spec names the host: then there is no choice. */
  readonly placement?: Placement | undefined;
}

/**
 * The host that a new machine would go to. @throws LabError E_NEVER_FITS where none will have room for it; E_BUSY where none has it
 * now, and it may not wait or would wait for nothing
 */
export async function choose(ctx: KindContext, item: Who): Promise<Choice> {
  const guest = guestOf(ctx, item);
  if (guest === undefined) return { host: requireHost(item) };
  const selection = await preview(ctx, guest);
  const placement = item.desired.host === undefined ? placementOf(selection) : undefined;
  return { ...(selection.verdict === "chosen" && { host: selection.ranking[0]?.address }), placement };
}

/** What would be decided now; what has to wait and may is fine. Rejects with E_NEVER_FITS, E_BUSY. */
async function preview(ctx: KindContext, guest: Guest): Promise<Selection> {
  const { request, selection } = await previewHost(ctx, guest);
  const waits = ctx.noWait !== true && selection.rejected.some(({ unmet }) => unmet.every(passes));
  if (selection.verdict === "chosen" || (selection.verdict === "busy" && waits)) return selection;
  throw selectionError(request, selection);
}

/** What a machine takes of its host, as it was seen. */
type Seen = Pick<VmObserved, "cpus" | "memory">;

/** A machine that is to take more of its host than it does, or less. Undefined: neither, or its host gives without counting. */
function resized(
  ctx: KindContext,
  item: Who,
  host: Address,
  seen: Seen,
): (Guest & { readonly grows: boolean }) | undefined {
  const key = lastSegment(host).key;
  const guest = guestOf(ctx, { ...item, desired: { ...item.desired, ...(key !== undefined && { host: key }) } });
  const [cpus, memory] = [seen.cpus?.["max"], seen.memory?.["max"]];
  if (guest === undefined || typeof cpus !== "number" || typeof memory !== "number") return undefined;
  if (guest.cpus === cpus && guest.memory === memory) return undefined;
  return { ...guest, grows: guest.cpus > cpus || guest.memory > memory };
}

/** For plans: a machine that is there and is to grow beyond what its host will ever have is refused, as a new one would be. */
export async function refuseGrowth(ctx: KindContext, item: Who, host: Address, seen: Seen): Promise<void> {
  const guest = resized(ctx, item, host, seen);
  if (guest?.grows === true) await preview(ctx, guest);
}

/** Changes a machine that is there: room that it lacks is taken first, and what it no longer needs given back afterwards. */
export async function withinRoom<T>(
  ctx: OperationContext,
  item: Who,
  host: Address,
  seen: Seen,
  change: () => Promise<T>,
): Promise<T> {
  const guest = resized(ctx, item, host, seen);
  if (guest?.grows === true) await (await allocateHost(ctx, guest, { sticky: host })).hold(Infinity);
  const changed = await change();
  if (guest?.grows === false) {
    // A host that takes nothing just now (maintenance) cannot be asked for less either: then it keeps what it had.
    await allocateHost(ctx, guest, { sticky: host, wait: false })
      .then((room) => room.hold(Infinity))
      .catch((error: unknown) => ctx.log("warn", `${item.address} keeps the room that it had: ${String(error)}`));
  }
  return changed;
}

/**
 * Takes room for a new machine and makes it there; where a host fails, and none is named, the next that fits is tried. `make` calls
 * `defined` as soon as whoever looks at the host can see the machine. `clear` takes away what a failed try left.
 */
export async function bringUp<T>(
  ctx: OperationContext,
  item: Who,
  make: (host: Address, defined: () => Promise<void>) => Promise<T>,
  clear: (host: Address) => Promise<void>,
): Promise<T> {
  const guest = guestOf(ctx, item);
  if (guest === undefined) return await make(requireHost(item), async () => await Promise.resolve());
  const failed = new Set<Address>();
  let last: LabError | undefined;
  for (;;) {
    // Another host is only tried where it is free: a failure is not waited out.
    const room: Allocation = await allocateHost(ctx, guest, { failed, wait: last === undefined }).catch(
      (error: unknown) => {
        throw last ?? error;
      },
    );
    const host = room.address;
    if (item.desired.host === undefined) {
      ctx.log("info", `${item.address}: on ${explainChoice(room.selection, host)}`);
      // Until it is made only this says where to look for what was begun.
      await ctx.checkpoint("placing", { host });
    }
    try {
      return await make(host, () => room.hold(Infinity));
    } catch (error) {
      if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
      failed.add(host);
      const next = HOST_FAILURES.has(error.code) ? nextCandidate(room.selection.ranking, failed) : undefined;
      if (item.desired.host !== undefined || next === undefined) throw error;
      ctx.log("warn", `${item.address} failed on ${host}: trying ${next.address}: ${error.message}`);
      last = error;
      await clear(host).catch((left: unknown) =>
        ctx.log("warn", `what is left on ${host} could not be taken away: ${String(left)}`),
      );
      await room.release();
    }
  }
}
