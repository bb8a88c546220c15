import { type Address, formatSegment } from "./address.ts";

/**
 * Values of a spec as they move through labctl. Plain JSON, plus things that only live in memory and have a
 * tagged form on disk (see {@link encodeValue}):
 *
 * - {@link Template}: text with references not resolved yet;
 * - {@link Unknown}: a value known only after apply;
 * - {@link Sensitive}: a value that must not be shown or stored; read back from disk it is a {@link Sealed}.
 */
export type Plain = null | boolean | number | string | readonly Plain[] | { readonly [key: string]: Plain };
export type Value =
  | null
  | boolean
  | number
  | string
  | Unknown
  | Sensitive
  | Sealed
  | Template
  | readonly Value[]
  | { readonly [key: string]: Value };
export type ValueMap = { readonly [key: string]: Value };

/** `${host.builder-1.address}`: root `host`, path `["builder-1", "address"]`. */
export interface Reference {
  readonly root: string;
  readonly path: readonly string[];
}

export function formatReference(ref: Reference): string {
  return [ref.root, ...ref.path]
    .map((part, i) => (i > 0 && !/^[\w-]+$/.test(part) ? JSON.stringify(part) : part))
    .join(".");
}

/**
 * What a reference to a resource names. `${host.b.address}` has the kind as its root; a reference to a contained
 * resource has its whole address as root: `${host.b/file["/x"].digest}`.
 */
export function referenceTarget(ref: Reference): { readonly address: Address; readonly path: readonly string[] } {
  if (/[/.[]/.test(ref.root)) return { address: ref.root, path: ref.path };
  const [key, ...path] = ref.path;
  return { address: formatSegment(key === undefined ? { kind: ref.root } : { kind: ref.root, key }), path };
}

/** Text with references. One part alone that is a reference stands for the whole value and keeps its type. */
export class Template {
  readonly parts: readonly (string | Reference)[];
  constructor(parts: readonly (string | Reference)[]) {
    this.parts = parts;
  }
  /** The reference that makes up the whole string, if it does. */
  get whole(): Reference | undefined {
    const [only] = this.parts;
    return this.parts.length === 1 && typeof only === "object" ? only : undefined;
  }
  get references(): Reference[] {
    return this.parts.filter((part) => typeof part === "object");
  }
  toString(): string {
    return this.parts
      .map((part) => (typeof part === "string" ? part.replaceAll("${", "$${") : `\${${formatReference(part)}}`))
      .join("");
  }
  toJSON(): Plain {
    return {
      $template: this.parts.map((part) => (typeof part === "string" ? part : { $ref: [part.root, ...part.path] })),
    };
  }
}

/** A value known only after apply; `template` is the reference that it waits for. */
export class Unknown {
  readonly template: Template;
  constructor(template: Template) {
    this.template = template;
  }
  toString(): string {
    return "(known after apply)";
  }
  toJSON(): Plain {
    return { $unknown: this.template.toJSON() };
  }
}

const INSPECT = Symbol.for("nodejs.util.inspect.custom");

/**
 * A value that must never be shown or stored. It prints as `(sensitive)` wherever it strays; only {@link reveal}
 * gives the value, and a search for `.reveal(` finds every place that does so.
 */
export class Sensitive<T extends Plain = Plain> {
  readonly #value: T;
  /** How to obtain it again: what state and plans keep in its place. */
  readonly from: Template | undefined;
  constructor(value: T, from?: Template) {
    this.#value = value;
    this.from = from;
  }
  reveal(): T {
    return this.#value;
  }
  toString(): string {
    return "(sensitive)";
  }
  toJSON(): Plain {
    return { $sensitive: { from: this.from === undefined ? null : this.from.toJSON() } };
  }
  [INSPECT](): string {
    return "(sensitive)";
  }
}

/** A sensitive value as read back from state or a plan: its keyed digest and its origin, never the value. */
export class Sealed {
  readonly hmac: string | undefined;
  readonly from: Template | undefined;
  constructor(hmac: string | undefined, from: Template | undefined) {
    this.hmac = hmac;
    this.from = from;
  }
  toString(): string {
    return "(sensitive)";
  }
  toJSON(): Plain {
    return {
      $sensitive: { from: this.from === undefined ? null : this.from.toJSON(), ...(this.hmac && { hmac: this.hmac }) },
    };
  }
}

/** Keyed digest of a sensitive value's canonical text; undefined where no key is at hand (a plan that writes nothing). */
export type Seal = (canonical: string) => string | undefined;

/**
 * The form of a value on disk: plain JSON, with `$template`, `$unknown` and `$sensitive` tags. Keys of the user's own
 * that begin with `$` are written with one `$` more, so that no spec can forge a tag.
 */
export function encodeValue(value: Value | undefined, seal: Seal): Plain {
  if (value === undefined || value === null) return null;
  if (typeof value !== "object") return value;
  if (value instanceof Sensitive) {
    return new Sealed(seal(canonicalText(value.reveal())), value.from).toJSON();
  }
  if (value instanceof Template || value instanceof Unknown || value instanceof Sealed) return value.toJSON();
  if (isList(value)) return value.map((item) => encodeValue(item, seal));
  // As entries: to assign to `__proto__` would set no property.
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key.startsWith("$") ? `$${key}` : key, encodeValue(item, seal)]),
  );
}

