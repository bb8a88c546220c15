import { didYouMean } from "./problems.ts";
import type { SpecDocument, Kind, ObjectSchema, Schema } from "../provider/index.ts";
import { OPTIONS } from "./top.ts";

/** The kinds by where they are written. */
export class KindTables {
  readonly kinds: ReadonlyMap<string, Kind>;
  /** Sections of the top level of lab.yaml. */
  readonly top = new Map<string, Kind>();
  /** Sections of the top level of pipeline.yaml. */
  readonly pipeline = new Map<string, Kind>();
  readonly #children = new Map<string, Map<string, Kind>>();

  constructor(kinds: readonly Kind[]) {
    this.kinds = new Map(kinds.map((kind) => [kind.kind, kind]));
    for (const kind of kinds) {
      const { within, name, document } = kind.section;
      if (within === undefined) (document === "pipeline" ? this.pipeline : this.top).set(name, kind);
      else {
        const sections = this.#children.get(within) ?? new Map<string, Kind>();
        this.#children.set(within, sections.set(name, kind));
      }
    }
  }

  /** The document that a kind's resources are written in. */
  documentOf(kind: Kind): SpecDocument {
    const parent = kind.section.within === undefined ? undefined : this.kinds.get(kind.section.within);
    return parent === undefined ? (kind.section.document ?? "lab") : this.documentOf(parent);
  }

  /** Sections inside the resources of a kind. */
  childrenOf(kind: string): ReadonlyMap<string, Kind> {
    return this.#children.get(kind) ?? NONE;
  }

  suggestKind(name: string): string | undefined {
    return didYouMean(name, [...this.kinds.keys(), "var", "secret", "each"]);
  }
}

const NONE: ReadonlyMap<string, Kind> = new Map();
const userSchemas = new WeakMap<Kind, ObjectSchema>();

/** A kind's schema as users write it: without what the key fills and what labctl derives. */
export function userSchema(kind: Kind): ObjectSchema {
  const known = userSchemas.get(kind);
  if (known !== undefined) return known;
  const hidden = hiddenProperties(kind);
  const made: ObjectSchema = {
    ...kind.schema,
    properties: Object.fromEntries(Object.entries(kind.schema.properties).filter(([name]) => !hidden.has(name))),
    ...(kind.schema.required && { required: kind.schema.required.filter((name) => !hidden.has(name)) }),
    ...(kind.schema.additionalProperties === undefined && { additionalProperties: false }),
  };
  userSchemas.set(kind, made);
  return made;
}

function hiddenProperties(kind: Kind): Set<string> {
  const hidden = new Set(kind.section.key === undefined ? [] : [kind.section.key]);
  for (const [name, schema] of Object.entries(kind.schema.properties)) {
    const notes = schema["x-labctl"];
    if (notes?.identity === true || notes?.derived === true) hidden.add(name);
  }
  return hidden;
}

/** What every resource can have and this kind does not give a meaning of its own. */
export function optionsOf(kind: Kind): ReadonlyMap<string, Schema> {
  const known = options.get(kind);
  if (known !== undefined) return known;
  const made = new Map(
    Object.entries(OPTIONS).filter(([name]) => !Object.hasOwn(kind.schema.properties, name) && optionFits(name, kind)),
  );
  options.set(kind, made);
  return made;
}

/** `for_each` makes names, and so does `matrix`, which is for what is built and run in several ways. */
function optionFits(name: string, kind: Kind): boolean {
  if (name === "for_each") return kind.section.shape !== "one" && kind.section.document !== "pipeline";
  if (name === "matrix") return kind.section.shape === "map" && kind.section.document === "pipeline";
  return true;
}

const options = new WeakMap<Kind, ReadonlyMap<string, Schema>>();

/** What the keys of a section must be. */
export function keySchemaOf(kind: Kind): Schema {
  if (kind.section.key === undefined) return {};
  const own = kind.section.keySchema ?? kind.schema.properties[kind.section.key];
  return kind.section.keySchema === undefined && own?.pattern === undefined
    ? { type: "string", pattern: "^[a-z0-9][a-z0-9-]*$", maxLength: 128 }
    : (own ?? {});
}
