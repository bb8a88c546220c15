import { parseDuration, parseSize, type Value } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import { type CheckContext, codePoints, mismatch, patternHint, patternOf, type Spot } from "./check-base.ts";
import { coreValue, describeNode, type ScalarNode } from "./node.ts";
import { typesOf } from "./types.ts";

export function checkScalar(node: ScalarNode, schema: Schema, spot: Spot, ctx: CheckContext): Value | undefined {
  const notes = schema["x-labctl"];
  if (notes?.octal === true && node.plain && !node.literal && /^(0o?)?[0-7]{3,4}$/.test(node.text)) {
    const quoted = `"${node.text.replace(/^0o?/, "").padStart(4, "0")}"`;
    ctx.problems.error(
      "E_SPEC_MODE_UNQUOTED",
      `${spot.label} must be quoted: YAML reads ${node.text} as a number`,
      node,
      `write ${spot.label.replaceAll('"', "")}: ${quoted}`,
    );
    return undefined;
  }
  const value = scalarValue(node, schema);
  if (value === undefined) {
    mismatch(node, schema, spot, ctx);
    return undefined;
  }
  if (!allowedValue(value, node, schema, spot, ctx)) return undefined;
  if (typeof value === "number") return inRange(value, node, schema, spot, ctx) ? value : undefined;
  if (typeof value === "string") return fits(value, node, schema, spot, ctx) ? value : undefined;
  return value;
}

/** What a scalar is where a schema wants it; undefined where it is nothing that the schema wants. */
export function scalarValue(node: ScalarNode, schema: Schema): null | boolean | number | string | undefined {
  const types = typesOf(schema);
  const means = node.plain ? coreValue(node.text) : undefined;
  const textual = types === undefined || types.has("string");
  if (means === null) return types === undefined || types.has("null") ? null : undefined;
  if (typeof means === "boolean" && (types === undefined || types.has("boolean"))) {
    if (!textual || String(means) === node.text) return means;
  }
  if (typeof means === "number" && (types === undefined || types.has("number") || types.has("integer"))) {
    const fitting = types === undefined || types.has("number") ? Number.isFinite(means) : Number.isSafeInteger(means);
    // 6.10 is not 6.1: where text is wanted as well, a number that does not read back is text.
    if (fitting && (!textual || String(means) === node.text)) return means;
  }
  return textual ? node.text : undefined;
}

function allowedValue(value: Value, node: ScalarNode, schema: Schema, spot: Spot, ctx: CheckContext): boolean {
  const choices = schema.const === undefined ? schema.enum : [schema.const];
  if (choices === undefined || choices.includes(value)) return true;
  const shown = choices.map((choice) => String(choice));
  const which = shown.length === 1 ? `${shown[0]}` : `one of ${shown.join(", ")}`;
  ctx.problems.error(
    "E_SPEC_VALUE",
    `${spot.label} must be ${which}, not ${describeNode(node)}`,
    node,
    ctx.problems.suggest(node.text, shown),
  );
  return false;
}

function inRange(value: number, node: ScalarNode, schema: Schema, spot: Spot, ctx: CheckContext): boolean {
  const { minimum, maximum } = schema;
  if ((minimum === undefined || value >= minimum) && (maximum === undefined || value <= maximum)) return true;
  const range =
    minimum === undefined
      ? `at most ${maximum}`
      : maximum === undefined
        ? `at least ${minimum}`
        : `${minimum} to ${maximum}`;
  ctx.problems.error("E_SPEC_VALUE", `${spot.label} must be ${range}, not ${node.text}`, node);
  return false;
}

function fits(value: string, node: ScalarNode, schema: Schema, spot: Spot, ctx: CheckContext): boolean {
  const wrong = (message: string, hint?: string): false => {
    ctx.problems.error("E_SPEC_VALUE", message, node, hint);
    return false;
  };
  const unit = schema["x-labctl"]?.unit;
  if (unit === "duration" && parseDuration(value) === undefined) {
    return wrong(
      `${spot.label} must be a duration, not ${describeNode(node)}`,
      "a number and a unit: 500ms, 30s, 3m, 1h30m",
    );
  }
  if (unit === "size" && parseSize(value) === undefined) {
    return wrong(`${spot.label} must be a size, not ${describeNode(node)}`, "a number and a unit: 512MiB, 20GiB, 10GB");
  }
  const length = codePoints(value);
  if (schema.minLength !== undefined && length < schema.minLength) {
    return wrong(
      schema.minLength === 1
        ? `${spot.label} must not be empty`
        : `${spot.label} must have at least ${schema.minLength} characters`,
    );
  }
  if (schema.maxLength !== undefined && length > schema.maxLength) {
    return wrong(`${spot.label} must have at most ${schema.maxLength} characters`);
  }
  if (schema.pattern !== undefined && !patternOf(schema.pattern).test(value)) {
    return wrong(`${spot.label} cannot be ${describeNode(node)}`, patternHint(schema));
  }
  return true;
}
