import { type ErrorObject, Ajv, type ValidateFunction } from "ajv";
import type { Plain } from "../model/index.ts";
import type { Kind, Schema } from "../provider/index.ts";
import { scalarValue } from "./check-scalar.ts";
import { labSchema, originOf, pipelineSchema, type PublishedSchema } from "./compose.ts";
import type { Documents } from "./documents.ts";
import type { ScalarNode, SpecNode } from "./node.ts";
import { patternOf } from "./check-base.ts";

/**
 * The last word on the form of a spec: the published schema, by ajv. The walk that explains mistakes has passed it
 * before; should the two ever differ, the stricter one wins.
 */
export function checkRecord(documents: Documents, kinds: readonly Kind[]): void {
  const parts = [
    { node: documents.lab, schema: () => labSchema(kinds) },
    { node: documents.pipeline, schema: () => pipelineSchema(kinds) },
  ];
  for (const { node, schema } of parts) {
    if (node === undefined) continue;
    for (const error of recordErrors(node, schema())) {
      const where = error.instancePath === "" ? "the spec" : error.instancePath;
      documents.problems.error(
        "E_SPEC_VALUE",
        `${where} ${error.message ?? "is not allowed"}`,
        placeOf(node, error.instancePath),
      );
    }
  }
}

/**
 * The schema without keys that stand nowhere in a document: for that document it says the same, and compiling the rest
 * would take most of the time.
 */
function pruned(schema: PublishedSchema, node: SpecNode): PublishedSchema {
  const names = new Set<string>();
  collectKeys(node, names);
  const thin = (one: Schema): Schema =>
    one.properties === undefined
      ? one
      : { ...one, properties: Object.fromEntries(Object.entries(one.properties).filter(([name]) => names.has(name))) };
  const definitions = Object.entries(schema.definitions ?? {}).map(([name, one]) => [name, thin(one)] as const);
  return { ...schema, ...thin(schema), definitions: Object.fromEntries(definitions) };
}

function collectKeys(node: SpecNode, into: Set<string>): void {
  if (node.type === "list") for (const item of node.items) collectKeys(item, into);
  if (node.type !== "map") return;
  for (const [key, entry] of node.entries) {
    into.add(key);
    collectKeys(entry.value, into);
  }
}

/** What ajv says of a document; empty where it is valid. */
export function recordErrors(node: SpecNode, schema: PublishedSchema): readonly ErrorObject[] {
  const validate = compile(pruned(schema, node));
  return validate(plainOf(node, schema, schema)) ? [] : (validate.errors ?? []);
}

/** Compiling is what costs, not checking: nothing is optimised, and the schema, which is ours, is not checked itself. */
const OPTIONS = {
  strict: false,
  validateFormats: false,
  validateSchema: false,
  meta: false,
  addUsedSchema: false,
  code: { optimize: false },
} as const;

const compiled = new Map<string, ValidateFunction>();

function compile(schema: PublishedSchema): ValidateFunction {
  const text = JSON.stringify(schema);
  const known = compiled.get(text);
  if (known !== undefined) return known;
  const made = new Ajv(OPTIONS).compile(schema);
  compiled.set(text, made);
  return made;
}

function placeOf(node: SpecNode, pointer: string): SpecNode {
  let found = node;
  for (const part of pointer.split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    const next =
      found.type === "map"
        ? found.entries.get(key)?.value
        : found.type === "list"
          ? found.items[Number(key)]
          : undefined;
    if (next === undefined) return found;
    found = next;
  }
  return found;
}

/** The document as JSON, each scalar of the type that its schema gives it. */
export function plainOf(node: SpecNode, schema: Schema, root: PublishedSchema): Plain {
  const target = follow(schema, root);
  switch (node.type) {
    case "scalar":
      return plainScalar(node, originOf(target));
    case "list":
      return node.items.map((item) => plainOf(item, target.items ?? {}, root));
    case "map":
      return Object.fromEntries(
        [...node.entries].map(([key, entry]) => [key, plainOf(entry.value, propertyOf(target, key), root)]),
      );
  }
}

function plainScalar(node: ScalarNode, schema: Schema): Plain {
  if (/\$\{[A-Za-z_][A-Za-z0-9_-]*\./.test(node.text)) return node.text;
  if (schema["x-labctl"]?.octal === true && node.plain && /^(0o?)?[0-7]{3,4}$/.test(node.text))
    return Number(node.text);
  const value = scalarValue(node, schema);
  // What fits no type stays what YAML makes of it, for ajv to refuse.
  if (value === undefined) return scalarValue(node, {}) ?? null;
  return value;
}

function follow(schema: Schema, root: PublishedSchema): Schema {
  const ref = (schema as PublishedSchema).$ref;
  if (ref === undefined) return schema;
  return root.definitions?.[ref.slice("#/definitions/".length)] ?? {};
}

function propertyOf(schema: Schema, key: string): Schema {
  if (schema.properties !== undefined && Object.hasOwn(schema.properties, key)) return schema.properties[key] ?? {};
  for (const [pattern, one] of Object.entries(schema.patternProperties ?? {}))
    if (patternOf(pattern).test(key)) return one;
  for (const branch of [...(schema.oneOf ?? []), ...(schema.anyOf ?? [])]) {
    if (branch.properties !== undefined && Object.hasOwn(branch.properties, key)) return branch.properties[key] ?? {};
    if (typeof branch.additionalProperties === "object") return branch.additionalProperties;
  }
  return typeof schema.additionalProperties === "object" ? schema.additionalProperties : {};
}
