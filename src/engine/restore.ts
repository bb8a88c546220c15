import { LabError } from "../diagnostics/index.ts";
import {
  type Address,
  decodeValue,
  isMap,
  type Plain,
  referenceTarget,
  type Resource,
  Template,
  type ValueMap,
  walkValue,
} from "../model/index.ts";
import { viewOf } from "../plan/index.ts";
import type { Kind } from "../provider/index.ts";

/**
 * A resource as it was when `good` (encoded) was seen of it: its kind says with which properties. References that still stand in the
 * others stay. Throws E_USAGE where its kind cannot go back.
 */
export function restoredResource(resource: Resource, good: Plain, kind: Kind | undefined): Resource {
  const seen = decodeValue(good);
  const { plain } = viewOf(resource.desired, kind);
  const changed = isMap(seen) ? kind?.restore?.(plain, viewOf(seen, undefined).plain) : undefined;
  if (changed === undefined) {
    throw new LabError("E_USAGE", `${resource.address} cannot be brought back to what it was`, {
      address: resource.address,
      hint: `a ${resource.kind} has no earlier artifacts to go back to; change the spec, and apply it`,
    });
  }
  const desired: ValueMap = { ...resource.desired, ...(changed as ValueMap) };
  // What only the replaced properties referred to is not needed now: going back must not build anew what is gone back from.
  const was = referred(Object.entries(resource.desired).filter(([key]) => key in changed));
  const still = referred(Object.entries(resource.desired).filter(([key]) => !(key in changed)));
  return {
    ...resource,
    depends: resource.depends.filter((one) => !was.has(one) || still.has(one)),
    desired: Object.fromEntries(Object.entries(desired).filter(([, value]) => value !== undefined)),
  };
}

function referred(entries: readonly (readonly [string, ValueMap[string]])[]): Set<Address> {
  const found = new Set<Address>();
  for (const [, value] of entries) {
    walkValue(value, (item) => {
      if (!(item instanceof Template)) return;
      for (const ref of item.references) {
        const target = referenceTarget(ref);
        if (target !== undefined) found.add(target.address);
      }
    });
  }
  return found;
}