export function decodeValue(plain: Plain): Value {
  if (plain === null || typeof plain !== "object") return plain;
  if (isList(plain)) return plain.map(decodeValue);
  if (Array.isArray(plain["$template"])) return decodeTemplate(plain["$template"]);
  if (plain["$unknown"] !== undefined) {
    const waits = decodeValue(plain["$unknown"]);
    return new Unknown(waits instanceof Template ? waits : new Template([]));
  }
  const sealed = plain["$sensitive"];
  if (sealed !== undefined && sealed !== null && typeof sealed === "object" && !isList(sealed)) {
    const from = sealed["from"] === null || sealed["from"] === undefined ? undefined : decodeValue(sealed["from"]);
    const hmac = sealed["hmac"];
    return new Sealed(typeof hmac === "string" ? hmac : undefined, from instanceof Template ? from : undefined);
  }
  return Object.fromEntries(
    Object.entries(plain).map(([key, item]) => [key.startsWith("$$") ? key.slice(1) : key, decodeValue(item)]),
  );
}

function decodeTemplate(parts: readonly Plain[]): Template {
  return new Template(
    parts.map((part) => {
      if (typeof part === "string") return part;
      const ref = part !== null && typeof part === "object" && !isList(part) ? part["$ref"] : undefined;
      const words = Array.isArray(ref) ? ref.filter((word): word is string => typeof word === "string") : [];
      const [root = "", ...path] = words;
      return { root, path };
    }),
  );
}

function isList<T>(value: readonly T[] | object): value is readonly T[] {
  return Array.isArray(value);
}

export function isMap(value: Value | undefined): value is ValueMap {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Unknown) &&
    !(value instanceof Sensitive) &&
    !(value instanceof Sealed) &&
    !(value instanceof Template)
  );
}

/** JSON with sorted keys: equal values have equal text. */
export function canonicalText(value: Plain): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (isList(value)) return `[${value.map(canonicalText).join(",")}]`;
  return `{${Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([key, item]) => `${JSON.stringify(key)}:${canonicalText(item)}`)
    .join(",")}}`;
}

/**
 * Equality as a plan sees it. Sensitive values are compared by value where both are at hand and by keyed digest where
 * one comes from disk; an Unknown equals nothing, itself included.
 */
