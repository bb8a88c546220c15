export type { PlanDiffInput, PlanKind, PlanPrior, PlanPropertyDiff, PlanReading, Readings } from "./kind.ts";
export { rowReading } from "./decide.ts";
export type { PlanInput } from "./input.ts";
export { makePlan } from "./planner.ts";
export { dig, type ReferenceSources, resolveMap, resolveValue } from "./resolve.ts";
export { applyMoves, dependencyGraph, expand, type MovedRows, selectAddresses } from "./select.ts";
export {
  defaultDiff,
  diffOf,
  driftOf,
  encodeObserved,
  maskChanges,
  observedTaints,
  priorOf,
  touches,
  type View,
  viewOf,
  wrapObserved,
} from "./view.ts";
