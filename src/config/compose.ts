import { DURATION_PATTERN, SIZE_PATTERN } from "../model/index.ts";
import type { Kind, Schema, SpecDocument } from "../provider/index.ts";
import { expected } from "./types.ts";
import { keySchemaOf, KindTables, optionsOf, userSchema } from "./tables.ts";
import { fixedSections, OPTIONS, OUTPUT_DECLARATION, PIPELINE_SECTIONS } from "./top.ts";

/** A schema as it is published: with the few keywords that kinds do not write themselves. */
export interface PublishedSchema extends Schema {
  readonly $schema?: string;
  readonly $id?: string;
  readonly $ref?: string;
  readonly dependencies?: { readonly [key: string]: readonly string[] | Schema };
  /** What yaml-language-server says in place of the pattern. */
  readonly patternErrorMessage?: string;
  readonly definitions?: { readonly [name: string]: Schema };
}

const DRAFT = "http://json-schema.org/draft-07/schema#";
const REFERENCE = "\\$\\{[A-Za-z_][A-Za-z0-9_-]*\\.";
const WHOLE_REFERENCE = `^${REFERENCE}[^}]*\\}$`;
const KEY_REFERENCE = "\\$\\{each\\.";

/** From a published schema to the one that it was made of, which says what was meant without references. */
const origins = new WeakMap<Schema, Schema>();

export function originOf(schema: Schema): Schema {
  return origins.get(schema) ?? schema;
}

/**
 * The schema of lab.yaml for these kinds: what editors complete and check with, and what ajv holds every spec against.
 * Where a value may stand, a reference may stand; where text is wanted, a plain number or boolean is text.
 */
export function labSchema(kinds: readonly Kind[]): PublishedSchema {
  const tables = new KindTables(kinds);
  const fixed = fixedSections(kinds);
  const properties: Record<string, Schema> = {};
  for (const [name, schema] of Object.entries(fixed))
    properties[name] = name === "outputs" ? outputs(schema) : lenient(schema);
  for (const [name, kind] of tables.top) properties[name] = sectionSchema(kind);
  return document("lab.yaml", "What a lab is: its machines and what stands on them.", "lab", properties, tables);
}

/** The schema of pipeline.yaml. */
export function pipelineSchema(kinds: readonly Kind[]): PublishedSchema {
  const tables = new KindTables(kinds);
  const properties: Record<string, Schema> = {};
  for (const [name, schema] of Object.entries(PIPELINE_SECTIONS)) properties[name] = lenient(schema);
  for (const [name, kind] of tables.pipeline) properties[name] = sectionSchema(kind);
  return document(
    "pipeline.yaml",
    "What is built, deployed, proved and tested on a lab.",
    "pipeline",
    properties,
    tables,
  );
}

function document(
  title: string,
  description: string,
  which: SpecDocument,
  properties: Readonly<Record<string, Schema>>,
  tables: KindTables,
): PublishedSchema {
  const definitions: Record<string, Schema> = {};
  const own = [...tables.kinds.values()].filter((kind) => tables.documentOf(kind) === which);
  for (const kind of own) definitions[kind.kind] = resourceSchema(kind, tables);
  const used = new Set(own.flatMap((kind) => [...optionsOf(kind).keys()]));
  for (const [name, schema] of Object.entries(OPTIONS))
    if (used.has(name)) definitions[`${OPTION}${name}`] = lenient(schema);
  return {
    $schema: DRAFT,
    title,
    description,
    type: "object",
    properties,
    required: ["labctl", "name"],
    additionalProperties: false,
    definitions,
  } as PublishedSchema;
}

/** Kinds are words without a dot, so these names are free. */
const OPTION = "resource.";

function refTo(kind: Kind): Schema {
  return { $ref: `#/definitions/${kind.kind}` } as Schema;
}

function sectionSchema(kind: Kind): Schema {
  const keys = keySchemaOf(kind);
  if (kind.section.shape === "one") return refTo(kind);
  if (kind.section.shape === "map") {
    return {
      type: ["object", "null"],
      description: kind.title,
      propertyNames: keyLenient(keys),
      additionalProperties: refTo(kind),
    };
  }
  return { type: ["array", "null"], description: kind.title, items: refTo(kind) };
}

/** One resource as it is written: its own properties, the sections inside it, and what every resource can have. */
function resourceSchema(kind: Kind, tables: KindTables): Schema {
  const own = userSchema(kind);
  const { properties, required, dependentRequired, ...rest } = own;
  const all: Record<string, Schema> = {};
  const key = keySchemaOf(kind);
  const list = kind.section.shape === "list";
  if (list) all[kind.section.key] = stringly({ ...kind.schema.properties[kind.section.key], ...key, type: "string" });
  for (const [name, schema] of Object.entries(properties)) all[name] = lenient(schema);
  for (const [name, child] of tables.childrenOf(kind.kind)) all[name] = sectionSchema(child);
  for (const name of optionsOf(kind).keys()) all[name] = { $ref: `#/definitions/${OPTION}${name}` } as Schema;
  const needed = [...(list ? [kind.section.key] : []), ...(required ?? [])];
  const demanding = needed.length > 0 || rest.anyOf !== undefined || rest.oneOf !== undefined;
  const made: PublishedSchema = {
    ...rest,
    ...(rest.not && { not: ofMaps(rest.not) }),
    title: kind.title,
    description: firstParagraph(kind.description),
    type: list ? ["string", "number", "boolean", "object"] : demanding ? "object" : ["object", "null"],
    properties: all,
    ...(needed.length > 0 && { required: needed }),
    ...(dependentRequired && { dependencies: dependentRequired }),
    ...(list && key.pattern !== undefined && { pattern: orReference(key.pattern) }),
    additionalProperties: false,
  };
  if (list) origins.set(made, { ...made, type: ["string", "object"] });
  return made;
}

