import {
  canonicalText,
  containsSpecial,
  isMap,
  mapTemplates,
  type Plain,
  type Reference,
  referenceTarget,
  Sealed,
  Sensitive,
  type Template,
  Unknown,
  type Address,
  type Value,
  type ValueMap,
} from "../model/index.ts";

/** Where references get their values. Both give undefined for what does not exist. */
export interface ReferenceSources {
  secret(name: string): Value | undefined;
  attribute(address: Address, path: readonly string[]): Value | undefined;
}

/** A value with every reference replaced by what is known of it; the rest becomes Unknown. */
export function resolveValue(value: Value, sources: ReferenceSources): Value {
  return mapTemplates(value, (template) => resolveTemplate(template, sources));
}

export function resolveMap(value: ValueMap, sources: ReferenceSources): ValueMap {
  const resolved = resolveValue(value, sources);
  return isMap(resolved) ? resolved : {};
}

function resolveTemplate(template: Template, sources: ReferenceSources): Value {
  const whole = template.whole;
  if (whole !== undefined) {
    const value = lookup(whole, sources) ?? new Unknown(template);
    return value instanceof Sensitive ? new Sensitive(value.reveal(), template) : value;
  }
  let text = "";
  let sensitive = false;
  let sealed = false;
  for (const part of template.parts) {
    const value = typeof part === "string" ? part : (lookup(part, sources) ?? new Unknown(template));
    if (value instanceof Unknown) return new Unknown(template);
    if (value instanceof Sensitive) {
      sensitive = true;
      text += textOf(value.reveal());
    } else if (value instanceof Sealed) sealed = true;
    else if (!containsSpecial(value)) text += textOf(value as Plain);
    else return new Unknown(template);
  }
  if (sealed) return new Sealed(undefined, template);
  return sensitive ? new Sensitive(text, template) : text;
}

function lookup(ref: Reference, sources: ReferenceSources): Value | undefined {
  if (ref.root === "secret") return sources.secret(ref.path[0] ?? "");
  const { address, path } = referenceTarget(ref);
  return sources.attribute(address, path);
}

function textOf(value: Plain): string {
  return typeof value === "string"
    ? value
    : value === null
      ? ""
      : typeof value === "object"
        ? canonicalText(value)
        : String(value);
}

/** The value at a path, or undefined. */
export function dig(value: Value | undefined, path: readonly string[]): Value | undefined {
  let at = value;
  for (const key of path) {
    if (at instanceof Unknown || at instanceof Sensitive || at instanceof Sealed) return at;
    if (Array.isArray(at)) at = (at as readonly Value[])[Number(key)];
    else if (isMap(at) && Object.hasOwn(at, key)) at = at[key];
    else return undefined;
  }
  return at;
}
