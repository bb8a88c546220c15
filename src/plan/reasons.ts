import { LabError } from "../diagnostics/index.ts";
import {
  type ActionType,
  type Plain,
  type PropertyChange,
  type Reason,
  type Row,
  sameEncoded,
} from "../model/index.ts";
import type { PlanReading } from "./kind.ts";

export function prevented(doing: string): { action: ActionType; reason: Reason } {
  return { action: "blocked", reason: { code: "prevented", text: `lifecycle.prevent_destroy forbids ${doing} it` } };
}

export function unreachable(why: Error): Reason {
  const known = why instanceof LabError;
  return {
    code: "unreachable",
    text: why.message,
    ...(known && { cause: { code: why.code, ...(why.hint !== undefined && { hint: why.hint }) } }),
  };
}

export function absentReason(row: Row | undefined): Reason {
  if (row === undefined) return { code: "new", text: "not there yet" };
  if (row.status === "interrupted" || row.status === "failed")
    return { code: "interrupted", text: "an earlier operation did not finish" };
  return { code: "missing", text: "it was there and is gone" };
}

export function updateReason(row: Row, after: Plain): Reason {
  if (row.status === "interrupted" || row.status === "failed")
    return { code: "interrupted", text: "an earlier operation did not finish" };
  if (!sameEncoded(row.desired, after)) return { code: "changed", text: "the spec changed" };
  return { code: "drifted", text: "changed behind labctl's back" };
}

export function refreshVerdict(
  row: Row,
  reading: PlanReading,
  drift: readonly PropertyChange[],
): { action: ActionType; reason: Reason } {
  if (reading.is === "unreachable") return { action: "blocked", reason: unreachable(reading.why) };
  if (reading.is === "absent" && row.observed !== null)
    return { action: "adopt", reason: { code: "missing", text: "it is gone: the state will say so" } };
  if (drift.length > 0 || (reading.is === "present" && row.observed === null)) {
    return { action: "adopt", reason: { code: "drifted", text: "the state takes over what is there" } };
  }
  return { action: "noop", reason: { code: "unchanged", text: "as last seen" } };
}
