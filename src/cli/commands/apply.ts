import { Option, type Command } from "commander";
import { dirname, resolve } from "node:path";
import { LabError } from "../../diagnostics/index.ts";
import type { OnFailure, PlanOptions, SpecSelection } from "../../engine/port.ts";
import type { Plan, PlanMode, RunSummary } from "../../model/index.ts";
import { approve } from "../approve.ts";
import { type Context, selectionOf } from "../context.ts";
import { summaryOf, type Work, withLab } from "../lab.ts";
import { readPlanFile } from "../plan-file.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { renderPlan } from "../renderers/plan.ts";
import { renderSummary } from "../renderers/summary.ts";
import { formatValue, nameOf } from "../renderers/value.ts";
import { readWhole } from "../state-access.ts";
import { showBlocked, styleOf } from "./plan.ts";
import {
  addPlanningOptions,
  addressArgument,
  blockedProblems,
  doesSomething,
  planExit,
  planOptions,
  type PlanningFlags,
} from "./planning.ts";

export interface ApplyFlags extends PlanningFlags {
  readonly autoApprove?: boolean;
  readonly jsonInto?: string;
  readonly onFailure: OnFailure;
  readonly force?: boolean;
  /** `--no-wait` */
  readonly wait?: boolean;
}

export function addApplyOptions(command: Command): Command {
  return command
    .option("--auto-approve", "do it without asking")
    .option("--json-into <file>", "write the events as NDJSON into a file too")
    .option("--no-wait", "refuse what is busy (exit code 8), in place of waiting for it")
    .addOption(
      new Option("--on-failure <what>", "what to do when something fails: what does not depend on it goes on, or not")
        .choices(["abort", "continue", "rollback", "cleanup"])
        .default("continue"),
    );
}

export function registerApply(program: Command, host: Host): void {
  const apply = program
    .command("apply")
    .argument("[spec-or-plan]", "a spec file or folder, or a plan saved with `plan --out`")
    .summary("bring the lab to what the spec says")
    .description(
      "Plans, asks, and brings the lab to what the spec says; or carries out a saved plan, which is not asked about.",
    );
  addApplyOptions(addPlanningOptions(apply, { destroy: true }))
    .addHelpText(
      "after",
      `
Examples:
  labctl apply
  labctl apply labs/berlin --auto-approve --on-failure rollback
  labctl apply change.plan
  labctl apply --auto-approve --json | tee events.ndjson

Ctrl-C once: nothing new is started. Twice: what runs is cut off. Running again goes on where it stopped.
Exit codes: 0 done; 3 invalid spec or arguments; 4 locked; 5 not reachable, nothing begun; 6 some of it failed; 130 cancelled.`,
    )
    .action(async (spec: string | undefined, flags: ApplyFlags) => {
      await host.invoke((context) => applyCommand(context, spec, flags), apply);
    });

  const destroy = program
    .command("destroy")
    .argument("[spec]", "a spec file or folder")
    .summary("delete what labctl made, and restore what it changed")
    .description(
      "Deletes everything that the state knows: what labctl made goes, what it found is restored to what it was.",
    );
  addApplyOptions(addPlanningOptions(destroy, { destroy: false }))
    .option("--force", "go on past what cannot be reached, and list what is left to do by hand")
    .addHelpText(
      "after",
      `
Examples:
  labctl destroy
  labctl destroy --target host.builder-1 --auto-approve
  labctl destroy --force`,
    )
    .action(async (spec: string | undefined, flags: ApplyFlags) => {
      await host.invoke(
        (context) =>
          change(context, { command: "destroy", mode: "destroy", selection: selectionOf(context, spec), flags }),
        destroy,
      );
    });

  const refresh = program
    .command("refresh")
    .argument("[spec]", "a spec file or folder")
    .summary("bring the state up to date with what is there")
    .description("Reads the lab and writes what it finds into the state. Changes no machine, and asks nothing.");
  addPlanningOptions(refresh, { destroy: false })
    .option("--json-into <file>", "write the events as NDJSON into a file too")
    .addHelpText("after", "\nExamples:\n  labctl refresh\n  labctl refresh --target host.builder-1")
    .action(async (spec: string | undefined, flags: ApplyFlags) => {
      await host.invoke(
        (context) =>
          change(context, {
            command: "refresh",
            mode: "refresh-only",
            selection: selectionOf(context, spec),
            flags: { ...flags, autoApprove: true, onFailure: "continue" },
          }),
        refresh,
      );
    });

  const take = program
    .command("import")
    .argument("<address>", "the resource in the spec")
    .argument("<id>", "what it is called where it is")
    .summary("take over something that exists")
    .description(
      "Takes over something that exists, for a resource that the spec describes; differences are shown and put right.",
    );
  addApplyOptions(take)
    .addHelpText(
      "after",
      `\nExamples:\n  labctl import network.test default\n  labctl import 'host.b/file["/etc/motd"]' /etc/motd`,
    )
    .action(async (address: string, id: string, flags: ApplyFlags) => {
      const target = addressArgument(address);
      await host.invoke(
        (context) =>
          change(context, {
            command: "import",
            mode: "normal",
            selection: selectionOf(context),
            flags: { ...flags, target: [target], exclude: [], replace: [], refresh: true },
            imports: [{ address: target, id }],
          }),
        take,
      );
    });
}

