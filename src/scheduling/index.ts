export { cordonOf } from "./cordon.ts";
export { createLeaseTable, type LeaseRequest, type LeaseTable, type LeaseTableOptions } from "./leases.ts";
export {
  type Amounts,
  AMOUNTS,
  type Candidate,
  free,
  isLow,
  type MachineStatus,
  readRequirements,
  type Requirements,
  REQUIRES_SCHEMA,
  type Unmet,
  unmet,
  utilization,
} from "./requirements.ts";
export {
  explainRejected,
  nextCandidate,
  type Ranked,
  type Rejected,
  select,
  type Selection,
  selectionError,
  type SelectionRequest,
} from "./select.ts";
