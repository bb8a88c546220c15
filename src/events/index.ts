export { createEventBus, redactDeep } from "./bus.ts";
export { logFileName, newRunId, runFiles } from "./layout.ts";
export { RunRecorder, writeJson } from "./recorder.ts";
export { type EventFilter, findRun, listRuns, readEvents, readRun, stateOf } from "./runs.ts";
export { type CancelRequest, Pulse, requestCancel, watchCancel } from "./cancel.ts";
export {
  leftUndone,
  outcomeOf,
  readOutcome,
  type ResourceOutcome,
  type RunOutcome,
  type StageOutcome,
} from "./outcome.ts";
