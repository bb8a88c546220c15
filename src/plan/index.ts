export type { PlanDiffInput, PlanKind, PlanPrior, PlanPropertyDiff, PlanReading, Readings } from "./kind.ts";
export { rowReading } from "./decide.ts";
export type { PlanInput } from "./input.ts";
export { makePlan } from "./planner.ts";
export { dig, type ReferenceSources, resolveMap, resolveValue } from "./resolve.ts";
export { applyMoves, dependencyGraph, type MovedRows, selectAddresses } from "./select.ts";
export {
  diffOf,
  encodeObserved,
  maskChanges,
  observedTaints,
  priorOf,
  type View,
  concealed,
  viewOf,
} from "./view.ts";
