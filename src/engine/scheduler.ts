import { toProblem } from "../diagnostics/index.ts";
import type { EventBus } from "../events/port.ts";
import type { LabFacts } from "../provider/index.ts";
import { createScheduler, readRules, type Scheduler } from "../scheduling/index.ts";

/**
 * The lab's machines for those who ask, in the table that all runs of this state share. Whose an allocation is does not
 * change from run to run: what a killed run had leased, the next one goes on with.
 */
export function labScheduler(lab: LabFacts, bus: EventBus): Scheduler {
  return createScheduler({
    dir: lab.state,
    owner: `${lab.name}/${lab.scope}`,
    run: lab.run,
    rules: readRules(lab.limits, lab.groups),
    onProblem: (error) => bus.emit({ type: "error.raised", problem: toProblem(error) }),
  });
}
