import type { Diagnostic, Redactor } from "../diagnostics/index.ts";
import type { EventBus } from "../events/port.ts";
import type { Address, Lab, Plain, Plan, PlanMode, RunSummary, StateSettings } from "../model/index.ts";
import type { Kind } from "../provider/index.ts";
import type { StateStore } from "../state/port.ts";
import type { Machine } from "../transport/index.ts";

/** Which spec, with which values. */
export interface SpecSelection {
  /** Files or folders, absolute or relative to `cwd`; empty: lab.yaml and pipeline.yaml in `cwd`. */
  readonly paths: readonly string[];
  readonly profile?: string;
  readonly vars: Readonly<Record<string, string>>;
  readonly varFiles: readonly string[];
  /** Which of several instances of a pipeline that run at once. */
  readonly instance?: string;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export interface PlanOptions {
  readonly mode: PlanMode;
  /** Addresses as typed; a parent takes its children along. Empty: everything. */
  readonly targets: readonly string[];
  readonly excludes: readonly string[];
  readonly replace: readonly string[];
  /** False: trust the state, read nothing. */
  readonly refresh: boolean;
  /** Addresses to take over, beyond the spec's `import:`. */
  readonly imports?: readonly { readonly address: Address; readonly id: string }[];
  /** Addresses that are planned as they were, not as the spec has them: what was seen then, encoded. See Kind.restore. */
  readonly restore?: ReadonlyMap<Address, Plain>;
  readonly parallelism: number;
  readonly batch?: number;
  readonly experimental: boolean;
  /** The plan will be saved: make sure that the key of its keyed digests outlives this process. */
  readonly durableSeal?: boolean;
  readonly signal?: AbortSignal;
}

export type OnFailure = "abort" | "continue" | "rollback" | "cleanup";

/** Ctrl-C: `soft` starts nothing new and cancels what is not critical; `hard` aborts all calls. */
export interface Cancellation {
  readonly soft: AbortSignal;
  readonly hard: AbortSignal;
}

export interface ApplyOptions {
  readonly parallelism: number;
  readonly batch?: number;
  readonly onFailure: OnFailure;
  /** Milliseconds to wait for the lock. */
  readonly lockTimeout: number;
  readonly cancellation: Cancellation;
  /** Allows what has no evidence yet; a plan that was made with it in this session has it already. */
  readonly experimental?: boolean;
  /** What is busy is refused, not waited for. */
  readonly noWait?: boolean;
  /** `destroy --force`: go on past what cannot be reached, and list what is left to clean up. */
  readonly force: boolean;
  /**
   * Called under the lock where the state moved on between the plan and the lock: plans again, shows that, and gives it
   * to be carried out; undefined where nobody agreed to it. Without it such a plan is refused, as a saved one always is.
   */
  readonly replan?: () => Promise<Plan | undefined>;
}

/** One lab, loaded and validated, with all that a command needs. Close it when done: connections are shared until then. */
export interface LabSession {
  readonly lab: Lab;
  /** Absolute folder of the spec. */
  readonly root: string;
  readonly warnings: readonly Diagnostic[];
  readonly kinds: ReadonlyMap<string, Kind>;
  readonly store: StateStore;
  readonly bus: EventBus;
  /** Reads the world and plans. Writes nothing, anywhere. */
  plan(options: PlanOptions): Promise<Plan>;
  /** Executes the plan and nothing else. Never rejects for what a resource did: that is in the summary. */
  apply(plan: Plan, options: ApplyOptions): Promise<RunSummary>;
  /** A machine of the lab, or a guest or board that its kind knows how to reach, by address. */
  machine(address: Address, signal?: AbortSignal): Promise<Machine>;
  /** Ends what goes on for a resource without labctl; says what that was. See Kind.cancel. */
  cancel(address: Address, signal: AbortSignal): Promise<string | undefined>;
  /** Secrets in what is about to be stored or shown are replaced. */
  redact(text: string): string;
  close(): Promise<void>;
}

/**
 * Loads and validates; throws DiagnosticsError with every problem at once. Secret values are registered with the
 * redactor before they are used: the one that the bus redacts with.
 */
export type OpenLab = (selection: SpecSelection, bus: EventBus, redactor: Redactor) => Promise<LabSession>;

/** Where a lab's state stands, found without a valid spec: for `state` and `history` when the spec is broken. */
export type LocateState = (selection: SpecSelection) => Promise<StateSettings>;
