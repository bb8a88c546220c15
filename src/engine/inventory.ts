import { type Address, decodeValue, isMap, type Lab, type Plain, type Resource } from "../model/index.ts";
import { type ReferenceSources, resolveMap, viewOf } from "../plan/index.ts";
import type { Inventory, InventoryEntry, Kind } from "../provider/index.ts";
import type { StateContent } from "../state/index.ts";

export interface InventorySources {
  readonly lab: Lab;
  readonly kinds: ReadonlyMap<string, Kind>;
  /** What the spec alone says: no secrets, nothing that only apply finds out. */
  readonly sources: ReferenceSources;
  /** The state as it is at this moment. */
  state(): StateContent | undefined;
}

/** What the spec and the state say of the lab's resources, for kinds that choose among them. */
export function makeInventory(from: InventorySources): Inventory {
  const byKind = new Map<string, Resource[]>();
  const byAddress = new Map<Address, Resource>();
  for (const resource of from.lab.resources) {
    byAddress.set(resource.address, resource);
    const same = byKind.get(resource.kind) ?? [];
    same.push(resource);
    byKind.set(resource.kind, same);
  }
  const desired = new Map<Address, Record<string, Plain>>();
  const entry = (resource: Resource): InventoryEntry => {
    const { address, kind, parent } = resource;
    const known =
      desired.get(address) ?? viewOf(resolveMap(resource.desired, from.sources), from.kinds.get(kind)).plain;
    desired.set(address, known);
    const state = from.state();
    const row = state?.rows.get(address);
    const seen = row === undefined || row.observed === null ? undefined : decodeValue(row.observed);
    const hold = state?.holds.get(address);
    return {
      address,
      kind,
      ...(parent !== undefined && { parent }),
      desired: known,
      ...(isMap(seen) && { observed: viewOf(seen, undefined).plain }),
      ...(row !== undefined && { status: row.status }),
      ...(hold !== undefined && { hold }),
    };
  };
  return {
    all: (kind) => (byKind.get(kind) ?? []).map(entry),
    get: (address) => {
      const resource = byAddress.get(address);
      return resource && entry(resource);
    },
  };
}
