import {
  canonicalText,
  decodeValue,
  encodeValue,
  isMap,
  type Plain,
  type PropertyChange,
  type Row,
  sameEncoded,
  type Seal,
  Sealed,
  Sensitive,
  Template,
  Unknown,
  type Value,
  type ValueMap,
} from "../model/index.ts";
import type { PlanDiffInput, PlanKind, PlanPrior, PlanPropertyDiff } from "./kind.ts";

/** Desired properties as handlers see them: plain, with the names of what is sensitive and what is not known yet. */
export interface View {
  readonly plain: Record<string, Plain>;
  readonly sensitive: ReadonlySet<string>;
  readonly unknown: ReadonlySet<string>;
}

type Properties = PlanKind["schema"]["properties"];
const secretKeys = new WeakMap<Properties, readonly string[]>();

/** The properties that a schema calls sensitive, whatever their values are. */
function secretProperties(properties: Properties): readonly string[] {
  const known = secretKeys.get(properties);
  if (known !== undefined) return known;
  const found = Object.entries(properties).flatMap(([key, one]) => (one["x-labctl"]?.sensitive === true ? [key] : []));
  secretKeys.set(properties, found);
  return found;
}

/** Splits a resolved value into plain data and the paths that are special. Parts that cannot be revealed are left out. */
export function viewOf(value: ValueMap, kind: PlanKind | undefined): View {
  const sensitive = new Set<string>();
  const unknown = new Set<string>();
  const strip = (item: Value, path: string): Plain | undefined => {
    if (item instanceof Unknown || item instanceof Template) {
      unknown.add(path);
      const template = item instanceof Unknown ? item.template : item;
      if (template.references.some((ref) => ref.root === "secret")) sensitive.add(path);
      return undefined;
    }
    if (item instanceof Sensitive) {
      sensitive.add(path);
      return item.reveal();
    }
    if (item instanceof Sealed) {
      sensitive.add(path);
      return undefined;
    }
    if (Array.isArray(item)) {
      return (item as readonly Value[])
        .map((entry, i) => strip(entry, join(path, String(i))))
        .filter((entry) => entry !== undefined);
    }
    if (isMap(item)) return stripMap(item, path);
    return item as Plain;
  };
  const stripMap = (map: ValueMap, path: string): Record<string, Plain> => {
    // As entries: to assign to `__proto__` would set no property.
    const kept: [string, Plain][] = [];
    for (const [key, item] of Object.entries(map)) {
      const stripped = strip(item, join(path, key));
      if (stripped !== undefined) kept.push([key, stripped]);
    }
    return Object.fromEntries(kept);
  };
  const plain = stripMap(value, "");
  if (kind !== undefined) {
    for (const key of secretProperties(kind.schema.properties)) if (plain[key] !== undefined) sensitive.add(key);
  }
  return { plain, sensitive, unknown };
}

/**
 * Properties with those wrapped that the kind calls secret (content of a file that is marked `sensitive`, digests of what
 * comes from a secret), so that no encoding shows them. What cannot be revealed stays as it is.
 */
export function concealed(value: ValueMap, kind: PlanKind | undefined): ValueMap {
  return concealedView(value, kind).resolved;
}

/** The same, with its view. */
export function concealedView(
  value: ValueMap,
  kind: PlanKind | undefined,
): { readonly resolved: ValueMap; readonly view: View } {
  const view = viewOf(value, kind);
  const secret = new Set([...view.sensitive, ...(kind?.taints?.(view.sensitive, view.plain) ?? [])]);
  if (secret.size === 0) return { resolved: value, view };
  const resolved = Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, secret.has(key) && isRevealed(item) ? new Sensitive(item) : item]),
  );
  return { resolved, view: viewOf(resolved, kind) };
}

function isRevealed(value: Value | undefined): value is Plain {
  if (value === undefined || value instanceof Sensitive || value instanceof Sealed) return false;
  return viewOf({ value }, undefined).unknown.size === 0;
}

function join(path: string, key: string): string {
  return path === "" ? key : `${path}.${key}`;
}

/** True where `path` or something above or below it is in `paths`. */
export function touches(paths: ReadonlySet<string>, path: string): boolean {
  if (paths.has(path)) return true;
  for (const one of paths) if (path.startsWith(`${one}.`) || one.startsWith(`${path}.`)) return true;
  return false;
}

/** Observed paths that must be kept as secret as the desired ones that they show. */
export function observedTaints(kind: PlanKind, view: View): ReadonlySet<string> {
  const taints = new Set([...view.sensitive, ...(kind.taints?.(view.sensitive, view.plain) ?? [])]);
  for (const key of secretProperties(kind.attributes.properties)) taints.add(key);
  return taints;
}

