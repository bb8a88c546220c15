import type { Command } from "commander";
import { resolve } from "node:path";
import { LabError, toLabError } from "../../diagnostics/index.ts";
import { writeJson } from "../../events/index.ts";
import type { Plan } from "../../model/index.ts";
import { type Context, selectionOf } from "../context.ts";
import { summaryOf, withLab } from "../lab.ts";
import type { Host } from "../program.ts";
import { paintFor, type Style } from "../renderers/paint.ts";
import { renderPlan } from "../renderers/plan.ts";
import { renderProblem } from "../renderers/summary.ts";
import type { Terminal } from "../terminal.ts";
import { addPlanningOptions, blockedProblems, planExit, planOptions, type PlanningFlags } from "./planning.ts";

interface PlanFlags extends PlanningFlags {
  readonly out?: string;
  readonly detailedExitcode?: boolean;
}

export function registerPlan(program: Command, host: Host): void {
  const command = program
    .command("plan")
    .argument("[spec]", "a spec file or folder")
    .summary("show what apply would do")
    .description("Reads the lab and shows what apply would do and why. Writes nothing, anywhere.")
    .option("--out <file>", "save the plan, for `labctl apply FILE`")
    .option("--detailed-exitcode", "exit 2 where changes are pending");
  addPlanningOptions(command, { destroy: true });
  command
    .addHelpText(
      "after",
      `
Examples:
  labctl plan
  labctl plan labs/berlin --target host.builder-1
  labctl plan --out change.plan && labctl apply change.plan
  labctl plan --detailed-exitcode --json > plan.json

Exit codes: 0 planned; 2 changes pending (--detailed-exitcode); 3 invalid spec; 5 some of the lab cannot be reached.`,
    )
    .action(async (spec: string | undefined, flags: PlanFlags) => {
      await host.invoke((context) => plan(context, spec, flags), command);
    });
}

async function plan(context: Context, spec: string | undefined, flags: PlanFlags): Promise<number> {
  const { term } = context;
  const options = planOptions(context, flags);
  const started = performance.now();
  return withLab(
    context,
    { command: "plan", selection: selectionOf(context, spec), record: false, stream: false },
    async ({ session, view }) => {
      const made = await session.plan({ ...options, ...(flags.out !== undefined && { durableSeal: true }) });
      await view.pause();
      if (flags.out !== undefined) await savePlan(resolve(term.io.cwd, flags.out), made);
      if (term.options.json) term.json(made);
      else {
        term.out(renderPlan(made, styleOf(term)));
        if (flags.out !== undefined)
          term.out(`\nSaved to ${flags.out}: \`labctl apply ${flags.out}\` does exactly this.`);
        showBlocked(term, made);
      }
      return summaryOf("plan", planExit(made, flags.detailedExitcode === true), started);
    },
  );
}

/** What is in the way, each once, with what to do about it. */
export function showBlocked(term: Terminal, plan: Plan): void {
  for (const problem of blockedProblems(plan)) term.err(renderProblem(problem, paintFor({ color: term.errColor })));
}

export function styleOf(term: Terminal): Style {
  return {
    color: term.color,
    verbose: term.options.verbose,
    ...(term.columns !== undefined && { width: term.columns }),
  };
}

async function savePlan(path: string, data: unknown): Promise<void> {
  try {
    await writeJson(path, data);
  } catch (cause) {
    const lab = toLabError(cause);
    if (lab.code === "E_DISK_FULL") throw lab;
    throw new LabError("E_PLAN_FILE", `the plan cannot be saved to ${path}: ${lab.message}`, {
      cause,
      hint: "name a file in a folder that exists and can be written",
    });
  }
}