export function sameValue(a: Value | undefined, b: Value | undefined, seal: Seal): boolean {
  if (a instanceof Unknown || b instanceof Unknown) return false;
  if (a instanceof Sensitive && b instanceof Sensitive) return canonicalText(a.reveal()) === canonicalText(b.reveal());
  if (isSecret(a) || isSecret(b)) {
    const [left, right] = [sealedDigest(a, seal), sealedDigest(b, seal)];
    return left !== undefined && left === right;
  }
  if (a instanceof Template || b instanceof Template) {
    return a instanceof Template && b instanceof Template && a.toString() === b.toString();
  }
  if (
    a === undefined ||
    b === undefined ||
    a === null ||
    b === null ||
    typeof a !== "object" ||
    typeof b !== "object"
  ) {
    return (a ?? null) === (b ?? null);
  }
  if (isList(a) || isList(b)) {
    return isList(a) && isList(b) && a.length === b.length && a.every((item, i) => sameValue(item, b[i], seal));
  }
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  for (const key of keys) {
    if (!sameValue((a as ValueMap)[key], (b as ValueMap)[key], seal)) return false;
  }
  return true;
}

/**
 * Equality of two encoded values. Keyed digests are compared where one key made both (`KEY:DIGEST`); digests of different
 * keys say nothing, so that another machine's key is not taken for a change.
 */
export function sameEncoded(a: Plain | undefined, b: Plain | undefined): boolean {
  const [left, right] = [a ?? null, b ?? null];
  if (left === null || right === null || typeof left !== "object" || typeof right !== "object") return left === right;
  if (isList(left) || isList(right)) {
    return (
      isList(left) &&
      isList(right) &&
      left.length === right.length &&
      left.every((item, i) => sameEncoded(item, right[i]))
    );
  }
  if (left["$unknown"] !== undefined || right["$unknown"] !== undefined) return false;
  if (left["$sensitive"] !== undefined && right["$sensitive"] !== undefined) {
    const [one, other] = [decodeValue(left), decodeValue(right)];
    if (!(one instanceof Sealed) || !(other instanceof Sealed)) return false;
    if (one.hmac === undefined || other.hmac === undefined) return true;
    return one.hmac === other.hmac || one.hmac.split(":")[0] !== other.hmac.split(":")[0];
  }
  const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...keys].every((key) => sameEncoded(left[key], right[key]));
}

function isSecret(value: unknown): boolean {
  return value instanceof Sensitive || value instanceof Sealed;
}

function sealedDigest(value: Value | undefined, seal: Seal): string | undefined {
  if (value instanceof Sealed) return value.hmac;
  if (value instanceof Sensitive) return seal(canonicalText(value.reveal()));
  // A plain value beside a sealed one: the same secret once written in the clear, or the other way round.
  if (value === undefined || value instanceof Unknown || value instanceof Template) return undefined;
  return containsSpecial(value) ? undefined : seal(canonicalText(value as Plain));
}

export function containsSpecial(value: Value | undefined): boolean {
  let found = false;
  walkValue(value, (item) => {
    if (item instanceof Template || item instanceof Unknown || item instanceof Sensitive || item instanceof Sealed)
      found = true;
  });
  return found;
}

/** Calls `visit` for every value in a tree, containers before their contents. */
export function walkValue(
  value: Value | undefined,
  visit: (value: Value, path: readonly string[]) => void,
  path: readonly string[] = [],
): void {
  if (value === undefined) return;
  visit(value, path);
  if (Array.isArray(value)) {
    for (const [i, item] of (value as readonly Value[]).entries()) walkValue(item, visit, [...path, String(i)]);
  } else if (isMap(value)) {
    for (const [key, item] of Object.entries(value)) walkValue(item, visit, [...path, key]);
  }
}

/** A copy of `value` in which every Template is replaced by what `resolve` gives for it. */
export function mapTemplates(
  value: Value,
  resolve: (template: Template, path: readonly string[]) => Value,
  path: readonly string[] = [],
): Value {
  if (value instanceof Template) return resolve(value, path);
  if (Array.isArray(value))
    return (value as readonly Value[]).map((item, i) => mapTemplates(item, resolve, [...path, String(i)]));
  if (isMap(value)) {
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [
        key,
        typeof item === "object" && item !== null ? mapTemplates(item, resolve, [...path, key]) : item,
      ]),
    );
  }
  return value;
}
