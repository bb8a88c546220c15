export { createEventBus, type EventBusOptions, redactDeep } from "./bus.ts";
export { logFileName, newRunId, RUN_ID, RUNS_KEPT, type RunFiles, runFiles, runsDir } from "./layout.ts";
export type { EventBus, Listener } from "./port.ts";
export { RunRecorder, type RunMeta, writeAtomic, writeJson } from "./recorder.ts";
export { pruneRuns } from "./retention.ts";
export {
  addressOf,
  type EventFilter,
  findRun,
  listRuns,
  matches,
  parseEvent,
  readEvents,
  readRun,
  readRunPlan,
  type RunState,
  stateOf,
} from "./runs.ts";
