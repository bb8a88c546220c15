import {
  type Address,
  type Item,
  type KindContext,
  LabError,
  type OperationContext,
  type Reading,
  sh,
} from "../../../src/index.ts";
import { hasLibvirt } from "../host-facts.ts";
import { uuidOf } from "../model/ids.ts";
import type { Owner } from "../model/owner.ts";
import type { VmDesired } from "../model/vm-schema.ts";
import { requireSupport } from "../model/vm-support.ts";
import type { VmModel } from "../model/vm.ts";
import { whereabouts } from "../on-host.ts";
import { changesOf, type VmObserved } from "../vm-model.ts";
import { type MadeWith, madeOf, place, wantedVm } from "../vm-place.ts";
import { refuseUnproven } from "../vm-proven.ts";
import { filesOf, writeDefinition } from "./definition.ts";
import { grow, supply } from "./disks.ts";
import { type PlainHost, plainHost } from "./host.ts";
import { findMachine, look, runningNow } from "./look.ts";
import { changeLive, powerOff, start } from "./power.ts";
import { refuseWithoutLibvirt, requirePlain } from "./support.ts";

type VmItem = Item<VmDesired, VmObserved>;

/**
 * Whether QEMU alone has that machine on that host. One that is there stays with what made it, whatever its host says by now; a new
 * one goes by what its host says.
 */
export function isPlain(ctx: KindContext, item: Pick<VmItem, "prior">, host: Address): boolean {
  const made = madeWith(item);
  const seen = item.prior?.observed?.host ?? host;
  return made === undefined || seen !== host ? !hasLibvirt(ctx, host) : made.folder !== undefined;
}

function madeWith(item: Pick<VmItem, "prior">): MadeWith | undefined {
  return item.prior?.observed?.made_with as unknown as MadeWith | undefined;
}

async function placed(ctx: KindContext, host: PlainHost, item: VmItem) {
  return await place(ctx, item, host, new Map(), { folder: filesOf(host.root, item.instance_id).folder });
}

/** A host as several readings share it: what it can run is asked once, and only where a machine of QEMU alone may be there. */
export interface PlainOn {
  readonly address: Address;
  readonly host: () => Promise<PlainHost>;
}

export function plainOn(ctx: KindContext, address: Address, items: readonly VmItem[]): PlainOn {
  let asked: Promise<PlainHost> | undefined;
  return {
    address,
    host: () =>
      (asked ??= plainHost(
        ctx,
        address,
        items.map((item) => item.desired),
      )),
  };
}

export async function readPlain(ctx: KindContext, item: VmItem, host: PlainHost): Promise<Reading<VmObserved>> {
  const value = await look(ctx, host, item, await madeOf(item, () => placed(ctx, host, item)));
  return value === undefined ? { is: "absent" } : { is: "present", value };
}

/** What the spec alone says that a host without libvirt cannot do, or was not seen to do: E_VM_UNSUPPORTED, E_EXPERIMENTAL. */
export function refuseOnPlain(ctx: KindContext, item: VmItem, host: Address): void {
  refuseWithoutLibvirt(item.address, host, item.desired);
  refuseUnproven(item, ctx.experimental === true, true);
}

/** E_VM_UNSUPPORTED for a new machine that QEMU there cannot run; `growing`: its host gets packages, and may do more then. */
export async function refusePlain(ctx: KindContext, item: VmItem, address: Address, growing: boolean): Promise<void> {
  refuseOnPlain(ctx, item, address);
  const host = await plainHost(ctx, address, [item.desired]);
  const { made } = await placed(ctx, host, item);
  const wanted = wantedVm(item.desired, made);
  requirePlain(wanted, filesOf(host.root, item.instance_id));
  if (!growing) requireSupport(wanted, host.facts, item.address);
}

function ownerOf({ lab, address, instance_id, lineage }: MadeWith): Owner {
  return { lab, address, instance_id, lineage };
}

/**
 * Each step starts from what is there, so that a run that was cut off between any two is finished by another: the folder with the
 * definition (and whose it is), its files, what must stop or can change, the start.
 */
export async function convergePlain(
  ctx: OperationContext,
  item: VmItem,
  address: Address,
  defined?: () => Promise<void>,
): Promise<VmObserved> {
  refuseOnPlain(ctx, item, address);
  const host = await plainHost(ctx, address, [item.desired]);
  const { machine } = host;
  const { made, cargo } = await placed(ctx, host, item);
  const wanted = wantedVm(item.desired, made);
  const files = filesOf(host.root, item.instance_id);
  requirePlain(wanted, files);
  requireSupport(wanted, host.facts, item.address);
  const before = await look(ctx, host, item, made);
  await writeDefinition(machine, files, ownerOf(made), wanted, ctx.signal);
  await defined?.();
  await supply(ctx, machine, made, cargo);
  const found = await findMachine(ctx, host, item, []);
  const changes = before === undefined ? [] : changesOf(item.desired, before);
  // One without a definition runs what nobody knows; of one that stands still no change is live.
  const live =
    before !== undefined && changes.every((one) => one.effect === "live" && (before.running || one.path === "running"));
  const kept =
    wanted.running &&
    live &&
    found.processes.length > 0 &&
    (await changeLive(ctx, host, files, before.now as unknown as VmModel, wanted));
  if (!kept) await powerOff(ctx, host, found);
  if ((await runningNow(ctx, host, found.uuid)).length === 0) {
    await grow(ctx, machine, wanted, item.address);
    const { address, instance_id } = item;
    if (wanted.running)
      await start(ctx, host, found, wanted, { address, instance_id, guestPort: guestPort(item.desired) });
  }
  const after = await look(ctx, host, item, made);
  const left = after === undefined ? ["running"] : changesOf(item.desired, after).map((one) => one.path);
  if (after !== undefined && left.length === 0) return after;
  throw new LabError("E_MISMATCH", `${left.join(", ")} of ${wanted.name} did not become what was asked for`, {
    address: item.address,
    hint: `look at ${files.folder} on ${host.address}${wanted.console.log === undefined ? "" : `, and see its console in ${wanted.console.log}`}`,
  });
}

/** Where the guest's sshd listens. */
export function guestPort(desired: VmDesired): number {
  return desired.ssh?.port ?? 22;
}

/** Ends it and removes its folder; only its own. */
export async function removePlain(ctx: OperationContext, item: VmItem, address: Address): Promise<void> {
  const host = await plainHost(ctx, address);
  const found = await findMachine(ctx, host, item, []);
  await powerOff(ctx, host, found);
  const { folder, definition } = found.files;
  // What says whose it is goes last: a run that was cut off finds it again.
  const done = await host.machine.exec(
    sh`[ ! -d ${folder} ] || { find ${folder} -mindepth 1 ! -path ${definition} -delete && rm -f -- ${definition} && rmdir -- ${folder}; }`,
    { signal: ctx.signal, brief: true },
  );
  if (done.code !== 0) {
    throw new LabError("E_COMMAND_FAILED", `${folder} cannot be removed: ${done.stderr.toString("utf8").trim()}`, {
      address: item.address,
    });
  }
}

/** How to take it away by hand; undefined: it is no machine of QEMU alone. */
export function plainCleanup(item: VmItem): string | undefined {
  const folder = madeWith(item)?.folder;
  if (folder === undefined) return undefined;
  return `on ${whereabouts(item)[0] ?? ("the host" satisfies Address)}: pkill -f -- '-uuid ${uuidOf(item.instance_id)}'; rm -r ${folder}`;
}
