import { type Address, type KindContext, selectionError } from "../../src/index.ts";
import { selectHost } from "./environment-select.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import type { VmModel } from "./model/vm.ts";

interface Who {
  readonly address: Address;
  readonly desired: VmDesired;
  readonly instance_id: string;
}

/**
 * E_NEVER_FITS or E_BUSY where its host has no room for a new machine, by the rules of environments: `max_vms`, `max_utilization`,
 * processors, memory, a cordon. Only of hosts that say `qemu_host`: of others nobody knows what they may give.
 */
export async function requireRoom(ctx: KindContext, host: Address, item: Who, wanted: VmModel): Promise<void> {
  if (wanted.type === "container") return;
  if (!ctx.inventory.all("qemu_host").some((one) => one.parent === host)) return;
  const { request, selection } = await selectHost(
    ctx,
    item.address,
    {
      name: item.desired.name,
      vm: {
        ...(item.desired.host !== undefined && { host: item.desired.host }),
        arch: wanted.arch,
        cpus: wanted.cpus.max,
        memory: `${wanted.memory.max / 1024 ** 2}MiB`,
        requires: {},
      },
    } as Parameters<typeof selectHost>[2],
    item.instance_id,
    undefined,
  );
  if (selection.verdict !== "chosen") throw selectionError(request, selection);
}
