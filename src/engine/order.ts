import { type Address, decodeValue, isMap, type Plain, type Resource, type Row } from "../model/index.ts";
import { viewOf } from "../plan/index.ts";
import type { Kind, Sibling } from "../provider/index.ts";

/** Asks every kind which of its siblings, and of others, come first: see Kind.after and Kind.awaits. */
export function siblingOrder(
  resources: readonly Resource[],
  rows: ReadonlyMap<Address, Row>,
  kinds: ReadonlyMap<string, Kind>,
): Map<Address, readonly Address[]> {
  const families = new Map<Address, Sibling[]>();
  const join = (parent: Address | undefined, sibling: Sibling): void => {
    if (parent === undefined) return;
    const family = families.get(parent) ?? [];
    family.push(sibling);
    families.set(parent, family);
  };
  const inSpec = new Set(resources.map((resource) => resource.address));
  for (const one of resources)
    join(one.parent, { address: one.address, kind: one.kind, desired: viewOf(one.desired, kinds.get(one.kind)).plain });
  for (const row of rows.values()) {
    if (!inSpec.has(row.address))
      join(row.parent, { address: row.address, kind: row.kind, desired: plainOf(row.desired) });
  }
  const order = new Map<Address, readonly Address[]>();
  const everybody = (): Sibling[] =>
    resources.map(({ address, kind, desired }) => ({ address, kind, desired: viewOf(desired, kinds.get(kind)).plain }));
  let all: Sibling[] | undefined;
  for (const family of families.values()) {
    for (const member of family) {
      const before = kinds.get(member.kind)?.after?.({ ...member.desired }, family, member.address) ?? [];
      if (before.length > 0) order.set(member.address, before);
    }
  }
  for (const { address, kind, desired } of resources) {
    const known = kinds.get(kind);
    if (known?.awaits === undefined) continue;
    all ??= everybody();
    const before = known.awaits(viewOf(desired, known).plain, all, address);
    if (before.length > 0) order.set(address, [...new Set([...(order.get(address) ?? []), ...before])]);
  }
  return order;
}

function plainOf(encoded: Plain): Record<string, Plain> {
  const value = decodeValue(encoded);
  return isMap(value) ? viewOf(value, undefined).plain : {};
}