async function applyCommand(context: Context, spec: string | undefined, flags: ApplyFlags): Promise<number> {
  const saved = spec === undefined ? undefined : await readPlanFile(resolve(context.term.io.cwd, spec));
  if (saved === undefined) {
    return change(context, { command: "apply", flags, selection: selectionOf(context, spec) });
  }
  const chosen = [...flags.target, ...flags.exclude, ...flags.replace];
  if (chosen.length > 0 || flags.destroy === true || flags.refreshOnly === true || !flags.refresh) {
    throw new LabError("E_USAGE", "a saved plan is carried out as it is: it takes no planning flags", {
      hint: "give them to `labctl plan --out`",
    });
  }
  return change(context, { command: "apply", flags, selection: planSelection(context, saved), saved });
}

/** The spec that a saved plan was made from, as it was selected; what the command line says wins. */
export function planSelection(context: Context, saved: Plan): SpecSelection {
  const flags = selectionOf(context);
  const { profile, instance, vars, var_files } = saved.settings.selection;
  const selection: SpecSelection = {
    ...(profile !== undefined && { profile }),
    ...(instance !== undefined && { instance }),
    ...flags,
    vars: { ...vars, ...flags.vars },
    varFiles: [...var_files, ...flags.varFiles],
  };
  if (selection.paths.length > 0) return selection;
  const first = saved.spec[0]?.path;
  const path = first === undefined ? saved.settings.root : resolve(saved.settings.root, first);
  const usual = /(^|[/\\])(lab|pipeline)\.ya?ml$/.test(path);
  return { ...selection, paths: [usual ? dirname(path) : path] };
}

export interface Change {
  readonly command: string;
  readonly selection: SpecSelection;
  readonly flags: ApplyFlags;
  readonly mode?: PlanMode;
  readonly saved?: Plan;
  readonly imports?: readonly { readonly address: string; readonly id: string }[];
  /** Called with the lab open, before it is planned: what it gives goes before the flags. */
  readonly prepare?: (work: Work) => Promise<Partial<PlanOptions>>;
  /** This need not be asked about. */
  readonly harmless?: (plan: Plan) => boolean;
  /** `--json` gives one document, which `done` prints, in place of a stream of events. */
  readonly document?: boolean;
  /** Called at the end, also where there was nothing to do. */
  readonly done?: (work: Work, plan: Plan, summary: RunSummary) => Promise<void>;
}

