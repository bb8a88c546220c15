import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { type EventFilter, findRun, listRuns, readEvents, readRun, stateOf } from "../../events/index.ts";
import { type Address, canonicalAddress, type LabEvent, type RunRecord } from "../../model/index.ts";
import { type Context, countOption, selectionOf } from "../context.ts";
import type { Host } from "../program.ts";
import { createLogRenderer, renderEventLine, renderRuns } from "../renderers/runs.ts";
import { visible } from "../renderers/text.ts";
import { stateOfLab } from "../state-access.ts";
import { styleOf } from "./plan.ts";

const POLL_MS = 250;

interface FollowFlags {
  readonly follow?: boolean;
  readonly type?: string;
}

export function registerRuns(program: Command, host: Host): void {
  const history = program
    .command("history")
    .argument("[spec]", "a spec file or folder")
    .summary("the runs that changed something, newest first")
    .description("Lists the recorded runs: when, what, who, and what came of it.")
    .option("-n, --limit <n>", "at most so many", (text) => countOption("--limit", text), 20)
    .addHelpText("after", "\nExamples:\n  labctl history\n  labctl history -n 100 --json")
    .action(async (spec: string | undefined, flags: { limit: number }) => {
      await host.invoke((context) => showHistory(context, spec, flags.limit), history);
    });

  const logs = program
    .command("logs")
    .argument("[run-or-address]", "a run's id or the beginning of one, `last` (the default), or a resource")
    .argument("[address]", "only this resource of the run, and what it contains")
    .summary("what a run or a resource said")
    .description(
      "Prints the log of a recorded run: everything that happened, and the output of commands. For an address alone, the last run that dealt with it.",
    )
    .option("--follow", "go on until the run ends")
    .addHelpText(
      "after",
      `
Examples:
  labctl logs
  labctl logs --follow
  labctl logs host.builder-1
  labctl logs 20261123T010203Z-1f2e3d 'host.builder-1/package.gcc'`,
    )
    .action(async (what: string | undefined, address: string | undefined, flags: FollowFlags) => {
      await host.invoke((context) => showLogs(context, what, address, flags), logs);
    });

  const events = program
    .command("events")
    .argument("[run]", "a run's id, the beginning of one, or `last` (the default)")
    .summary("the events of a run")
    .description("Prints the events of a recorded run, a line each; with --json as they were recorded (NDJSON).")
    .option("--follow", "go on until the run ends")
    .option("--type <type>", "only events of this type, e.g. action.finished, or of this subject, e.g. action")
    .addHelpText("after", "\nExamples:\n  labctl events --type action.finished\n  labctl events last --json | jq .type")
    .action(async (run: string | undefined, flags: FollowFlags) => {
      await host.invoke((context) => showEvents(context, run, flags), events);
    });
}

async function showHistory(context: Context, spec: string | undefined, limit: number): Promise<number> {
  const { term } = context;
  // A state is found also where its spec is broken, but not by a name that is nobody's.
  if (spec !== undefined && !existsSync(resolve(term.io.cwd, spec))) {
    throw new LabError("E_SPEC_NOT_FOUND", `${spec} is not there`, {
      hint: "one run is told by `labctl logs RUN`, `labctl events RUN` and `labctl why ADDRESS`",
    });
  }
  const { settings } = await stateOfLab(context, selectionOf(context, spec));
  const runs = (await listRuns(settings.path, limit)).map((run) => ({ run, state: stateOf(run) }));
  if (term.options.json) term.json(runs.map(({ run, state }) => ({ ...run, state })));
  else if (runs.length === 0) term.out("No runs are recorded yet.");
  else term.out(renderRuns(runs, styleOf(term)));
  return 0;
}

async function showLogs(
  context: Context,
  what: string | undefined,
  below: string | undefined,
  flags: FollowFlags,
): Promise<number> {
  const { term } = context;
  const { settings } = await stateOfLab(context, selectionOf(context));
  const dir = settings.path;
  const named = await findRun(dir, what ?? "last");
  const address = addressOf(named === undefined ? (what ?? below) : below);
  const run = named ?? (address === undefined ? undefined : await lastRunWith(dir, address));
  if (run === undefined) throw noRun(what, address);
  if (!term.options.json) term.err(`run ${run.id}: ${visible(run.command)}, ${stateOf(run)}`);
  const render = createLogRenderer(styleOf(term));
  const filter = address === undefined ? {} : { address };
  for await (const event of follow(context, dir, run, filter, flags.follow === true)) {
    if (term.options.json) term.line(event);
    else for (const line of render(event)) term.out(line);
  }
  return 0;
}

async function showEvents(context: Context, what: string | undefined, flags: FollowFlags): Promise<number> {
  const { term } = context;
  const { settings } = await stateOfLab(context, selectionOf(context));
  const run = await findRun(settings.path, what ?? "last");
  if (run === undefined) throw noRun(what, undefined);
  const style = styleOf(term);
  for await (const event of follow(context, settings.path, run, {}, flags.follow === true)) {
    if (flags.type !== undefined && event.type !== flags.type && !event.type.startsWith(`${flags.type}.`)) continue;
    if (term.options.json) term.line(event);
    else term.out(renderEventLine(event, style));
  }
  return 0;
}

function addressOf(text: string | undefined): Address | undefined {
  if (text === undefined || text === "last") return undefined;
  return canonicalAddress(text);
}

function noRun(what: string | undefined, address: Address | undefined): LabError {
  if (what === undefined || what === "last")
    return new LabError("E_STATE_NOT_FOUND", "no runs are recorded yet", { hint: "`labctl apply` makes the first" });
  return address === undefined
    ? new LabError("E_STATE_NOT_FOUND", `there is no run ${JSON.stringify(what)}`, {
        hint: "`labctl history` lists the runs",
      })
    : new LabError("E_STATE_NOT_FOUND", `no recorded run dealt with ${visible(address)}`, {
        hint: "`labctl state list` lists the addresses, `labctl history` the runs",
      });
}

async function lastRunWith(dir: string, address: Address): Promise<RunRecord | undefined> {
  for (const run of await listRuns(dir)) {
    for await (const event of readEvents(dir, run.id, { address })) {
      if (event.type !== "plan.made") return run;
    }
  }
  return undefined;
}

/** The events of a run; with `on`, also those that are still to come, until it ends or nobody reads them. */
async function* follow(
  context: Context,
  dir: string,
  run: RunRecord,
  filter: EventFilter,
  on: boolean,
): AsyncGenerator<LabEvent> {
  const stop = AbortSignal.any([context.term.closed, context.signals.cancellation.soft]);
  let after = 0;
  for (;;) {
    // Looked at before the events are read: what was written up to the end is then among them.
    const over = !on || stateOf(await readRun(dir, run.id)) !== "running";
    for await (const event of readEvents(dir, run.id, { ...filter, after })) {
      if (stop.aborted) return;
      after = event.seq;
      yield event;
    }
    if (over || stop.aborted) return;
    await sleep(POLL_MS, undefined, { signal: stop }).catch(() => undefined);
  }
}
