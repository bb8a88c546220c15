import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { findRun, listRuns, Pulse, requestCancel, stateOf } from "../../events/index.ts";
import {
  type Address,
  canonicalAddress,
  LAB_SCOPE,
  lastSegment,
  type RunRecord,
  type Scope,
} from "../../model/index.ts";
import type { StateStore } from "../../state/index.ts";
import { type Context, durationOption, selectionOf, whoAmI } from "../context.ts";
import { summaryOf, withLab } from "../lab.ts";
import type { Host } from "../program.ts";
import { chooseRun, recordOf } from "../recorded.ts";
import { paintFor } from "../renderers/paint.ts";
import { renderEnding } from "../renderers/runs.ts";
import { visible } from "../renderers/text.ts";
import { stateOfLab } from "../state-access.ts";
import { styleOf } from "./plan.ts";

interface CancelFlags {
  readonly force?: boolean;
  readonly wait: boolean;
  readonly timeout: number;
}

const LOOK_MS = 200;

export function registerCancel(program: Command, host: Host): void {
  const cancel = program
    .command("cancel")
    .argument("[run-or-address]", "a run, or a resource: the run that deals with it; for a build its job on the server")
    .summary("stop a run that goes on, here or elsewhere")
    .description(
      "Asks the run that holds this lab's state to stop, as the first Ctrl-C does: nothing new is begun, what may be cut off is, what must not be ends. Waits, and says how it ended. Works from every machine that shares the state. For a build it ends the build's job on its server, whoever started it.",
    )
    .option("--force", "as the second Ctrl-C: cut off everything")
    .option("--no-wait", "ask, and do not wait for the end")
    .option(
      "--timeout <duration>",
      "how long to wait for the end",
      (text) => durationOption("--timeout", text),
      600_000,
    )
    .addHelpText(
      "after",
      "\nExamples:\n  labctl cancel\n  labctl cancel --force\n  labctl cancel build.kasan-x86_64\n  labctl cancel 20261123T010203Z-1f2e3d --no-wait",
    );
  cancel.action(async (what: string | undefined, flags: CancelFlags) => {
    await host.invoke((context) => cancelCommand(context, what, flags), cancel);
  });
}

async function cancelCommand(context: Context, what: string | undefined, flags: CancelFlags): Promise<number> {
  const { settings, store } = await stateOfLab(context, selectionOf(context));
  const address = what === undefined ? undefined : canonicalAddress(what);
  const named = what === undefined ? undefined : await findRun(settings.path, what);
  if (address !== undefined && named === undefined) {
    const ended = await cancelWork(context, address);
    if (ended !== undefined) return ended;
  }
  const run = named ?? (await goingOn(settings.path, store, what));
  if (run === undefined) return nothingRuns(context, settings.path);
  return stop(context, { dir: settings.path, run }, flags);
}

/** Work that goes on by itself on a machine. Undefined: its kind has none, and it is the run that is meant. */
async function cancelWork(context: Context, address: Address): Promise<number | undefined> {
  const { term, signals, services } = context;
  const builtin = (await services.kinds()).get(lastSegment(address).kind);
  if (builtin !== undefined && builtin.cancel === undefined) return undefined;
  const started = performance.now();
  let meant = true;
  const code = await withLab(
    context,
    { command: "cancel", selection: selectionOf(context), record: true, stream: false },
    async ({ session, view }) => {
      await view.pause();
      const kind = session.lab.resources.find((one) => one.address === address)?.kind;
      if (kind === undefined || session.kinds.get(kind)?.cancel === undefined) {
        meant = false;
        return summaryOf("cancel", 0, started);
      }
      const ended = await session.cancel(address, signals.cancellation.soft);
      if (term.options.json) term.json({ address, ended: ended ?? null });
      else term.out(ended === undefined ? `Nothing of ${visible(address)} runs anywhere.` : visible(ended));
      return summaryOf("cancel", 0, started);
    },
  );
  return meant ? code : undefined;
}

