import { type ActionResult, type Address, isEffective, isWithin, type Plan, type Problem } from "../model/index.ts";
import type { LabEvent } from "../model/index.ts";
import { readEvents } from "./runs.ts";

/** How it went with one resource in a run. `unfinished`: begun, and no end was recorded. `unstarted`: its turn never came. */
export interface ResourceOutcome {
  readonly result: ActionResult | "unfinished" | "unstarted";
  readonly problem?: Problem;
  /** For `skipped`: whose failure is the reason. */
  readonly because?: Address;
  readonly started_at?: string;
  readonly duration_ms?: number;
  readonly attempts: number;
  readonly stages: readonly StageOutcome[];
  /** What labctl itself said of it, without the output of commands. */
  readonly notes: readonly { readonly level: string; readonly text: string }[];
}

export interface StageOutcome {
  readonly stage: string;
  /** `pending`: still to come. `skipped`: never reached, since it ended before. */
  readonly result: "pending" | "running" | "completed" | "failed" | "skipped";
  readonly duration_ms?: number;
}

/** What a recorded run planned, and what came of it. */
export interface RunOutcome {
  /** The last one that it made. */
  readonly plan: Plan | undefined;
  readonly resources: ReadonlyMap<Address, ResourceOutcome>;
}

export async function readOutcome(stateDir: string, run: string): Promise<RunOutcome> {
  const events: LabEvent[] = [];
  for await (const event of readEvents(stateDir, run)) {
    // What commands printed may be gigabytes, and says nothing of how it ended.
    if (event.type !== "log.line" || event.stream === undefined) events.push(event);
  }
  return outcomeOf(events);
}

type Draft = { -readonly [K in keyof ResourceOutcome]: ResourceOutcome[K] } & {
  stages: StageOutcome[];
  notes: { level: string; text: string }[];
};

/** Pure. Events that were lost (a torn line, a full disk) leave a resource `unfinished`, never well. */
export function outcomeOf(events: Iterable<LabEvent>): RunOutcome {
  let plan: Plan | undefined;
  const drafts = new Map<Address, Draft>();
  const of = (address: Address): Draft => {
    const draft = drafts.get(address) ?? { result: "unstarted", attempts: 0, stages: [], notes: [] };
    drafts.set(address, draft);
    return draft;
  };
  for (const event of events) {
    switch (event.type) {
      case "plan.made":
        plan = event.plan;
        for (const draft of drafts.values()) draft.stages = [];
        for (const { address, stages = [] } of plan.actions) {
          if (stages.length > 0) of(address).stages = stages.map((stage) => ({ stage, result: "pending" }));
        }
        break;
      case "action.started": {
        const draft = of(event.address);
        draft.result = "unfinished";
        draft.attempts = event.attempt;
        draft.started_at ??= event.at;
        break;
      }
      case "stage.started":
        begin(of(event.address).stages, event.stage);
        break;
      case "stage.finished": {
        const { stages } = of(event.address);
        const at = stages.findLastIndex((one) => one.stage === event.stage && one.result === "running");
        const done = { stage: event.stage, result: event.result, duration_ms: event.duration_ms };
        if (at < 0) stages.push(done);
        else stages[at] = done;
        break;
      }
      case "log.line":
        if (event.address !== undefined) of(event.address).notes.push({ level: event.level, text: event.message });
        break;
      case "action.finished": {
        const draft = of(event.address);
        draft.result = event.result;
        draft.duration_ms = event.duration_ms;
        if (event.problem !== undefined) draft.problem = event.problem;
        if (event.because !== undefined) draft.because = event.because;
        skipPending(draft.stages);
        break;
      }
      case "run.finished":
        for (const { stages } of drafts.values()) skipPending(stages);
        break;
      default:
        break;
    }
  }
  for (const action of plan?.actions ?? []) {
    const known = drafts.get(action.address);
    if (action.action === "noop" && known?.result !== "failed") of(action.address).result = "noop";
    else if (action.action === "blocked") of(action.address).result = "blocked";
    else if (known === undefined) of(action.address);
  }
  return { plan, resources: drafts };
}

/** A stage that comes again (another host, another try) stands before those still to come; one outside the plan means that they do not. */
function begin(stages: StageOutcome[], stage: string): void {
  const running: StageOutcome = { stage, result: "running" };
  const planned = stages.findIndex((one) => one.stage === stage && one.result === "pending");
  if (planned >= 0) {
    stages[planned] = running;
    return;
  }
  if (!stages.some((one) => one.stage === stage)) skipPending(stages);
  const next = stages.findIndex((one) => one.result === "pending");
  stages.splice(next < 0 ? stages.length : next, 0, running);
}

function skipPending(stages: StageOutcome[]): void {
  for (const [at, { stage, result }] of stages.entries()) {
    if (result === "pending") stages[at] = { stage, result: "skipped" };
  }
}

/** Pure. What a run was to bring about and did not, in the order of its plan: what to apply again. `within`: only there. */
export function leftUndone({ plan, resources }: RunOutcome, within?: Address): Address[] {
  return (plan?.actions ?? [])
    .filter((one) => isEffective(one.action) || one.action === "blocked")
    .map((one) => one.address)
    .filter((address) => within === undefined || isWithin(address, within))
    .filter((address) => !["ok", "noop"].includes(resources.get(address)?.result ?? "unstarted"));
}
