import type { Value } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import { type CheckContext, mismatch, type Spot, type Walk } from "./check-base.ts";
import { scalarValue } from "./check-scalar.ts";
import { entryOf, type SpecNode } from "./node.ts";
import { Problems } from "./problems.ts";
import { mayHoldReference } from "./reference.ts";
import { typesOf } from "./types.ts";

/**
 * Shapes are told apart by what is there, not by trying each and reporting all: by the type of the value, then by which
 * of a map's keys are present. So one mistake gives one error.
 */
export function checkUnions(
  node: SpecNode,
  schema: Schema,
  spot: Spot,
  ctx: CheckContext,
  walk: Walk,
): Value | undefined {
  const before = ctx.problems.size;
  if (schema.oneOf === undefined && schema.anyOf === undefined && schema.not === undefined) {
    const value = walk.plain(node, schema, spot, ctx);
    return ctx.problems.size > before ? undefined : value;
  }
  const { oneOf, anyOf, not, ...own } = schema;
  const unions = [
    ...(oneOf === undefined ? [] : [{ branches: oneOf, exclusive: true }]),
    ...(anyOf === undefined ? [] : [{ branches: anyOf, exclusive: false }]),
  ];
  // A union of types describes the value; one that only asks for keys adds a condition to a map described beside it.
  const shaped = unions.some(({ branches }) => branches.some((one) => (one.type ?? one.properties) !== undefined));
  const describes = unions.length === 0 || own.properties !== undefined || (own.type !== undefined && !shaped);
  let value = describes ? walk.plain(node, own, spot, ctx) : undefined;
  if (ctx.problems.size > before || (describes && value === undefined)) return undefined;
  for (const { branches, exclusive } of unions) {
    const passing = branches.filter((branch) => passes(node, branch, spot, ctx, walk));
    if (passing.length === 0) {
      report(node, schema, branches, spot, ctx, walk);
      return undefined;
    }
    if (passing.length > 1 && exclusive) {
      tooMany(node, passing, spot, ctx);
      return undefined;
    }
    if (!describes) value = walk.check(node, passing[0] ?? {}, spot, ctx);
  }
  if (not !== undefined) checkNot(node, not, spot, ctx, walk);
  return value;
}

function passes(node: SpecNode, branch: Schema, spot: Spot, ctx: CheckContext, walk: Walk): boolean {
  if (lacksKey(node, branch)) return false;
  const problems = new Problems();
  const { scope, root, known } = ctx;
  walk.check(node, branch, spot, { problems, scope, root, ...(known !== undefined && { known }) });
  return problems.size === 0;
}

/** Seen without a walk: most branches are told apart by the keys that they ask for. */
function lacksKey(node: SpecNode, branch: Schema): boolean {
  if (node.type !== "map" || branch.required === undefined) return false;
  const { entries } = node;
  if (branch.required.every((key) => entries.has(key))) return false;
  for (const key of entries.keys()) if (mayHoldReference(key)) return false;
  return true;
}

function checkNot(node: SpecNode, not: Schema, spot: Spot, ctx: CheckContext, walk: Walk): void {
  if (!passes(node, not, spot, ctx, walk)) return;
  const keys = not.required ?? [];
  if (keys.length > 1) exclude(node, keys, ctx);
  else if (keys[0] !== undefined) {
    ctx.problems.error("E_SPEC_VALUE", `"${keys[0]}" is not allowed here`, entryOf(node, keys[0])?.at ?? spot.at);
  } else ctx.problems.error("E_SPEC_VALUE", `${spot.label} cannot be this`, node);
}

function exclude(node: SpecNode, keys: readonly string[], ctx: CheckContext): void {
  const places = keys.map((key) => entryOf(node, key)?.at).filter((at) => at !== undefined);
  const last = places.sort((a, b) => a.start - b.start).at(-1);
  const names = keys.map((key) => `"${key}"`);
  ctx.problems.error("E_SPEC_VALUE", `${names.join(" and ")} exclude each other`, last ?? node, "keep one of them");
}

function tooMany(node: SpecNode, passing: readonly Schema[], spot: Spot, ctx: CheckContext): void {
  const keys = [...new Set(passing.flatMap((branch) => branch.required ?? []))].filter((key) => entryOf(node, key));
  if (keys.length > 1) exclude(node, keys, ctx);
  else ctx.problems.error("E_SPEC_VALUE", `${spot.label} can be read in more than one way`, node);
}

/** What is wrong, said of the one shape that was most likely meant. */
function report(
  node: SpecNode,
  schema: Schema,
  branches: readonly Schema[],
  spot: Spot,
  ctx: CheckContext,
  walk: Walk,
): void {
  const fitting = branches.filter((branch) => fitsType(node, branch));
  if (fitting.length === 0) {
    mismatch(node, schema, spot, ctx);
    return;
  }
  if (node.type !== "map" || fitting.length === 1) {
    const before = ctx.problems.size;
    walk.check(node, fitting[0] ?? {}, spot, ctx);
    if (ctx.problems.size === before) ctx.problems.error("E_SPEC_VALUE", `${spot.label} cannot be this`, node);
    return;
  }
  const scores = fitting.map((branch) => keysOf(branch).filter((key) => node.entries.has(key)).length);
  const best = Math.max(...scores);
  const asked = [...new Set(fitting.map((branch) => (branch.required ?? []).join('" and "')))].filter(
    (key) => key !== "",
  );
  if (best === 0 && asked.length > 1) {
    const hints = [...node.entries.keys()]
      .map((key) => ctx.problems.suggest(key, asked))
      .find((hint) => hint !== undefined);
    ctx.problems.error(
      "E_SPEC_MISSING_KEY",
      `${spot.label} needs one of ${asked.map((key) => `"${key}"`).join(", ")}`,
      spot.at,
      hints,
    );
    return;
  }
  walk.check(node, fitting[scores.indexOf(best)] ?? {}, spot, ctx);
}

function keysOf(schema: Schema): string[] {
  return [...new Set([...Object.keys(schema.properties ?? {}), ...(schema.required ?? [])])];
}

function fitsType(node: SpecNode, branch: Schema): boolean {
  const types = typesOf(branch);
  if (types === undefined) return true;
  if (node.type === "map") return types.has("object");
  if (node.type === "list") return types.has("array");
  return scalarValue(node, branch) !== undefined;
}