/** The run that holds the state, and where none does one that says of itself that it goes on. */
async function goingOn(dir: string, store: StateStore, what: string | undefined): Promise<RunRecord | undefined> {
  if (what !== undefined) return (await chooseRun(dir, what)).run;
  for (const scope of await scopesOf(store)) {
    const id = runIn((await store.holder(scope))?.purpose);
    const run = id === undefined ? undefined : await recordOf(dir, id);
    if (run !== undefined) return run;
  }
  const going = (await listRuns(dir, 20)).filter((run) => stateOf(run) === "running");
  if (going.length > 1) {
    throw new LabError(
      "E_USAGE",
      `several runs go on: ${going.map((run) => `${run.id} (${run.command})`).join(", ")}`,
      {
        hint: "say which",
      },
    );
  }
  return going[0];
}

async function scopesOf(store: StateStore): Promise<Scope[]> {
  return [...new Set([LAB_SCOPE, ...(await store.scopes())])];
}

/** `labctl apply (run 20261123T010203Z-1f2e3d)`, as a lock says what it is held for. */
function runIn(purpose: string | undefined): string | undefined {
  return /\(run ([^)]+)\)/.exec(purpose ?? "")?.[1];
}

async function nothingRuns({ term }: Context, dir: string): Promise<number> {
  const [last] = await listRuns(dir, 1);
  if (term.options.json) term.json({ run: null, last: last?.id ?? null });
  else if (last === undefined) term.out("Nothing runs in this lab.");
  else term.out(`Nothing runs in this lab. The last run: ${ending(last)}`);
  return 0;
}

function ending(run: RunRecord): string {
  return renderEnding({ run, state: stateOf(run) }, paintFor({ color: false }));
}

interface Target {
  readonly dir: string;
  readonly run: RunRecord;
}

async function stop(context: Context, target: Target, flags: CancelFlags): Promise<number> {
  const { term } = context;
  const { dir, run } = target;
  const before = stateOf(run);
  if (before !== "running") return say(context, run, before, false);
  await requestCancel(dir, run.id, {
    level: flags.force === true ? 2 : 1,
    who: whoAmI(term.io.env),
    host: hostname(),
    at: term.io.now().toISOString(),
  });
  if (!term.options.json) {
    const where = run.host === hostname() ? `pid ${run.pid}` : `pid ${run.pid} on ${visible(run.host)}`;
    term.err(`Asked ${visible(run.id)} (${visible(run.command)} by ${visible(run.who)}, ${where}) to stop.`);
  }
  if (!flags.wait) {
    if (term.options.json) term.json({ run: run.id, asked: true, state: "running" });
    return 0;
  }
  const { record, state } = await ended(context, target, flags.timeout);
  return say(context, record, state, true);
}

interface Ended {
  readonly record: RunRecord;
  readonly state: ReturnType<typeof stateOf>;
}

/** @throws LabError E_TIMEOUT, E_CANCELLED */
async function ended(context: Context, target: Target, timeout: number): Promise<Ended> {
  const { dir, run } = target;
  const { soft } = context.signals.cancellation;
  const until = performance.now() + timeout;
  const pulse = new Pulse(dir, run.id);
  for (;;) {
    // Looked at first: what it wrote before it went is then in the record.
    const silent = await pulse.isSilent();
    const record = (await recordOf(dir, run.id)) ?? run;
    const state = stateOf(record);
    if (state !== "running") return { record, state };
    // On another machine nobody can look at its process.
    if (silent && run.host !== hostname()) return { record, state: "interrupted" };
    if (soft.aborted) throw new LabError("E_CANCELLED", "no longer waiting; the run was asked to stop all the same");
    if (performance.now() > until) {
      throw new LabError("E_TIMEOUT", `run ${run.id} has not ended within ${Math.round(timeout / 1000)} s`, {
        hint: "what must not be cut off may still be at work (`labctl logs --follow`); `labctl cancel --force` cuts off everything",
      });
    }
    await sleep(LOOK_MS, undefined, { signal: soft }).catch(ignore);
  }
}

const ignore = (): undefined => undefined;

function say(context: Context, run: RunRecord, state: Ended["state"], asked: boolean): number {
  const { term } = context;
  if (term.options.json) {
    term.json({ run: run.id, asked, state, ...(run.summary !== undefined && { summary: run.summary }) });
    return 0;
  }
  term.out(renderEnding({ run, state }, paintFor(styleOf(term))));
  if (state === "interrupted") {
    const lock = run.host === hostname() ? "" : "; `--lock-timeout 1m` waits until its lock has lapsed";
    term.out(`  Its process is gone. The next apply takes up what it left${lock}.`);
  }
  return 0;
}
