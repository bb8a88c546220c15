import type { Plain, PropertyChange } from "../../model/index.ts";
import { visible } from "./text.ts";

const LONGEST = 200;

/** An encoded value on one line: what is unknown, secret or a reference is said so and never shown. */
export function formatValue(value: Plain | undefined, depth = 0): string {
  if (value === undefined) return "(none)";
  if (value === null) return "null";
  if (typeof value === "string") return quote(value);
  if (typeof value !== "object") return String(value);
  if (isList(value)) {
    if (value.length === 0) return "[]";
    return depth > 2 ? "[…]" : cut(`[${value.map((item) => formatValue(item, depth + 1)).join(", ")}]`);
  }
  const special = specialText(value);
  if (special !== undefined) return special;
  const entries = Object.entries(value);
  if (entries.length === 0) return "{}";
  if (depth > 2) return "{…}";
  return cut(`{ ${entries.map(([key, item]) => `${nameOf(key)}: ${formatValue(item, depth + 1)}`).join(", ")} }`);
}

/** Text in quotes (a digest short and without), with control characters escaped as JSON does and everything else that could mislead as `\u{…}`. */
function quote(text: string): string {
  if (/^[0-9a-f]{64}$/.test(text)) return `sha256:${text.slice(0, 12)}…`;
  return cut(visible(JSON.stringify(text)));
}

/** A key of a map: bare where it is a plain name. */
export function nameOf(key: string): string {
  const own = key.startsWith("$$") ? key.slice(1) : key;
  return /^[A-Za-z0-9_./@+-]+$/.test(own) ? own : visible(JSON.stringify(own));
}

/** `(known after apply)`, `(sensitive)` or the text with its references; undefined for ordinary maps. */
export function specialText(value: Plain | undefined): string | undefined {
  if (value === null || typeof value !== "object" || isList(value)) return undefined;
  if (value["$unknown"] !== undefined) return "(known after apply)";
  if (value["$sensitive"] !== undefined) return "(sensitive)";
  const parts = value["$template"];
  if (!isList(parts)) return undefined;
  return cut(
    visible(
      parts
        .map((part) => (typeof part === "string" ? part : isMap(part) ? `\${${listText(part["$ref"])}}` : ""))
        .join(""),
    ),
  );
}

function listText(value: Plain | undefined): string {
  return isList(value) ? value.map(String).join(".") : "";
}

/** The two sides of a property; both `(sensitive)` where the property is. */
export function sidesOf(change: PropertyChange): { readonly before: string; readonly after: string } {
  const side = (value: Plain | undefined): string => {
    if (value === undefined) return "(none)";
    return change.sensitive === true && specialText(value) !== "(known after apply)"
      ? "(sensitive)"
      : formatValue(value);
  };
  return { before: side(change.before), after: side(change.after) };
}

function isList(value: Plain | undefined): value is readonly Plain[] {
  return Array.isArray(value);
}

export function isMap(value: Plain | undefined): value is { readonly [key: string]: Plain } {
  return value !== null && typeof value === "object" && !isList(value);
}

function cut(text: string): string {
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST - 1)}…`;
}
