import type { Value } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import {
  below,
  codePoints,
  type CheckContext,
  listed,
  NAME_PATTERN,
  patternHint,
  patternOf,
  type Spot,
  type Walk,
  WORD_PATTERN,
} from "./check-base.ts";
import type { Entry, MapNode } from "./node.ts";
import { mayHoldReference, parseReferences } from "./reference.ts";
import { resolveNode } from "./scope.ts";
import { shortened } from "./yaml.ts";

export function checkMap(node: MapNode, schema: Schema, spot: Spot, ctx: CheckContext, walk: Walk): Value | undefined {
  const out: [string, Value][] = [];
  const names = new Set<string>();
  for (const entry of node.entries.values()) {
    const key = resolveKey(entry, ctx);
    if (key === undefined) continue;
    if (names.has(key)) {
      ctx.problems.error("E_YAML_DUPLICATE_KEY", `the key "${shortened(key)}" stands twice in this map`, entry.at);
      continue;
    }
    names.add(key);
    const known = schemaOf(key, entry, schema, spot, ctx);
    if (known === undefined) continue;
    const value = walk.check(entry.value, known, below(spot, key, entry.at), ctx);
    if (value !== undefined) out.push([key, value]);
  }
  for (const key of schema.required ?? []) {
    if (!names.has(key)) missing(key, node, schema, spot, ctx);
  }
  for (const [key, needed] of Object.entries(schema.dependentRequired ?? {})) {
    const entry = node.entries.get(key);
    if (entry === undefined) continue;
    for (const need of needed) {
      if (!names.has(need)) ctx.problems.error("E_SPEC_MISSING_KEY", `"${key}" needs "${need}" beside it`, entry.at);
    }
  }
  return Object.fromEntries(out);
}

/** `each.*` may stand in keys; nothing else may, for keys are names. */
export function resolveKey(entry: Entry, ctx: CheckContext): string | undefined {
  if (!mayHoldReference(entry.key)) return entry.key;
  const { source, start, end } = entry.at;
  const found = parseReferences(entry.key).parts.find(
    (part) => typeof part === "object" && part.reference.root !== "each",
  );
  if (found !== undefined) {
    ctx.problems.error(
      "E_REF_FORBIDDEN",
      "references are not allowed in keys",
      entry.at,
      "only ${each.key} and ${each.value} can stand in a key",
    );
    return undefined;
  }
  const node = { type: "scalar", text: entry.key, plain: false, source, start, end } as const;
  const resolved = resolveNode(node, ctx.scope, ctx.problems);
  return resolved?.type === "scalar" ? resolved.text : undefined;
}

function schemaOf(key: string, entry: Entry, schema: Schema, spot: Spot, ctx: CheckContext): Schema | undefined {
  if (schema.propertyNames !== undefined && !keyFits(key, entry, schema.propertyNames, ctx)) return undefined;
  if (schema.properties !== undefined && Object.hasOwn(schema.properties, key)) return schema.properties[key];
  for (const [pattern, matching] of Object.entries(schema.patternProperties ?? {})) {
    if (patternOf(pattern).test(key)) return matching;
  }
  if (schema.additionalProperties === false) {
    const known = [...Object.keys(schema.properties ?? {}), ...(spot.path === "" ? (ctx.neighbours ?? []) : [])];
    ctx.problems.error(
      "E_SPEC_UNKNOWN_KEY",
      `"${shortened(key)}" is not known here`,
      entry.at,
      ctx.problems.suggest(key, known) ?? listed(known),
    );
    return undefined;
  }
  return typeof schema.additionalProperties === "object" ? schema.additionalProperties : {};
}

export function keyFits(key: string, entry: Entry, schema: Schema, ctx: CheckContext): boolean {
  const { minLength, maxLength } = schema;
  const length = minLength === undefined && maxLength === undefined ? 0 : codePoints(key);
  const good =
    (schema.pattern === undefined || patternOf(schema.pattern).test(key)) &&
    (schema.enum === undefined || schema.enum.includes(key)) &&
    length >= (minLength ?? 0) &&
    length <= (maxLength ?? Number.POSITIVE_INFINITY);
  if (good) return true;
  const hint =
    schema.pattern === NAME_PATTERN
      ? "names are made of a-z, 0-9 and -, and begin with a letter or digit"
      : schema.pattern === WORD_PATTERN
        ? "names are made of letters, digits, - and _, and begin with a letter"
        : schema.enum === undefined
          ? patternHint(schema)
          : ctx.problems.suggest(key, schema.enum.map(String));
  ctx.problems.error("E_SPEC_NAME", `"${shortened(key)}" cannot be a name here`, entry.at, hint);
  return false;
}

function missing(key: string, node: MapNode, schema: Schema, spot: Spot, ctx: CheckContext): void {
  const near = [...node.entries.keys()].find(
    (one) => !Object.hasOwn(schema.properties ?? {}, one) && ctx.problems.suggest(one, [key]) !== undefined,
  );
  // `adress:` for `address:` is one mistake: the unknown key was reported, with the name that is meant.
  if (near !== undefined && schema.additionalProperties === false) return;
  const example = schema.properties?.[key]?.examples?.[0];
  ctx.problems.error(
    "E_SPEC_MISSING_KEY",
    `${spot.label} needs "${key}"`,
    spot.at,
    example === undefined ? undefined : `for example ${key}: ${JSON.stringify(example)}`,
  );
}
