import type { Address } from "./address.ts";
import type { ActionType, Plan } from "./plan.ts";

/** Failure as plain data, as events, records and `--json` carry it. */
export interface Problem {
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
  readonly address?: Address;
  readonly at?: { readonly file: string; readonly line: number; readonly column: number };
  readonly retryable?: boolean;
  readonly causes?: readonly string[];
}

export type LogLevel = "debug" | "info" | "warn" | "error";

/** How one action ended. `skipped`: something that it depends on failed. `cancelled`: it was not begun. */
export type ActionResult = "ok" | "failed" | "skipped" | "blocked" | "cancelled" | "noop" | "rolled_back";

export type EventBody =
  | { readonly type: "run.started"; readonly command: string; readonly who: string; readonly lab: string }
  | { readonly type: "run.finished"; readonly summary: RunSummary }
  | { readonly type: "phase.started"; readonly phase: "load" | "read" | "plan" | "apply" | "rollback" | "cleanup" }
  | {
      readonly type: "phase.finished";
      readonly phase: "load" | "read" | "plan" | "apply" | "rollback" | "cleanup";
      readonly duration_ms: number;
    }
  | { readonly type: "plan.made"; readonly plan: Plan }
  | { readonly type: "lock.waiting"; readonly holder: string; readonly purpose: string; readonly since: string }
  | { readonly type: "lock.acquired"; readonly token: number; readonly takeover: boolean }
  | { readonly type: "host.connecting"; readonly host: Address; readonly attempt: number }
  | { readonly type: "host.connected"; readonly host: Address; readonly duration_ms: number }
  | {
      readonly type: "host.retrying";
      readonly host: Address;
      readonly attempt: number;
      readonly delay_ms: number;
      readonly why: string;
    }
  | { readonly type: "host.offline"; readonly host: Address; readonly problem: Problem }
  | {
      readonly type: "action.queued";
      readonly address: Address;
      readonly action: ActionType;
      readonly waits_for: string;
    }
  | {
      readonly type: "action.started";
      readonly address: Address;
      readonly action: ActionType;
      readonly attempt: number;
    }
  | { readonly type: "action.progress"; readonly address: Address; readonly fraction?: number; readonly text?: string }
  | { readonly type: "stage.started"; readonly address: Address; readonly stage: string }
  | {
      readonly type: "stage.finished";
      readonly address: Address;
      readonly stage: string;
      readonly result: "completed" | "failed";
      readonly duration_ms: number;
      readonly problem?: Problem;
    }
  | {
      readonly type: "action.retrying";
      readonly address: Address;
      readonly attempt: number;
      readonly delay_ms: number;
      readonly problem: Problem;
    }
  | {
      readonly type: "action.finished";
      readonly address: Address;
      readonly action: ActionType;
      readonly result: ActionResult;
      readonly duration_ms: number;
      readonly problem?: Problem;
      /** For `skipped`: the address whose failure is the reason. */
      readonly because?: Address;
      /** An optional resource's failure: a warning. */
      readonly optional?: boolean;
    }
  | {
      readonly type: "log.line";
      readonly level: LogLevel;
      readonly component: string;
      readonly address?: Address;
      readonly message: string;
      readonly stream?: "stdout" | "stderr";
      readonly meta?: Readonly<Record<string, string | number | boolean>>;
    }
  | { readonly type: "warning.raised"; readonly problem: Problem }
  | { readonly type: "error.raised"; readonly problem: Problem }
  | { readonly type: "cancel.requested"; readonly level: 1 | 2 };

/** One event of a run: when (ISO 8601), in which run, and its number there, from 1. */
export type LabEvent = EventBody & { readonly run: string; readonly seq: number; readonly at: string };

export interface RunSummary {
  readonly command: string;
  readonly result: "ok" | "failed" | "cancelled";
  readonly exit_code: number;
  readonly duration_ms: number;
  /** How many actions ended in each way. */
  readonly results: Readonly<Partial<Record<ActionResult, number>>>;
  readonly problems: readonly Problem[];
  /** What could not be cleaned up, as instructions for doing it by hand. */
  readonly manual_steps: readonly string[];
}

/** A run as it is recorded and can be read back. */
export interface RunRecord {
  readonly format_version: 1;
  readonly id: string;
  readonly command: string;
  readonly argv: readonly string[];
  readonly who: string;
  readonly host: string;
  readonly pid: number;
  readonly lab: string;
  readonly started_at: string;
  readonly finished_at?: string;
  readonly summary?: RunSummary;
}
