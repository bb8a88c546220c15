import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { listRuns, readOutcome, type RunOutcome, stateOf } from "../../events/index.ts";
import { type Address, isEffective, type PlannedAction, type RunRecord } from "../../model/index.ts";
import { type Context, selectionOf } from "../context.ts";
import type { Host } from "../program.ts";
import { APPLYING } from "../recorded.ts";
import { renderWhy, type Why } from "../renderers/why.ts";
import { visible } from "../renderers/text.ts";
import { readWhole, stateOfLab } from "../state-access.ts";
import { styleOf } from "./plan.ts";
import { addressArgument } from "./planning.ts";

export function registerWhy(program: Command, host: Host): void {
  const why = program
    .command("why")
    .argument("<address>", "a resource")
    .summary("why the last run did there what it did")
    .description(
      "Says from the last recorded run that dealt with a resource what it did and why: which property differed, what had changed outside, what it waited for, which machine was chosen and why the others were not, and what came of it.",
    )
    .option("--run <run>", "of this run (its id, or `last`), in place of the last that dealt with it")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl why environment.smoke\n  labctl why build.kasan-x86_64 --json | jq .notes",
    );
  why.action(async (text: string, flags: { run?: string }) => {
    const address = addressArgument(text);
    await host.invoke((context) => showWhy(context, address, flags.run), why);
  });
}

async function showWhy(context: Context, address: Address, run: string | undefined): Promise<number> {
  const { term } = context;
  const { settings, store } = await stateOfLab(context, selectionOf(context));
  const found = await lastSaid(settings.path, address, run);
  if (found === undefined) throw await unknown(store, address, run);
  if (term.options.json) term.json(found);
  else term.out(renderWhy(found, styleOf(term)));
  return 0;
}

/** The last run that did something there; where none did, the last that looked and left it alone. */
async function lastSaid(dir: string, address: Address, only: string | undefined): Promise<Why | undefined> {
  let looked: Why | undefined;
  for (const run of await listRuns(dir)) {
    if (!APPLYING.has(run.command)) continue;
    if (only !== undefined && only !== "last" && !run.id.startsWith(only)) continue;
    const why = whyOf(run, await readOutcome(dir, run.id), address);
    if (why !== undefined && (isEffective(why.action.action) || why.action.action === "blocked" || only !== undefined))
      return why;
    looked ??= why;
    if (only === "last") break;
  }
  return looked;
}

/** Pure but for whether the run's process lives. Undefined: its plan says nothing of the address. */
export function whyOf(run: RunRecord, outcome: RunOutcome, address: Address): Why | undefined {
  const actions = outcome.plan?.actions ?? [];
  const action = actions.find((one) => one.address === address);
  if (action === undefined) return undefined;
  const one = outcome.resources.get(address);
  const needed = new Set(action.depends);
  const changed = (other: PlannedAction): boolean =>
    needed.has(other.address) && outcome.resources.get(other.address)?.result === "ok";
  return {
    run: run.id,
    command: run.command,
    at: run.started_at,
    state: stateOf(run),
    action: {
      address,
      action: action.action,
      reason: action.reason,
      changes: action.changes,
      drift: action.drift,
      after_actions: action.after_actions,
    },
    result: one?.result ?? "unstarted",
    ...(one?.problem !== undefined && { problem: one.problem }),
    ...(one?.because !== undefined && { because: one.because }),
    ...(one?.duration_ms !== undefined && { duration_ms: one.duration_ms }),
    attempts: one?.attempts ?? 0,
    stages: one?.stages ?? [],
    notes: one?.notes ?? [],
    changed_before: actions.filter(changed).map((other) => other.address),
  };
}

async function unknown(
  store: Parameters<typeof readWhole>[0],
  address: Address,
  run: string | undefined,
): Promise<LabError> {
  const { rows } = await readWhole(store);
  const { didYouMean } = await import("../../config/index.ts");
  const which = run === undefined ? "no recorded run" : `run ${run} never`;
  return new LabError("E_STATE_NOT_FOUND", `${which} dealt with ${visible(address)}`, {
    address,
    hint: didYouMean(address, rows.keys()) ?? "`labctl state list` lists the addresses, `labctl history` the runs",
  });
}