/** Plan, show, ask, apply, say what came of it: apply, destroy, refresh, import, and the commands that are made of them. */
export async function change(context: Context, what: Change): Promise<number> {
  const { term } = context;
  const { flags } = what;
  const base = what.saved === undefined ? planOptions(context, flags, what.mode) : undefined;
  const mustAsk = (plan?: Plan): boolean =>
    flags.autoApprove !== true && what.saved === undefined && (plan === undefined || what.harmless?.(plan) !== true);
  if (what.harmless === undefined && mustAsk() && !term.interactive) throw nobodyThere(what.command);
  return withLab(
    context,
    {
      command: what.command,
      selection: what.selection,
      record: true,
      stream: what.document !== true || !term.options.json,
      ...(flags.jsonInto !== undefined && { jsonInto: resolve(term.io.cwd, flags.jsonInto) }),
    },
    async (work) => {
      const started = performance.now();
      const { session, bus, view } = work;
      warnOfShortLife(context, work);
      const options = base && { ...base, ...(await what.prepare?.(work)) };
      const planned = options && (() => session.plan({ ...options, ...(what.imports && { imports: what.imports }) }));
      let plan = what.saved;
      if (plan === undefined && planned !== undefined) plan = await planned();
      else if (plan !== undefined) bus.emit({ type: "plan.made", plan });
      if (plan === undefined) throw new Error("no plan");
      await view.pause();
      if (!term.options.json) term.out(renderPlan(plan, styleOf(term)));
      const lists = flags.force === true && plan.actions.some((action) => action.action === "blocked");
      if (!doesSomething(plan) && !lists) {
        if (!term.options.json) showBlocked(term, plan);
        if (what.done === undefined) await showOutputs(context, work);
        const summary = settled(plan, what.command, started);
        await what.done?.(work, plan, summary);
        return summary;
      }
      if (mustAsk(plan) && !term.interactive) throw nobodyThere(what.command);
      const agreed = async (shown: Plan): Promise<boolean> =>
        !mustAsk(shown) ||
        (await approve(term, question(what.command, session.lab.name), context.signals.cancellation.soft));
      if (!(await agreed(plan))) {
        term.out("Nothing was changed.");
        return summaryOf(what.command, 130, started);
      }
      const replan =
        planned &&
        (async () => {
          const again = await planned();
          if (!term.options.json) {
            await view.pause();
            term.out("\nThe state moved on while the lock was waited for. The plan is now:\n");
            term.out(renderPlan(again, styleOf(term)));
          }
          return !doesSomething(again) || (await agreed(again)) ? again : undefined;
        });
      if (!term.options.json) term.out("\n");
      const summary = await session.apply(plan, {
        parallelism: context.globals.parallelism,
        ...(flags.batch !== undefined && { batch: flags.batch }),
        onFailure: flags.onFailure,
        lockTimeout: context.globals.lockTimeout,
        cancellation: context.signals.cancellation,
        force: flags.force === true,
        experimental: context.globals.experimental === true,
        noWait: flags.wait === false,
        ...(replan && { replan }),
      });
      await view.stop();
      if (!term.options.json) showSummary(context, work, summary);
      if (summary.result === "ok" && what.done === undefined) await showOutputs(context, work);
      await what.done?.(work, plan, summary);
      return summary;
    },
  );
}

function nobodyThere(command: string): LabError {
  return new LabError(
    "E_NOT_INTERACTIVE",
    `labctl ${command} asks before it changes anything, and nobody is there to answer`,
    { hint: "pass --auto-approve, or make a plan with `labctl plan --out FILE` and apply that" },
  );
}

/** Nothing to do. What is blocked still counts. */
function settled(plan: Plan, command: string, started: number): RunSummary {
  const blocked = plan.actions.filter((action) => action.action === "blocked").length;
  const noop = plan.actions.length - blocked;
  return {
    ...summaryOf(command, planExit(plan, false), started, blockedProblems(plan)),
    results: { ...(noop > 0 && { noop }), ...(blocked > 0 && { blocked }) },
  };
}

function showSummary(context: Context, work: Work, summary: RunSummary): void {
  const { term } = context;
  const again = ["labctl", ...context.argv].join(" ");
  if (!term.live) term.out("\n");
  term.out(renderSummary(summary, work.tally, { run: work.run, again }, styleOf(term)));
}

/** The lab's outputs: what the next step often needs. */
async function showOutputs({ term }: Context, { session }: Work): Promise<void> {
  if (term.options.json) return;
  const { outputs } = await readWhole(session.store);
  const entries = Object.entries(outputs);
  if (entries.length === 0) return;
  term.out(`\n${paintFor({ color: term.color }).bold("Outputs:")}`);
  for (const [name, value] of entries) term.out(`  ${nameOf(name)} = ${formatValue(value)}`);
}

function question(command: string, lab: string): string {
  switch (command) {
    case "destroy":
      return `Destroy all of this in ${JSON.stringify(lab)}? Only "yes" goes on: `;
    case "import":
      return `Take this over in ${JSON.stringify(lab)}? Only "yes" goes on: `;
    default:
      return `Do this in ${JSON.stringify(lab)}? Only "yes" goes on: `;
  }
}

/** In CI the checkout is thrown away, and a state inside it too: the next run would not know what this one made. */
function warnOfShortLife(context: Context, { session, bus }: Work): void {
  const { env } = context.term.io;
  if (env["CI"] === undefined || env["CI"] === "" || env["CI"] === "false") return;
  const { path } = session.lab.state;
  if (!path.startsWith(session.root)) return;
  bus.emit({
    type: "warning.raised",
    problem: {
      code: "state-not-kept",
      message: `under CI, the state in ${path} goes with the checkout`,
      hint: "set state.path to a folder that outlives it, or keep .labctl in the CI's cache",
    },
  });
}
