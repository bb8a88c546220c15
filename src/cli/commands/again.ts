import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { leftUndone, listRuns, readOutcome, stateOf } from "../../events/index.ts";
import { type Address, decodeValue, isMap, type Plain, type Plan, type Row } from "../../model/index.ts";
import { viewOf } from "../../plan/index.ts";
import type { Kind } from "../../provider/index.ts";
import { recordedFlags } from "../argv.ts";
import { type Context, selectionOf } from "../context.ts";
import type { Work } from "../lab.ts";
import type { Host } from "../program.ts";
import { chooseRun } from "../recorded.ts";
import { visible } from "../renderers/text.ts";
import { readWhole, stateOfLab } from "../state-access.ts";
import { addApplyOptions, type ApplyFlags, change, planSelection } from "./apply.ts";
import { addressArgument } from "./planning.ts";

type AgainFlags = Pick<ApplyFlags, "autoApprove" | "jsonInto" | "onFailure" | "wait">;

/** `retry` and `rollback`: an apply that follows from a recorded one. */
export function registerAgain(program: Command, host: Host): void {
  const retry = program
    .command("retry")
    .argument("[run-or-address]", "a run, or a resource of the last run that dealt with it; the last apply without")
    .summary("apply again what failed or was skipped")
    .description(
      "Plans and applies again what a run was to bring about and did not: what failed, was skipped, cancelled, blocked or taken back, with that run's profile, variables and settings. The spec counts as it is now.",
    );
  addApplyOptions(retry).addHelpText(
    "after",
    "\nExamples:\n  labctl retry\n  labctl retry build.kasan-x86_64\n  labctl retry 20261123T010203Z-1f2e3d --auto-approve",
  );
  retry.action(async (what: string | undefined, flags: AgainFlags) => {
    const given = retry.getOptionValueSource("onFailure") === "cli";
    await host.invoke((context) => retryRun(context, what, flags, given), retry);
  });

  const rollback = program
    .command("rollback")
    .argument("<environment>", "its address")
    .summary("bring an environment back to the artifacts with which it was well")
    .description(
      "Deploys again what an environment was last seen to be well with, before what it has now: a planned change that is shown and asked about, and recorded as a run. Nothing is built. The spec stays as it is: until it is changed, the next apply goes forward again.",
    );
  addApplyOptions(rollback).addHelpText("after", "\nExamples:\n  labctl rollback environment.smoke");
  rollback.action(async (text: string, flags: AgainFlags) => {
    const address = addressArgument(text);
    await host.invoke((context) => rollBack(context, address, flags), rollback);
  });
}

/** Flags of an apply that nothing was said of. */
const PLAIN = { target: [], exclude: [], replace: [], refresh: true } as const;

async function retryRun(
  context: Context,
  what: string | undefined,
  flags: AgainFlags,
  given: boolean,
): Promise<number> {
  const { term } = context;
  const { settings } = await stateOfLab(context, selectionOf(context));
  const { run, address } = await chooseRun(settings.path, what);
  if (stateOf(run) === "running") {
    throw new LabError("E_STATE_CONFLICT", `run ${run.id} still goes on: nothing of it is left undone yet`, {
      hint: "`labctl logs --follow` shows it, `labctl cancel` ends it",
    });
  }
  const outcome = await readOutcome(settings.path, run.id);
  const { plan } = outcome;
  const undone = leftUndone(outcome, address);
  if (plan === undefined || undone.length === 0) {
    const why =
      plan === undefined
        ? `Run ${run.id} (${run.command}) came to no plan: run \`labctl ${run.argv.join(" ")}\` again.`
        : `Nothing to retry: all that run ${run.id} (${run.command}) was to do${address === undefined ? "" : ` for ${address}`} is done.`;
    if (term.options.json) term.json({ run: run.id, retried: [] });
    else term.out(visible(why));
    return 0;
  }
  const recorded = recordedFlags(run.argv);
  if (!term.options.json) {
    term.err(`Retrying ${undone.length} of run ${visible(run.id)} (${visible(run.command)}).`);
  }
  return change(context, {
    command: "retry",
    mode: plan.mode,
    selection: planSelection(context, plan),
    flags: {
      ...PLAIN,
      ...recorded,
      ...flags,
      onFailure: given ? flags.onFailure : recorded.onFailure,
      wait: flags.wait === false ? false : recorded.wait,
    },
    prepare: async (work) => againOptions(plan, undone, await knownIn(work)),
  });
}

