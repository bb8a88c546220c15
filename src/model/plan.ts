import type { Address } from "./address.ts";
import type { ResourceOptions, SecretSource } from "./resource.ts";
import type { Scope } from "./scope.ts";
import type { SourceRange } from "./source.ts";
import type { Plain } from "./value.ts";

export const PLAN_FORMAT = 2;

export type ActionType = "create" | "update" | "replace" | "delete" | "adopt" | "forget" | "check" | "blocked" | "noop";

/** Why an action is in the plan. `text` is for people; `code` is stable. */
export interface Reason {
  readonly code:
    | "new"
    | "changed"
    | "drifted"
    | "missing"
    | "interrupted"
    | "requested"
    | "removed"
    | "forgotten"
    | "moved"
    | "imported"
    | "already-there"
    | "recorded"
    | "dependency-replaced"
    | "unreachable"
    | "dependency-blocked"
    | "not-owned"
    | "prevented"
    | "unchanged";
  readonly text: string;
  /** For `unreachable`: the error behind it, with what to do about it. */
  readonly cause?: { readonly code: string; readonly hint?: string };
}

/**
 * One property that differs. `before` and `after` are encoded values (see encodeValue), absent where there is none.
 * `text` marks values that are best shown as a unified diff; `unread` a property of which only a digest is at hand.
 */
export interface PropertyChange {
  readonly path: string;
  readonly before?: Plain;
  readonly after?: Plain;
  readonly effect: "update" | "replace" | "restart";
  readonly text?: boolean;
  readonly sensitive?: boolean;
}

/**
 * What an action may do. The executor reads the resource again just before, diffs again, and refuses what lies outside:
 * another kind of action, a property that is not listed, or a listed one that is no longer as it was shown.
 */
export interface Envelope {
  readonly action: ActionType;
  readonly properties: readonly string[];
  /** True where `changes[].before` was read from the world, so that it must still be so; false: `--no-refresh`. */
  readonly exact: boolean;
}

/** Where something would be made now, chosen among several machines. Apply chooses again, and takes what it chooses. */
export interface Placement {
  /** Absent: none can take it at this moment. */
  readonly chosen?: Address;
  /** Every machine that was looked at, with why it is the one or why not: the chosen one, those that would do, the others. */
  readonly machines: readonly { readonly address: Address; readonly why: string }[];
}

export interface PlannedAction {
  readonly address: Address;
  readonly kind: string;
  readonly parent?: Address;
  readonly action: ActionType;
  readonly reason: Reason;
  /** Observed before, and wanted after; encoded. */
  readonly before?: Plain;
  readonly after?: Plain;
  /** The desired properties with references still in place, encoded: what apply resolves again. */
  readonly desired?: Plain;
  readonly changes: readonly PropertyChange[];
  /** Last observed against observed: what changed behind labctl's back. */
  readonly drift: readonly PropertyChange[];
  /** For what labctl finds a machine for. */
  readonly placement?: Placement;
  readonly envelope: Envelope;
  /** Addresses of the actions that must have ended before this one begins. */
  readonly after_actions: readonly Address[];
  /** Addresses of actions that come first where they are in the plan too; their failure does not skip this one. */
  readonly after_soft: readonly Address[];
  /** The resource's own dependencies, kept in its row for the day it is deleted. */
  readonly depends: readonly Address[];
  readonly options: ResourceOptions;
  /** The stages that it goes through, in order, where its kind has any. */
  readonly stages?: readonly string[];
  /** The address the row had before a `moved:`. */
  readonly moved_from?: Address;
  /** The id given by `import:`. */
  readonly import_id?: string;
  readonly at?: SourceRange;
}

export type PlanMode = "normal" | "destroy" | "refresh-only";

/** Which state a scope had. Empty lineage: none yet. */
export interface ScopeVersion {
  readonly lineage: string;
  readonly serial: number;
}

export interface OutputChange {
  readonly name: string;
  readonly before?: Plain;
  readonly after?: Plain;
}

/** Plain data: what apply executes, and nothing else. It survives a round trip through JSON. */
export interface Plan {
  readonly format_version: typeof PLAN_FORMAT;
  readonly labctl: string;
  readonly id: string;
  readonly created_at: string;
  readonly lab: string;
  readonly mode: PlanMode;
  readonly spec: readonly { readonly path: string; readonly sha256: string }[];
  /** The state that the plan was made from; a row that moved since makes the plan stale. */
  readonly state: {
    readonly scopes: Readonly<Record<Scope, ScopeVersion>>;
    readonly rows: Readonly<Record<Address, number>>;
  };
  readonly secrets: Readonly<Record<string, SecretSource>>;
  readonly settings: PlanSettings;
  readonly actions: readonly PlannedAction[];
  readonly outputs: readonly OutputChange[];
  readonly warnings: readonly PlanWarning[];
}

/** What apply needs of the spec beyond the actions, so that a saved plan stands on its own. */
export interface PlanSettings {
  /** Folder of the lab's spec, absolute: what relative paths in saved plans were resolved against. */
  readonly root: string;
  /** What named the spec, beyond its files. Values of sensitive variables are not kept. */
  readonly selection: {
    readonly profile?: string;
    readonly instance?: string;
    readonly vars: Readonly<Record<string, string>>;
    /** Absolute paths. */
    readonly var_files: readonly string[];
  };
  readonly batch?: number;
  readonly providers: readonly { readonly name: string; readonly source: string; readonly version: string }[];
}

export interface PlanWarning {
  readonly code: string;
  readonly text: string;
  readonly address?: Address;
}

/** True for actions that do something at apply; `blocked` is pending but does nothing. */
export function isEffective(action: ActionType): boolean {
  return action !== "noop" && action !== "blocked";
}

export function countActions(actions: readonly PlannedAction[]): Record<ActionType, number> {
  const counts: Record<ActionType, number> = {
    create: 0,
    update: 0,
    replace: 0,
    delete: 0,
    adopt: 0,
    forget: 0,
    check: 0,
    blocked: 0,
    noop: 0,
  };
  for (const action of actions) counts[action.action] += 1;
  return counts;
}
