import type { Plain } from "../model/index.ts";

/**
 * The TypeScript type of what a schema allows. It covers what kinds write (see schema.ts) and stays shallow, so that the
 * compiler does not give up on large schemas. Properties with a default are never absent: the loader fills them in.
 */
export type Infer<S> = S extends { readonly const: infer C }
  ? C
  : S extends { readonly enum: readonly (infer E)[] }
    ? E
    : S extends { readonly type: readonly (infer T)[] }
      ? InferType<T, S>
      : S extends { readonly type: infer T }
        ? InferType<T, S>
        : S extends { readonly oneOf: readonly (infer B)[] }
          ? Infer<B>
          : S extends { readonly anyOf: readonly (infer B)[] }
            ? Infer<B>
            : Plain;

type InferType<T, S> = T extends "string"
  ? string
  : T extends "integer" | "number"
    ? number
    : T extends "boolean"
      ? boolean
      : T extends "null"
        ? null
        : T extends "array"
          ? S extends { readonly items: infer I }
            ? Infer<I>[]
            : Plain[]
          : T extends "object"
            ? InferObject<S>
            : Plain;

type InferObject<S> = S extends { readonly properties: infer P }
  ? { [K in keyof P as K extends Always<S, P> ? K : never]: Infer<P[K]> } & {
      [K in keyof P as K extends Always<S, P> ? never : K]?: Infer<P[K]>;
    } extends infer Both
    ? { [K in keyof Both]: Both[K] }
    : never
  : S extends { readonly additionalProperties: infer A extends object }
    ? { [key: string]: Infer<A> }
    : { [key: string]: Plain };

type Always<S, P> =
  | (S extends { readonly required: readonly (infer R)[] } ? R : never)
  | { [K in keyof P]: P[K] extends { readonly default: unknown } ? K : never }[keyof P];
