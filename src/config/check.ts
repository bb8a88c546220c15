import { formatReference, Template, type Value } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import { below, type CheckContext, localPath, mismatch, type Spot, type Walk } from "./check-base.ts";
import { checkMap } from "./check-map.ts";
import { checkScalar } from "./check-scalar.ts";
import { checkUnions } from "./check-unions.ts";
import { isEmpty, type ListNode, type ScalarNode, type SpecNode, type TemplateNode } from "./node.ts";
import { firstReference } from "./reference.ts";
import { pieceOf, resolveNode } from "./scope.ts";
import { expected, typesOf } from "./types.ts";

export type { CheckContext, Spot } from "./check-base.ts";

/**
 * Checks one node against a schema and gives its value. Undefined where it is wrong: every mistake below was then
 * reported, each once. A string property takes a scalar's source text; a reference alone may stand for anything.
 */
export function check(written: SpecNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined {
  ctx.onPlace?.(spot.path, isEmpty(written) ? spot.at : written);
  const notes = schema["x-labctl"];
  if (notes?.shell === true && written.type === "scalar") return checkShell(written, schema, spot, ctx);
  const node = resolveNode(written, ctx.scope, ctx.problems);
  if (node === undefined) return undefined;
  if (node.type === "template") return checkTemplate(node, schema, spot, ctx);
  const before = ctx.problems.size;
  const value = checkUnions(node, schema, spot, ctx, walk);
  if (ctx.problems.size > before || value === undefined) return undefined;
  if (typeof value === "string" && notes?.refers !== undefined) {
    ctx.onRefers?.(notes.refers, value, isEmpty(node) ? spot.at : node);
  }
  if (typeof value === "string" && notes?.path === true && node.type === "scalar") {
    return localPath(value, (node.origin ?? node.source).dir, ctx.root);
  }
  return value;
}

const walk: Walk = { check, plain: checkPlain };

/** Text that a shell runs is taken as it stands; a reference in it would be run as code. */
function checkShell(node: ScalarNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined {
  const at = node.literal === true ? -1 : firstReference(node.text);
  if (at !== -1) {
    const end = node.text.indexOf("}", at);
    ctx.problems.error(
      "E_REF_FORBIDDEN",
      `${spot.label} is run by a shell: references are not allowed in it`,
      pieceOf(node, at, end === -1 ? at + 2 : end + 1),
      'pass the value beside it, as `env: { NAME: "${...}" }`, and use "$NAME"',
    );
    return undefined;
  }
  const text = node.literal === true ? node.text : node.text.replaceAll(/\$\$\{(?=[A-Za-z_][A-Za-z0-9_-]*\.)/g, "${");
  return checkUnions({ ...node, text, literal: true }, schema, spot, ctx, walk);
}

function checkTemplate(node: TemplateNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined {
  const notes = schema["x-labctl"];
  const references = node.parts.filter((part) => typeof part === "object");
  const why = ctx.known ?? (notes?.refers === undefined ? undefined : `the name of a ${notes.refers}`);
  const first = references[0];
  if (why !== undefined && first !== undefined) {
    ctx.problems.error(
      "E_REF_FORBIDDEN",
      `${spot.label} must be known when the spec is loaded (it is ${why}), and \${${formatReference(first)}} is not`,
      node,
      "only ${var.NAME} and ${each.key} can stand here",
    );
    return undefined;
  }
  const template = new Template(node.parts);
  const types = typesOf(schema);
  if (template.whole === undefined && types !== undefined && !types.has("string")) {
    ctx.problems.error(
      "E_SPEC_TYPE",
      `${spot.label} must be ${expected(schema)}, and text with a reference in it is text`,
      node,
      "let the reference be the whole value",
    );
    return undefined;
  }
  for (const reference of references) ctx.onReference?.(reference, node);
  const [head, ...rest] = node.parts;
  if (notes?.path === true && typeof head === "string") {
    return new Template([localPath(head, node.source.dir, ctx.root), ...rest]);
  }
  return template;
}

/** The value by the schema's own words, its unions aside. */
function checkPlain(node: SpecNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined {
  switch (node.type) {
    case "map":
      return allows(node, schema, spot, ctx, "object") ? checkMap(node, schema, spot, ctx, walk) : undefined;
    case "list":
      return allows(node, schema, spot, ctx, "array") ? checkList(node, schema, spot, ctx) : undefined;
    case "scalar":
      return checkScalar(node, schema, spot, ctx);
  }
}

function allows(node: SpecNode, schema: Schema, spot: Spot, ctx: CheckContext, type: string): boolean {
  const types = typesOf(schema);
  if (types === undefined || types.has(type)) return true;
  mismatch(node, schema, spot, ctx);
  return false;
}

function checkList(node: ListNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined {
  const { items, minItems, maxItems } = schema;
  if (minItems !== undefined && node.items.length < minItems) {
    ctx.problems.error("E_SPEC_VALUE", `${spot.label} must have at least ${counted(minItems, "item")}`, node);
  }
  if (maxItems !== undefined && node.items.length > maxItems) {
    ctx.problems.error("E_SPEC_VALUE", `${spot.label} must have at most ${counted(maxItems, "item")}`, node);
  }
  const out: Value[] = [];
  const seen = new Set<string>();
  for (const [i, item] of node.items.entries()) {
    const value = check(item, items ?? {}, { ...below(spot, String(i), item), label: `an item of ${spot.label}` }, ctx);
    if (value === undefined) continue;
    if (schema.uniqueItems === true) {
      const text = JSON.stringify(value);
      if (seen.has(text)) ctx.problems.error("E_SPEC_VALUE", `${spot.label} names ${text} twice`, item);
      seen.add(text);
    }
    out.push(value);
  }
  return out;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