export function firstParagraph(text: string): string {
  return (text.split("\n\n")[0] ?? "").replaceAll("\n", " ");
}

function orReference(pattern: string): string {
  return `(?:${pattern})|${REFERENCE}`;
}

function keyLenient(schema: Schema): Schema {
  return schema.pattern === undefined ? schema : { ...schema, pattern: `(?:${schema.pattern})|${KEY_REFERENCE}` };
}

function outputs(schema: Schema): Schema {
  const entry = schema.additionalProperties;
  // A map that says `value` is a declaration; any other map is a value.
  const conditional = { ...(typeof entry === "object" && entry), dependencies: { value: OUTPUT_DECLARATION } };
  return { ...schema, additionalProperties: conditional as Schema };
}

/** The schema with a reference allowed wherever a value may stand. */
export function lenient(schema: Schema): Schema {
  if (schema.const !== undefined) return schema;
  const made = widened(inner(schema));
  origins.set(made, schema);
  return made;
}

/** The same below the top: properties, items, entries and branches. */
function inner(schema: Schema): Schema {
  const { dependentRequired, ...rest } = schema;
  const each = (map: Readonly<Record<string, Schema>>): Record<string, Schema> =>
    Object.fromEntries(Object.entries(map).map(([name, one]) => [name, lenient(one)]));
  const branch = (one: Schema): Schema => {
    const made = inner(one);
    origins.set(made, one);
    return made;
  };
  return {
    ...rest,
    ...(schema.properties && { properties: each(schema.properties) }),
    ...(schema.patternProperties && { patternProperties: each(schema.patternProperties) }),
    ...(schema.propertyNames && { propertyNames: keyLenient(schema.propertyNames) }),
    ...(typeof schema.additionalProperties === "object" && {
      additionalProperties: lenient(schema.additionalProperties),
    }),
    ...(schema.items && { items: lenient(schema.items) }),
    ...(schema.not && { not: ofMaps(schema.not) }),
    ...(schema.oneOf && { oneOf: schema.oneOf.map(branch) }),
    ...(schema.anyOf && { anyOf: schema.anyOf.map(branch) }),
    ...(dependentRequired && { dependencies: dependentRequired }),
  };
}

/** `required` holds of everything that is no map, so under `not` it would refuse all of that. */
function ofMaps(not: Schema): Schema {
  return not.required !== undefined && not.type === undefined ? { type: "object", ...not } : not;
}

function widened(schema: Schema): Schema {
  if (schema.enum !== undefined) {
    const { enum: choices, type, ...rest } = schema;
    return {
      ...rest,
      anyOf: [
        { ...(type !== undefined && { type }), enum: choices },
        { type: "string", pattern: REFERENCE },
      ],
    };
  }
  if (schema.type === undefined) return withReferenceBranch(schema);
  const types = [schema.type].flat();
  if (types.includes("string")) return stringly(schema);
  return {
    ...schema,
    type: [...types, "string"],
    pattern: WHOLE_REFERENCE,
    patternErrorMessage: `must be ${expected(schema)}, or a reference such as \${var.NAME}`,
  } as PublishedSchema;
}

/** `anyOf` of types gets one more branch; a union that only asks for keys stands beside `type` and needs none. */
function withReferenceBranch(schema: Schema): Schema {
  const branches = schema.oneOf ?? schema.anyOf;
  if (branches === undefined) return schema;
  const more: Schema = { type: "string", pattern: WHOLE_REFERENCE };
  const open = branches.some(
    (one) => one.type === undefined || (one.pattern === undefined && [one.type].flat().includes("string")),
  );
  if (open) return schema;
  return schema.oneOf === undefined
    ? { ...schema, anyOf: [...branches, more] }
    : { ...schema, oneOf: [...branches, more] };
}

function stringly(schema: Schema): Schema {
  const notes = schema["x-labctl"];
  const types = [schema.type ?? "string"].flat();
  // Where the quotes matter (modes) or a number alone is always wrong (durations), editors say so as well.
  const unit = notes?.unit === undefined ? undefined : notes.unit === "size" ? SIZE_PATTERN : DURATION_PATTERN;
  const pattern = schema.pattern ?? unit;
  const strict = notes?.octal === true || notes?.unit !== undefined;
  const more = strict
    ? []
    : ["number", "boolean"].filter(
        (type) => !types.includes(type) && !(type === "number" && types.includes("integer")),
      );
  const all = [...types, ...more];
  const made: Schema = {
    ...schema,
    type: all.length === 1 ? (all[0] ?? "string") : all,
    ...(pattern !== undefined && notes?.shell !== true && { pattern: orReference(pattern) }),
  };
  origins.set(made, schema);
  return made;
}
