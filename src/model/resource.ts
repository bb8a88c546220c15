import type { Address } from "./address.ts";
import type { Scope } from "./scope.ts";
import type { SourceRange } from "./source.ts";
import type { Plain, Value, ValueMap } from "./value.ts";

/** One thing that can be converged, as the spec wants it. References in `desired` are still {@link Template}s. */
export interface Resource {
  readonly address: Address;
  readonly kind: string;
  /** Where its row is kept. */
  readonly scope: Scope;
  /** The resource that contains this one: deleting or replacing it takes this along. */
  readonly parent?: Address;
  readonly desired: ValueMap;
  /** Explicit `depends_on` and what references imply, without the parent. Sorted, each once. */
  readonly depends: readonly Address[];
  readonly options: ResourceOptions;
  readonly at: SourceRange;
  /** Places of single properties, keyed by dotted path below this resource. */
  readonly places: Readonly<Record<string, SourceRange>>;
}

/** What every resource can have besides its own properties. Durations in milliseconds. */
export interface ResourceOptions {
  readonly lifecycle?: Lifecycle;
  readonly timeout?: number;
  readonly retry?: RetryPolicy;
  /** Its failure is a warning, and what depends on it goes on. */
  readonly optional?: boolean;
}

export interface Lifecycle {
  readonly prevent_destroy?: boolean;
  /** Dotted property paths whose difference is left alone. */
  readonly ignore_changes?: readonly string[];
  /** Addresses or `address.property`: this resource is replaced when one of them changes. */
  readonly replace_when?: readonly string[];
}

/** `attempts` counts the attempts after the first. Delays in milliseconds; the delay doubles up to `max_delay`. */
export interface RetryPolicy {
  readonly attempts: number;
  readonly delay: number;
  readonly max_delay: number;
}

/** Where a secret comes from; never its value. */
export type SecretSource =
  | { readonly env: string }
  | { readonly file: string }
  | { readonly command: readonly string[] }
  /** A variable of the spec that is declared `sensitive`. */
  | { readonly variable: string };

export interface ProviderRequirement {
  readonly name: string;
  /** `npm:NAME` or a path relative to the file that names it. */
  readonly source: string;
  /** A semver range. */
  readonly version?: string;
  readonly at: SourceRange;
}

/** A whole lab, expanded: what config/ hands to everything after it. */
export interface Lab {
  readonly name: string;
  /** What an apply of this spec owns: `lab`, where lab.yaml was given, and `pipeline/NAME` where a pipeline was. */
  readonly scopes: readonly Scope[];
  /** Every file that was read, in order, with its digest. */
  readonly files: readonly SpecFile[];
  readonly resources: readonly Resource[];
  readonly secrets: Readonly<Record<string, SecretSource>>;
  readonly providers: readonly ProviderRequirement[];
  readonly groups: Readonly<Record<string, Group>>;
  readonly limits: ValueMap;
  readonly defaults: Defaults;
  readonly state: StateSettings;
  readonly artifacts: ArtifactSettings;
  readonly imports: readonly ImportRequest[];
  readonly moved: readonly Move[];
  readonly removed: readonly Removal[];
  readonly outputs: Readonly<Record<string, OutputDeclaration>>;
}

export interface SpecFile {
  readonly path: string;
  readonly sha256: string;
}

/** Of all that the spec does not say for itself. Durations in milliseconds. */
export interface Defaults {
  readonly ssh: ValueMap;
  readonly timeouts: { readonly connect: number; readonly command: number; readonly boot: number };
  readonly retry: RetryPolicy;
}

export interface Group {
  readonly description?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly members: readonly Address[];
  readonly policy: Readonly<Record<string, Plain>>;
}

export interface StateSettings {
  readonly backend: "file";
  /** Absolute folder that holds the state. */
  readonly path: string;
}

export interface ArtifactSettings {
  /** Absolute folder that holds what builds made. */
  readonly store: string;
  readonly retention: { readonly days: number; readonly keep_latest: number };
}

export interface ImportRequest {
  readonly address: Address;
  readonly id: string;
  readonly at: SourceRange;
}

export interface Move {
  readonly from: Address;
  readonly to: Address;
  readonly at: SourceRange;
}

export interface Removal {
  readonly address: Address;
  /** Drop the row and leave the world as it is. */
  readonly forget: boolean;
  readonly at: SourceRange;
}

export interface OutputDeclaration {
  readonly value: Value;
  readonly description?: string;
  readonly at: SourceRange;
}
