import type { Address, Checkpoint, Placement, Plain } from "../model/index.ts";

/** What the planner must know of a kind. `Kind` of the provider contract satisfies it; it is handed in as a table. */
export interface PlanKind {
  readonly kind: string;
  readonly ownership: "exclusive" | "shared";
  readonly schema: PlanSchema;
  readonly attributes: PlanSchema;
  readonly stages?: readonly string[];
  taints?(sensitive: ReadonlySet<string>, desired: Record<string, Plain>): readonly string[];
  diff?(input: PlanDiffInput): readonly PlanPropertyDiff[];
}

export interface PlanSchema {
  /** Attributes that a kind's own resources name. */
  readonly additionalProperties?: unknown;
  readonly properties: {
    readonly [key: string]: {
      readonly "x-labctl"?: {
        readonly replace?: boolean;
        readonly sensitive?: boolean;
        readonly volatile?: boolean;
        readonly identity?: boolean;
      };
    };
  };
}

export interface PlanDiffInput {
  readonly desired: Record<string, Plain>;
  readonly observed: Record<string, Plain>;
  readonly prior: PlanPrior | undefined;
  readonly sensitive: ReadonlySet<string>;
  readonly unknown: ReadonlySet<string>;
}

export interface PlanPrior {
  readonly desired: Record<string, Plain>;
  readonly attempted?: readonly Record<string, Plain>[] | undefined;
  readonly observed: Record<string, Plain> | undefined;
  readonly original: Record<string, Plain> | undefined;
  readonly instance_id: string;
  readonly checkpoint: Checkpoint | undefined;
}

export interface PlanPropertyDiff {
  readonly path: string;
  readonly before?: Plain;
  readonly after?: Plain;
  readonly effect?: "update" | "replace" | "restart";
  readonly text?: boolean;
}

export type PlanReading =
  | { readonly is: "present"; readonly value: Record<string, Plain> }
  | { readonly is: "absent"; readonly placement?: Placement | undefined }
  | { readonly is: "unreachable"; readonly why: Error }
  | { readonly is: "unverified"; readonly since: string };

export type Readings = ReadonlyMap<Address, PlanReading>;