/** What was observed, with its secret parts wrapped. */
export function wrapObserved(observed: Record<string, Plain>, taints: ReadonlySet<string>): ValueMap {
  const wrap = (value: Plain, path: string): Value => {
    if (taints.has(path)) return new Sensitive(value);
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return (value as readonly Plain[]).map((item, i) => wrap(item, join(path, String(i))));
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, wrap(item, join(path, key))]));
  };
  return Object.fromEntries(Object.entries(observed).map(([key, item]) => [key, wrap(item, key)]));
}

/** What the kind's diff says, without what the lifecycle ignores. */
export function diffOf(kind: PlanKind, input: PlanDiffInput, ignore: readonly string[] = []): PlanPropertyDiff[] {
  const diffs = kind.diff?.(input) ?? defaultDiff(kind, input);
  return diffs.filter((diff) => !ignore.some((path) => diff.path === path || diff.path.startsWith(`${path}.`)));
}

/** Compares every property that the spec sets and `read` gives. */
export function defaultDiff(kind: PlanKind, input: PlanDiffInput): PlanPropertyDiff[] {
  const out: PlanPropertyDiff[] = [];
  for (const key of Object.keys(kind.schema.properties)) {
    const after = input.desired[key];
    if (after === undefined || kind.attributes.properties[key] === undefined) continue;
    const before = input.observed[key];
    if (canonicalText(before ?? null) === canonicalText(after)) continue;
    out.push({ path: key, ...(before !== undefined && { before }), after });
  }
  return out;
}

/** Diffs as a plan carries them: secret values become keyed digests. */
export function maskChanges(
  kind: PlanKind,
  diffs: readonly PlanPropertyDiff[],
  secret: ReadonlySet<string>,
  seal: Seal,
): PropertyChange[] {
  return diffs.map((diff) => {
    const sensitive = touches(secret, diff.path);
    const mask = (value: Plain): Plain => encodeValue(sensitive ? new Sensitive(value) : value, seal);
    const replace = kind.schema.properties[diff.path.split(".")[0] ?? ""]?.["x-labctl"]?.replace === true;
    return {
      path: diff.path,
      ...(diff.before !== undefined && { before: mask(diff.before) }),
      ...(diff.after !== undefined && { after: mask(diff.after) }),
      effect: diff.effect ?? (replace ? "replace" : "update"),
      ...(diff.text === true && !sensitive && { text: true }),
      ...(sensitive && { sensitive: true }),
    };
  });
}

/** What the row says, for handlers: plain, without what cannot be revealed. */
export function priorOf(row: Row): PlanPrior {
  const plain = (encoded: Plain): Record<string, Plain> | undefined => {
    if (encoded === null) return undefined;
    const value = decodeValue(encoded);
    return isMap(value) ? viewOf(value, undefined).plain : undefined;
  };
  return {
    desired: plain(row.desired) ?? {},
    attempted: row.attempted?.map((one) => plain(one) ?? {}),
    observed: plain(row.observed),
    original: plain(row.original),
    instance_id: row.instance_id,
    checkpoint: row.checkpoint,
  };
}

/** Non-volatile attributes that differ between what was last seen and what is there now, both encoded. */
export function driftOf(kind: PlanKind, last: Plain, now: Plain): PropertyChange[] {
  const [before, after] = [asObject(last), asObject(now)];
  if (before === undefined || after === undefined) return [];
  const out: PropertyChange[] = [];
  for (const [key, property] of Object.entries(kind.attributes.properties)) {
    if (property["x-labctl"]?.volatile === true) continue;
    const [b, a] = [before[key], after[key]];
    if (sameEncoded(b, a)) continue;
    const sensitive = isSealed(b) || isSealed(a);
    out.push({
      path: key,
      ...(b !== undefined && { before: b }),
      ...(a !== undefined && { after: a }),
      effect: "update",
      ...(sensitive && { sensitive: true }),
    });
  }
  return out;
}

/** Observed attributes as a row keeps them: volatile ones included, transient ones (not in the schema) left out. */
export function encodeObserved(
  kind: PlanKind,
  observed: Record<string, Plain>,
  taints: ReadonlySet<string>,
  seal: Seal,
): Plain {
  const { properties, additionalProperties } = kind.attributes;
  // Some kinds have attributes that their own resources name.
  const open = additionalProperties !== undefined && additionalProperties !== false;
  const known = open
    ? observed
    : Object.fromEntries(Object.entries(observed).filter(([key]) => properties[key] !== undefined));
  return encodeValue(wrapObserved(known, taints), seal);
}

function asObject(value: Plain): { readonly [key: string]: Plain } | undefined {
  return value !== null && typeof value === "object" && !Array.isArray(value)
    ? (value as { readonly [key: string]: Plain })
    : undefined;
}

function isSealed(value: Plain | undefined): boolean {
  return value !== undefined && asObject(value)?.["$sensitive"] !== undefined;
}
