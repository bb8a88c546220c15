/**
 * JSON Schema (draft-07 subset) as kinds write it, with labctl's own annotations under `x-labctl`.
 * Types are inferred from it (infer.ts), editors read it, ajv validates with it, the reference is made of it.
 */
export interface Annotations {
  /** A change of this property replaces the resource. */
  readonly replace?: boolean;
  /** A change of this property restarts the resource where it runs; without it, and without `replace`, it changes live. */
  readonly restart?: boolean;
  /** Always treated as sensitive, wherever it comes from. */
  readonly sensitive?: boolean;
  /** Observed, but moves by itself: never drift (free disk, load). */
  readonly volatile?: boolean;
  /** Names the resource: filled from the key of the section's map, or the list's item. Never written by users. */
  readonly identity?: boolean;
  /** A local path, relative to the file that holds it. The loader makes it relative to the lab's root. */
  readonly path?: boolean;
  /** Text that a shell runs: references inside are refused. */
  readonly shell?: boolean;
  /** Derived by prepare(), never written by users. */
  readonly derived?: boolean;
  /** A duration such as `30s`; the loader leaves the text, kinds parse it. */
  readonly unit?: "duration" | "size";
  /** The name of a resource of this kind: becomes a dependency. */
  readonly refers?: string;
  /** Must be quoted when it looks like a number: an unquoted 0755 is an error that shows the quoted form. */
  readonly octal?: boolean;
}

export interface Schema {
  readonly type?: string | readonly string[];
  readonly title?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly examples?: readonly unknown[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly uniqueItems?: boolean;
  readonly properties?: { readonly [key: string]: Schema };
  readonly patternProperties?: { readonly [key: string]: Schema };
  readonly propertyNames?: Schema;
  readonly additionalProperties?: boolean | Schema;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly oneOf?: readonly Schema[];
  readonly anyOf?: readonly Schema[];
  readonly not?: Schema;
  readonly dependentRequired?: { readonly [key: string]: readonly string[] };
  readonly "x-labctl"?: Annotations;
}

/** A schema of an object: what `schema` and `attributes` of a kind are. */
export interface ObjectSchema extends Schema {
  readonly type: "object";
  readonly properties: { readonly [key: string]: Schema };
}
