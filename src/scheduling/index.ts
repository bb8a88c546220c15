export type { Amounts } from "../model/index.ts";
export { type Decision, decide, type Demand, withLeases } from "./allocate.ts";
export { Allocation } from "./allocation.ts";
export { AMOUNTS, amountsText } from "./amounts.ts";
export { standingOf } from "./cordon.ts";
export { decommission, decommissionError, type Workload, workloadsOn } from "./decommission.ts";
export {
  createLeaseTable,
  endText,
  isEndless,
  type LeaseRequest,
  type LeaseTable,
  type ReserveRequest,
} from "./leases.ts";
export { type Claimant, type GroupPolicy, type LabRules, readRules } from "./policy.ts";
export {
  type Candidate,
  free,
  isLow,
  type MachineStatus,
  passes,
  readRequirements,
  type Requirements,
  REQUIRES_SCHEMA,
  type Unmet,
  unmet,
  utilization,
} from "./requirements.ts";
export {
  type AllocateOptions,
  type AllocationRequest,
  createScheduler,
  type Scheduler,
  type SchedulerOptions,
  type Waiting,
  waitingText,
} from "./scheduler.ts";
export {
  explainRejected,
  nextCandidate,
  placementOf,
  type Ranked,
  type Rejected,
  select,
  type Selection,
  explainChoice,
  selectionError,
  type SelectionRequest,
} from "./select.ts";
export {
  type Health,
  type HealthRules,
  HEALTH_RULES,
  observe,
  type Poll,
  shownStatus,
  type StatusChange,
  unknownHealth,
} from "./status.ts";
export type { LeaseTableOptions } from "./store.ts";
export type { Part } from "./table.ts";
