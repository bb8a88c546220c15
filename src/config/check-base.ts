import { posix, relative, resolve } from "node:path";
import { DURATION_PATTERN, type Reference, type Value } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import { coreValue, describeNode, isEmpty, type Place, type SpecNode } from "./node.ts";
import type { Problems } from "./problems.ts";
import type { Scope } from "./scope.ts";
import { expected, typesOf } from "./types.ts";

/** What a walk needs and tells. */
export interface CheckContext {
  readonly problems: Problems;
  readonly scope: Scope;
  /** Absolute folder of the lab's spec: local paths are made relative to it. */
  readonly root: string;
  /** Set where values must be known when the spec is loaded: what they are, for the message. */
  readonly known?: string;
  /** Keys that are handled elsewhere, for suggestions. */
  readonly neighbours?: readonly string[];
  readonly onReference?: (reference: Reference, at: Place) => void;
  readonly onRefers?: (kind: string, name: string, at: Place) => void;
  readonly onPlace?: (path: string, at: Place) => void;
}

/** A value by its place: what holds it, under which name. */
export interface Spot {
  /** Dotted path from the resource down; empty at its top. */
  readonly path: string;
  /** What messages call it. */
  readonly label: string;
  /** Where to point when the value itself is nowhere to be seen: the key. */
  readonly at: Place;
}

export function below(spot: Spot, key: string, at: Place): Spot {
  return { path: spot.path === "" ? key : `${spot.path}.${key}`, label: `"${key}"`, at };
}

/** How parts of the walk call each other: the files of it would else import one another in a circle. */
export interface Walk {
  /** The node with references put in, against the whole schema. */
  check(node: SpecNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined;
  /** A resolved node against the schema's own words, its unions aside. */
  plain(node: SpecNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined;
}

export function mismatch(node: SpecNode, schema: Schema, spot: Spot, ctx: CheckContext): void {
  const types = typesOf(schema);
  let hint: string | undefined;
  if (node.type === "scalar") {
    const means = coreValue(node.text);
    if (isEmpty(node)) hint = 'give it a value, or leave the key out; "" is the empty text';
    else if (!node.plain && typeof means === "number" && (types?.has("integer") || types?.has("number")))
      hint = `without quotes: ${node.text}`;
    else if (!node.plain && typeof means === "boolean" && types?.has("boolean")) hint = `without quotes: ${node.text}`;
    else if (types?.has("boolean") && /^(y|yes|on)$/i.test(node.text)) hint = "write true";
    else if (types?.has("boolean") && /^(n|no|off)$/i.test(node.text)) hint = "write false";
    else if (types?.has("array") && means !== null) hint = `a list is written [${node.text.slice(0, 40)}]`;
    else if (node.plain && means === null && types?.has("string"))
      hint = `in quotes if the text is meant: "${node.text}"`;
    else if (/^[0-9][0-9_]*$/.test(node.text)) hint = `digits alone: ${node.text.replaceAll("_", "")}`;
  }
  ctx.problems.error(
    "E_SPEC_TYPE",
    `${spot.label} must be ${expected(schema)}, not ${describeNode(node)}`,
    isEmpty(node) ? spot.at : node,
    hint,
  );
}

export function patternHint(schema: Schema): string | undefined {
  const example = schema.examples?.find((one) => typeof one === "string");
  if (example !== undefined) return `for example ${JSON.stringify(example)}`;
  if (schema.pattern === DURATION_PATTERN) return "a number and a unit: 30s";
  return schema.pattern === undefined ? undefined : `it must match ${schema.pattern}`;
}

const patterns = new Map<string, RegExp>();

/** Patterns mean what they mean to ajv: with the `u` flag. */
export function patternOf(pattern: string): RegExp {
  const known = patterns.get(pattern) ?? new RegExp(pattern, "u");
  patterns.set(pattern, known);
  return known;
}

/** Length as JSON Schema counts it: in code points (RFC 8259, section 1). */
export function codePoints(text: string): number {
  let count = 0;
  for (const _point of text) count += 1;
  return count;
}

/** A local path of a spec, relative to the lab's folder, with `/`; absolute ones and those below `~` stay. */
export function localPath(path: string, dir: string, root: string): string {
  if (path === "" || path.startsWith("/") || path === "~" || path.startsWith("~/")) return path;
  const found = relative(root, resolve(dir, path)).split("\\").join(posix.sep);
  return path.endsWith("/") && found !== "" ? `${found}/` : found || ".";
}

export function listed(known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const shown = [...known].sort();
  return shown.length > 24 ? `there are ${shown.slice(0, 24).join(", ")}, ...` : `there are ${shown.join(", ")}`;
}

export const NAME_PATTERN = "^[a-z0-9][a-z0-9-]*$";
export const WORD_PATTERN = "^[A-Za-z][A-Za-z0-9_-]*$";
