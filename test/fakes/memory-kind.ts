import { defineKind, type Kind, type Outcome, type Plain, type Reading } from "../../src/index.ts";

type Thing = Record<string, Plain>;

/** A world in memory: what kinds made by {@link memoryKind} read and change. */
export class MemoryWorld {
  readonly things = new Map<string, Thing>();
  readonly calls: string[] = [];
  /** Addresses that cannot be reached. */
  readonly unreachable = new Map<string, Error>();
  /** Thrown by the next operations on an address, one a call. */
  readonly failures = new Map<string, Error[]>();
}

/** A kind over {@link MemoryWorld} with one observed property of each sort that the planner treats differently. */
export function memoryKind(
  world: MemoryWorld,
  options: { kind?: string; within?: string; ownership?: "exclusive" | "shared"; many?: boolean } = {},
): Kind {
  const { kind = "thing", within, ownership = "shared", many = false } = options;
  const take = (address: string): void => {
    const error = world.failures.get(address)?.shift();
    if (error !== undefined) throw error;
  };
  const apply = (address: string, desired: Thing, observed: Thing | undefined): Thing => {
    take(address);
    const now: Thing = { ...observed, size: 1, seen: world.calls.length };
    for (const [key, value] of Object.entries(desired)) if (key !== "name" && key !== "adopt") now[key] = value;
    world.things.set(address, now);
    return now;
  };
  const base = defineKind({
    kind,
    title: "Thing",
    description: "A thing in memory.",
    ownership,
    section: { name: `${kind}s`, shape: "map", key: "name", ...(within !== undefined && { within }) },
    schema: {
      type: "object",
      additionalProperties: false,
      properties: {
        name: { type: "string", "x-labctl": { identity: true } },
        color: { type: "string" },
        text: { type: "string" },
        shape: { type: "string", "x-labctl": { replace: true } },
        note: { type: "string" },
        adopt: { type: "boolean" },
      },
      required: ["name"],
    },
    attributes: {
      type: "object",
      additionalProperties: false,
      properties: {
        color: { type: "string" },
        text: { type: "string" },
        shape: { type: "string" },
        size: { type: "integer" },
        seen: { type: "integer", "x-labctl": { volatile: true } },
      },
    },
    async readMany(_ctx, items) {
      const out = new Map<string, Reading<Thing>>();
      for (const { address } of items) {
        const why = world.unreachable.get(address) ?? world.unreachable.get(address.split("/")[0] ?? "");
        const value = world.things.get(address);
        out.set(
          address,
          why !== undefined
            ? { is: "unreachable", why }
            : value === undefined
              ? { is: "absent" }
              : { is: "present", value },
        );
      }
      return out as never;
    },
    async reconcile(_ctx, item) {
      world.calls.push(`reconcile ${item.address}`);
      return apply(item.address, item.desired as Thing, item.observed as Thing | undefined) as never;
    },
    async delete(_ctx, item) {
      world.calls.push(`delete ${item.address}`);
      take(item.address);
      const original = item.prior?.original as Thing | undefined;
      if (original === undefined) world.things.delete(item.address);
      else world.things.set(item.address, original);
    },
  });
  if (!many) return base;
  return {
    ...base,
    async reconcileMany(_ctx, items) {
      world.calls.push(`many ${items.length}`);
      const outcomes = new Map<string, Outcome<Thing>>();
      for (const item of items) {
        try {
          outcomes.set(item.address, { ok: apply(item.address, item.desired, item.observed) });
        } catch (error) {
          outcomes.set(item.address, { error: error instanceof Error ? error : new Error(String(error)) });
        }
      }
      return outcomes;
    },
  };
}
