import { LabError } from "../diagnostics/index.ts";
import { findRun, listRuns, readEvents, readRun } from "../events/index.ts";
import { type Address, canonicalAddress, type RunRecord } from "../model/index.ts";
import { visible } from "./renderers/text.ts";

/** A recorded run, and the resource that it was asked for by, if it was. */
export interface Chosen {
  readonly run: RunRecord;
  readonly address?: Address;
}

/** Commands that carry out a plan. */
export const APPLYING: ReadonlySet<string> = new Set([
  "apply",
  "build",
  "destroy",
  "import",
  "refresh",
  "retry",
  "rollback",
]);

/**
 * `RUN`, the beginning of one, `last`, or an address: the last run that dealt with it. Only runs that applied something count where no
 * run is named. @throws LabError E_STATE_NOT_FOUND
 */
export async function chooseRun(dir: string, text: string | undefined): Promise<Chosen> {
  const named = text === undefined || text === "last" ? undefined : await findRun(dir, text);
  if (named !== undefined) return { run: named };
  const address = text === undefined || text === "last" ? undefined : canonicalAddress(text);
  for (const run of await listRuns(dir)) {
    if (!APPLYING.has(run.command)) continue;
    if (address === undefined || (await dealtWith(dir, run.id, address))) {
      if (address === undefined && text !== undefined && text !== "last") break;
      return { run, ...(address !== undefined && { address }) };
    }
  }
  if (text === undefined || text === "last") {
    throw new LabError("E_STATE_NOT_FOUND", "nothing was applied here yet", { hint: "`labctl apply` does that" });
  }
  throw address === undefined
    ? new LabError("E_STATE_NOT_FOUND", `there is no run ${JSON.stringify(text)}`, {
        hint: "`labctl history` lists the runs",
      })
    : new LabError("E_STATE_NOT_FOUND", `no recorded run dealt with ${visible(address)}`, {
        address,
        hint: "`labctl state list` lists the addresses, `labctl history` the runs",
      });
}

/** Whether a run planned something for an address or what it contains, or said something of it. */
async function dealtWith(dir: string, run: string, address: Address): Promise<boolean> {
  for await (const event of readEvents(dir, run, { types: ["plan.made"] })) {
    if (event.type !== "plan.made") continue;
    const below = event.plan.actions.some((one) => one.address === address || one.address.startsWith(`${address}/`));
    if (below) return true;
  }
  return false;
}

/** The record as it is now; undefined where it is gone. */
export async function recordOf(dir: string, run: string): Promise<RunRecord | undefined> {
  return readRun(dir, run).catch(() => undefined);
}
