import {
  type Address,
  type Allocation,
  type KindContext,
  type OperationContext,
  selectionError,
} from "../../src/index.ts";
import { allocateHost, type Guest, previewHost } from "./environment-select.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import type { VmModel } from "./model/vm.ts";

interface Who {
  readonly address: Address;
  readonly desired: VmDesired;
  readonly instance_id: string;
}

/**
 * The rules of environments hold for machines too: `max_vms`, `max_utilization`, processors, memory, a cordon. Only of hosts
 * that say `qemu_host`: of others nobody knows what they may give.
 */
function guestOf(ctx: KindContext, host: Address, item: Who, wanted: VmModel): Guest | undefined {
  if (wanted.type === "container") return undefined;
  if (!ctx.inventory.all("qemu_host").some((one) => one.parent === host)) return undefined;
  return {
    address: item.address,
    instance_id: item.instance_id,
    arch: wanted.arch,
    cpus: wanted.cpus.max,
    memory: wanted.memory.max,
    requires: {},
    ...(item.desired.host !== undefined && { host: item.desired.host }),
    environments: 0,
  };
}

/** E_NEVER_FITS or E_BUSY where its host has no room for a new machine. */
export async function requireRoom(ctx: KindContext, host: Address, item: Who, wanted: VmModel): Promise<void> {
  const guest = guestOf(ctx, host, item, wanted);
  if (guest === undefined) return;
  const { request, selection } = await previewHost(ctx, guest);
  if (selection.verdict !== "chosen") throw selectionError(request, selection);
}

/** Takes that room; others may have come since the plan. */
export async function takeRoom(
  ctx: OperationContext,
  host: Address,
  item: Who,
  wanted: VmModel,
): Promise<Allocation | undefined> {
  const guest = guestOf(ctx, host, item, wanted);
  return guest === undefined ? undefined : await allocateHost(ctx, guest);
}
