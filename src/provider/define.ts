import type { Plain } from "../model/index.ts";
import { API_VERSION, type Kind, type Provider } from "./contract.ts";
import type { Infer } from "./infer.ts";
import type { ObjectSchema } from "./schema.ts";

/** Declares a kind; the types of `desired` and `observed` follow from its two schemas. */
export function defineKind<const S extends ObjectSchema, const A extends ObjectSchema>(
  kind: Omit<Kind<Infer<S>, Infer<A>>, "schema" | "attributes"> & { readonly schema: S; readonly attributes: A },
): Kind {
  // Handlers are only ever called with values that were validated against these schemas.
  return kind as unknown as Kind<Record<string, Plain>, Record<string, Plain>>;
}

/** Declares a provider: the default export of its package or file. */
export function defineProvider(provider: Omit<Provider, "api">): Provider {
  return { ...provider, api: API_VERSION };
}
