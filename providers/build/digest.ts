import { createHash } from "node:crypto";

/** Raised when a change of labctl's own makes builds come out differently: what was built before is built again. */
export const RECIPE_VERSION = 1;

/** What a build is made from, all of it; nothing that is not here may change what comes out. */
export interface BuildInputs {
  readonly source: /** Where the repository is does not matter, and what is in the commit does. */
    | { readonly type: "git"; readonly commit: string }
    | { readonly type: "directory"; readonly digest: string }
    | { readonly type: "tarball"; readonly sha256: string };
  readonly arch: string;
  readonly toolchain: { readonly name: string; readonly version: string; readonly target: string };
  /** Exported to the build's commands. Secrets have no place here: their digest would be one of them. */
  readonly env: Readonly<Record<string, string>>;
  readonly work:
    | {
        readonly type: "kernel";
        /** Name of a target, or the text of a whole configuration. */
        readonly base: { readonly defconfig: string } | { readonly config: string };
        /** Symbol -> value, merged: where each was asked for does not matter. */
        readonly symbols: Readonly<Record<string, string>>;
        readonly modules: boolean;
        readonly dtbs: boolean | readonly string[];
        /** In this order. */
        readonly make_args: readonly string[];
      }
    | {
        readonly type: "run";
        readonly run: string;
        readonly outputs: Readonly<Record<string, { readonly path: string; readonly type?: string }>>;
      };
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined };

/** JSON with the keys of maps in order and nothing between: one text for one meaning (after RFC 8785). */
export function canonicalJson(value: Json): string {
  if (Array.isArray(value)) return `[${(value as readonly Json[]).map(canonicalJson).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const entries = Object.entries(value as { readonly [key: string]: Json | undefined })
      .filter((entry): entry is [string, Json] => entry[1] !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/** The identity of a build: SHA-256 in hexadecimal. */
export function buildDigest(inputs: BuildInputs): string {
  return sha256({ recipe: RECIPE_VERSION, ...inputs });
}

/** What objects can be kept for: everything but the source. See PathInputs.configuration. */
export function objectsDigest(inputs: BuildInputs): string {
  const { source: _source, ...rest } = inputs;
  return sha256({ recipe: RECIPE_VERSION, ...rest });
}

function sha256(value: Json): string {
  return createHash("sha256").update(canonicalJson(value)).digest("hex");
}