async function knownIn({ session }: Work): Promise<ReadonlySet<Address>> {
  const { rows } = await readWhole(session.store);
  return new Set([...session.lab.resources.map((one) => one.address), ...rows.keys()]);
}

/** Pure. What a plan for the rest of another plan is asked for; what neither spec nor state has any more needs nothing. */
export function againOptions(plan: Plan, undone: readonly Address[], known: ReadonlySet<Address>) {
  const targets = undone.filter((one) => known.has(one));
  if (targets.length === 0) {
    throw new LabError("E_ADDRESS_UNKNOWN", "nothing of what is left to do is in the spec or the state any more", {
      hint: "`labctl plan` shows what there is to do now",
    });
  }
  const left = new Set(targets);
  const actions = plan.actions.filter((one) => left.has(one.address));
  return {
    targets,
    // What was to be made anew because somebody said so has nothing else that says so.
    replace: actions.filter((one) => one.reason.code === "requested").map((one) => one.address),
    imports: actions.flatMap((one) =>
      one.import_id === undefined ? [] : [{ address: one.address, id: one.import_id }],
    ),
  };
}

async function rollBack(context: Context, address: Address, flags: AgainFlags): Promise<number> {
  const { term } = context;
  return change(context, {
    command: "rollback",
    selection: selectionOf(context),
    flags: { ...PLAIN, ...flags },
    prepare: async ({ session }) => {
      const resource = session.lab.resources.find((one) => one.address === address);
      if (resource === undefined) {
        throw new LabError("E_ADDRESS_UNKNOWN", `the spec has no ${visible(address)}`, {
          address,
          hint: "`labctl graph` shows what it has",
        });
      }
      const kind = session.kinds.get(resource.kind);
      const { rows } = await readWhole(session.store);
      const seen = await seenBefore(session.lab.state.path, address);
      const { plain } = viewOf(resource.desired, kind);
      const good = lastGood(kind, plain, rows.get(address), seen);
      if (good === undefined) {
        throw new LabError("E_STATE_NOT_FOUND", `nothing else is known with which ${visible(address)} was well`, {
          address,
          hint:
            kind?.restore === undefined
              ? `a ${resource.kind} has no earlier artifacts: change the spec, and apply it`
              : "`labctl artifact list` shows what there is; name one in its `boot:` and apply that",
        });
      }
      if (!term.options.json) {
        term.err(`Back to what it was ${good.run === undefined ? "before" : `when run ${visible(good.run)} began`}.`);
      }
      return { targets: [address], restore: new Map([[address, good.observed]]) };
    },
    done: async (_work, _plan, summary) => {
      if (summary.result !== "ok" || term.options.json) return;
      term.out(`The spec is as it was: the next apply brings ${visible(address)} forward again, unless you change it.`);
    },
  });
}

interface Seen {
  /** Encoded. */
  readonly observed: Plain;
  /** Whose plan saw it; absent: the state. */
  readonly run?: string;
}

/** What recorded plans found of a resource, the newest first. */
async function seenBefore(dir: string, address: Address): Promise<Seen[]> {
  const seen: Seen[] = [];
  for (const run of await listRuns(dir)) {
    const { plan } = await readOutcome(dir, run.id);
    const before = plan?.actions.find((one) => one.address === address)?.before;
    if (before !== undefined) seen.push({ observed: before, run: run.id });
  }
  return seen;
}

/**
 * Pure. What the resource was last well with and is not now. After a deployment that failed that is what the state has; else the newest that
 * differs from what the state has.
 */
export function lastGood(
  kind: Kind | undefined,
  desired: Record<string, Plain>,
  row: Row | undefined,
  seen: readonly Seen[],
): Seen | undefined {
  const restored = (observed: Plain): string | undefined => {
    const value = decodeValue(observed);
    const changed = isMap(value) ? kind?.restore?.(desired, viewOf(value, undefined).plain) : undefined;
    return changed === undefined ? undefined : JSON.stringify(changed);
  };
  const last = row === undefined || row.observed === null ? undefined : restored(row.observed);
  if (row !== undefined && row.status !== "ok" && last !== undefined) return { observed: row.observed };
  return seen.find(({ observed }) => {
    const one = restored(observed);
    return one !== undefined && one !== last;
  });
}
