import type { Schema } from "../provider/index.ts";

/** The JSON types that a schema allows, unions included; undefined: any. */
export function typesOf(schema: Schema): ReadonlySet<string> | undefined {
  const known = cache.get(schema);
  if (known !== undefined) return known === "any" ? undefined : known;
  const types = findTypes(schema);
  cache.set(schema, types ?? "any");
  return types;
}

const cache = new WeakMap<Schema, ReadonlySet<string> | "any">();

function findTypes(schema: Schema): ReadonlySet<string> | undefined {
  if (schema.type !== undefined) return new Set(typeof schema.type === "string" ? [schema.type] : schema.type);
  if (schema.const !== undefined) return new Set([jsonType(schema.const)]);
  if (schema.enum !== undefined) return new Set(schema.enum.map(jsonType));
  const branches = schema.oneOf ?? schema.anyOf;
  if (branches !== undefined) {
    const all = new Set<string>();
    for (const branch of branches) {
      const types = typesOf(branch);
      if (types === undefined) return undefined;
      for (const type of types) all.add(type);
    }
    return all;
  }
  return undefined;
}

export function jsonType(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value;
}

const WORDS: Readonly<Record<string, string>> = {
  string: "text",
  integer: "a whole number",
  number: "a number",
  boolean: "true or false",
  array: "a list",
  object: "a map",
  null: "nothing",
};

/** What a schema wants, in words. */
export function expected(schema: Schema): string {
  const types = [...(typesOf(schema) ?? [])].filter((type, _, all) => type !== "null" || all.length === 1);
  if (types.length === 0) return "a value";
  const words = types.map((type) => WORDS[type] ?? type);
  const last = words.pop() ?? "";
  return words.length === 0 ? last : `${words.join(", ")} or ${last}`;
}
