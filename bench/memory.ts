import { defineKind, type Kind, type Plain } from "../src/index.ts";

/** A kind whose world is a map: what is measured is labctl and nothing else. */
export function benchKind(world: Map<string, Record<string, Plain>>): Kind {
  return defineKind({
    kind: "cell",
    title: "Cell",
    description: "",
    ownership: "shared",
    section: { name: "cells", shape: "map", key: "name" },
    schema: {
      type: "object",
      additionalProperties: false,
      required: ["name"],
      properties: { name: { type: "string", "x-labctl": { identity: true } }, value: { type: "integer" } },
    },
    attributes: { type: "object", additionalProperties: false, properties: { value: { type: "integer" } } },
    readMany: (_ctx, items) =>
      Promise.resolve(
        new Map(
          items.map(({ address }) => {
            const value = world.get(address);
            return [address, value === undefined ? { is: "absent" as const } : { is: "present" as const, value }];
          }),
        ),
      ),
    reconcile: (_ctx, { address, desired }) => {
      const value = { value: desired.value ?? 0 };
      world.set(address, value);
      return Promise.resolve(value);
    },
    delete: (_ctx, { address }) => {
      world.delete(address);
      return Promise.resolve();
    },
  });
}
