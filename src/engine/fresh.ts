import type { ExecutionResult } from "../apply/index.ts";
import { type Code, exitCodeOf, LabError, toLabError } from "../diagnostics/index.ts";
import type { Plan, RunSummary } from "../model/index.ts";
import type { ScopedView } from "../state/index.ts";
import type { ApplyOptions } from "./port.ts";

/** The plan itself, or the one made in its place now that the lock is held and no row can move any more. */
export async function freshPlan(plan: Plan, state: ScopedView, replan: ApplyOptions["replan"]): Promise<Plan> {
  try {
    assertFresh(plan, state);
    return plan;
  } catch (error) {
    if (replan === undefined || toLabError(error).code !== "E_PLAN_STALE") throw error;
  }
  const again = await replan();
  if (again === undefined) throw new LabError("E_CANCELLED", "the new plan was not agreed to: nothing was changed");
  assertFresh(again, state);
  return again;
}

/** A plan that was made from rows that have moved since is not carried out. */
function assertFresh(plan: Plan, state: ScopedView): void {
  const stale = (why: string): never => {
    throw new LabError("E_PLAN_STALE", `the plan is stale: ${why}`, { hint: "plan again: the state moved on since" });
  };
  for (const [scope, { lineage }] of Object.entries(plan.state.scopes)) {
    const now = state.versions[scope];
    if (now === undefined) stale(`it is about ${scope}, which this spec is not`);
    else if (lineage !== now.lineage && lineage !== "") stale("it was made from another state");
  }
  for (const [address, version] of Object.entries(plan.state.rows)) {
    const row = state.rows.get(address);
    if (row === undefined) stale(`${address} is no longer in the state`);
    else if (row.version !== version) stale(`${address} was changed by run ${row.updated_by} at ${row.updated_at}`);
  }
  for (const action of plan.actions) {
    const known = plan.state.rows[action.moved_from ?? action.address] !== undefined;
    if (!known && state.rows.has(action.moved_from ?? action.address))
      stale(`${action.address} was added to the state`);
  }
}

/** Exit code 5 says that nothing was begun; as soon as something was, not reaching a machine counts as a partial failure. */
export function verdict(result: ExecutionResult): [RunSummary["result"], number] {
  const codes: Code[] = [...result.codes];
  const begun = result.begun > 0 || (result.results.ok ?? 0) > 0;
  const exit = codes.length === 0 ? 0 : exitCodeOf(codes);
  // Somebody else can end a part of it too: a build on its server.
  const cancelled = result.cancelled || (result.results.cancelled ?? 0) > 0;
  if (codes.length === 0) return cancelled ? ["cancelled", 130] : ["ok", 0];
  return ["failed", exit === 5 && begun ? 6 : exit];
}
