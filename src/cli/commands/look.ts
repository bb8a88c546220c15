import { resolve } from "node:path";
import { Option, type Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { findRun, listRuns, readOutcome, stateOf } from "../../events/index.ts";
import {
  canonicalAddress,
  formatDuration,
  isWithin,
  LAB_SCOPE,
  type Plain,
  type Row,
  type RunRecord,
} from "../../model/index.ts";
import { type Context, selectionOf } from "../context.ts";
import { summaryOf, withLab } from "../lab.ts";
import { readPlanFile } from "../plan-file.ts";
import type { Host } from "../program.ts";
import { renderDot, renderMermaid, renderTree } from "../renderers/graph.ts";
import { paintFor } from "../renderers/paint.ts";
import { renderPlan } from "../renderers/plan.ts";
import { holdText, renderMap, renderPairs, renderRow, renderRows } from "../renderers/rows.ts";
import { paintState, renderOutcome, renderRun } from "../renderers/runs.ts";
import { plural, visible } from "../renderers/text.ts";
import { formatValue, isMap, nameOf } from "../renderers/value.ts";
import { activeHold, holderText, readWhole, rowsWithin, stateOfLab } from "../state-access.ts";
import { styleOf } from "./plan.ts";
import { addressArgument } from "./planning.ts";

/** Commands that only look: graph, output, show, status. */
export function registerLook(program: Command, host: Host): void {
  const graph = program
    .command("graph")
    .argument("[spec]", "a spec file or folder")
    .summary("what contains and needs what")
    .description("Draws the resources of the spec: what contains what (dashed), and what needs what (solid).")
    .addOption(new Option("--format <format>", "how").choices(["text", "dot", "mermaid"]).default("text"))
    .option("--target <address>", "only this and what it contains")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl graph\n  labctl graph --format dot | dot -Tsvg > lab.svg\n  labctl graph --format mermaid",
    );
  graph.action(async (spec: string | undefined, flags: GraphFlags) => {
    await host.invoke((context) => showGraph(context, spec, flags), graph);
  });

  const output = program
    .command("output")
    .argument("[name]", "one output")
    .summary("the lab's outputs")
    .description("Prints the outputs as the last apply left them.")
    .option("--raw", "the text itself, without quotes, for scripts")
    .addHelpText("after", '\nExamples:\n  labctl output\n  ssh "$(labctl output --raw builder_address)"');
  output.action(async (name: string | undefined, flags: { raw?: boolean }) => {
    await host.invoke((context) => showOutput(context, name, flags.raw === true), output);
  });

  const show = program
    .command("show")
    .argument(
      "[what]",
      "a resource, a run (its id, the beginning of one, or `last`), or a plan saved with `plan --out`",
    )
    .summary("what labctl knows of a resource, a run or a saved plan")
    .description(
      "Shows what the state knows: all of it, or one resource; of a recorded run, what it planned and what came of it; or a saved plan in full.",
    )
    .addHelpText(
      "after",
      "\nExamples:\n  labctl show\n  labctl show host.builder-1\n  labctl show last\n  labctl show change.plan -v",
    );
  show.action(async (what: string | undefined) => {
    await host.invoke((context) => showState(context, what), show);
  });

  const status = program
    .command("status")
    .argument("[spec]", "a spec file or folder")
    .summary("where the lab stands, as far as labctl remembers")
    .description("Shows the state, its lock, what is unfinished or held, and the last run. Reaches no machine.")
    .addHelpText("after", "\nExamples:\n  labctl status\n  labctl status --json | jq .counts");
  status.action(async (spec: string | undefined) => {
    await host.invoke((context) => showStatus(context, spec), status);
  });
}

interface GraphFlags {
  readonly format: "text" | "dot" | "mermaid";
  readonly target?: string;
}

async function showGraph(context: Context, spec: string | undefined, flags: GraphFlags): Promise<number> {
  const { term } = context;
  const started = performance.now();
  const target = flags.target === undefined ? undefined : addressArgument(flags.target, "--target");
  return withLab(
    context,
    { command: "graph", selection: selectionOf(context, spec), record: false, stream: false },
    async ({ session }) => {
      const nodes = session.lab.resources.filter((one) => target === undefined || isWithin(one.address, target));
      if (nodes.length === 0 && target !== undefined) {
        throw new LabError("E_ADDRESS_UNKNOWN", `the spec has no ${visible(target)}`, {
          address: target,
          hint: "`labctl graph` shows what it has",
        });
      }
      if (term.options.json) {
        term.json({
          nodes: nodes.map(({ address, kind }) => ({ address, kind })),
          edges: nodes.flatMap(({ address, parent, depends }) => [
            ...(parent === undefined ? [] : [{ from: parent, to: address, sort: "contains" }]),
            ...depends.map((to) => ({ from: address, to, sort: "depends" })),
          ]),
        });
      } else if (flags.format === "dot") term.out(renderDot(nodes));
      else if (flags.format === "mermaid") term.out(renderMermaid(nodes));
      else term.out(renderTree(nodes, styleOf(term)));
      return summaryOf("graph", 0, started);
    },
  );
}

async function showOutput(context: Context, name: string | undefined, raw: boolean): Promise<number> {
  const { term } = context;
  const { store } = await stateOfLab(context, selectionOf(context));
  const { outputs } = await readWhole(store);
  if (name === undefined) {
    if (raw) throw new LabError("E_USAGE", "--raw needs the name of one output", { hint: "labctl output --raw NAME" });
    if (term.options.json) term.json(outputs);
    else if (Object.keys(outputs).length === 0) term.out("There are no outputs.");
    else for (const [key, value] of Object.entries(outputs)) term.out(`${nameOf(key)} = ${formatValue(value)}`);
    return 0;
  }
  const value = outputs[name];
  if (value === undefined) {
    const known = Object.keys(outputs);
    throw new LabError("E_ADDRESS_UNKNOWN", `there is no output ${JSON.stringify(name)}`, {
      hint: known.length === 0 ? "declare it under `outputs:`, then apply" : `there are: ${known.join(", ")}`,
    });
  }
  if (term.options.json) term.json(value);
  else if (raw) term.out(rawText(name, value));
  else term.out(formatValue(value));
  return 0;
}

function rawText(name: string, value: Plain): string {
  if (value !== null && typeof value === "object") {
    throw new LabError("E_USAGE", `the output ${JSON.stringify(name)} is not plain text`, {
      hint: "use --json in place of --raw",
    });
  }
  return String(value);
}

async function showState(context: Context, what: string | undefined): Promise<number> {
  const { term } = context;
  const style = styleOf(term);
  const plan = what === undefined ? undefined : await readPlanFile(resolve(term.io.cwd, what));
  if (plan !== undefined) {
    if (term.options.json) term.json(plan);
    else {
      term.out(`Plan ${visible(plan.id)} of ${visible(plan.lab)}, made ${visible(plan.created_at)}\n`);
      term.out(renderPlan(plan, style));
    }
    return 0;
  }
  const { store, settings } = await stateOfLab(context, selectionOf(context));
  const run = what === undefined ? undefined : await findRun(settings.path, what);
  if (run !== undefined) return showRun(context, settings.path, run);
  const view = await readWhole(store);
  if (what !== undefined) {
    const address = canonicalAddress(what);
    if (address === undefined) {
      throw new LabError("E_USAGE", `${JSON.stringify(what)} is no address, no recorded run and no saved plan`, {
        hint: "`labctl state list` lists the addresses, `labctl history` the runs",
      });
    }
    const rows = rowsWithin(view.rows, address);
    const row = view.rows.get(address);
    const contains = rows.map((one) => one.address).filter((one) => one !== address);
    if (term.options.json) term.json(row === undefined ? rows : { ...row, contains });
    else if (row === undefined) term.out(renderRows(rows, style));
    else term.out(renderRow(row, contains, view.holds.get(address), style));
    return 0;
  }
  const rows = [...view.rows.values()];
  if (term.options.json) term.json({ scopes: view.versions, rows, outputs: view.outputs });
  else if (rows.length === 0) term.out("The state is empty: nothing was applied yet.");
  else {
    for (const row of rows) term.out(shortRow(row, style.color));
    if (Object.keys(view.outputs).length > 0) term.out("\noutputs:");
    for (const [key, value] of Object.entries(view.outputs)) term.out(`  ${nameOf(key)} = ${formatValue(value)}`);
  }
  return 0;
}

/** What a recorded run planned, and what came of it. */
async function showRun(context: Context, dir: string, run: RunRecord): Promise<number> {
  const { term } = context;
  const { plan, resources } = await readOutcome(dir, run.id);
  if (term.options.json) {
    term.json({ run: { ...run, state: stateOf(run) }, plan: plan ?? null, resources: Object.fromEntries(resources) });
    return 0;
  }
  const style = styleOf(term);
  term.out(renderRun({ run, state: stateOf(run) }, style));
  term.out("");
  term.out(plan === undefined ? "It made no plan." : renderPlan(plan, style));
  const outcome = renderOutcome(plan?.actions ?? [], resources, style);
  if (outcome !== "") term.out(`\n${outcome}`);
  return 0;
}

function shortRow(row: Row, color: boolean): string {
  const paint = paintFor({ color });
  const head = `${paint.bold(visible(row.address))}${row.status === "ok" ? "" : ` (${row.status})`}`;
  const seen = row.observed !== null ? row.observed : row.desired;
  return isMap(seen) && Object.keys(seen).length > 0 ? [head, ...renderMap(seen, 4)].join("\n") : head;
}

async function showStatus(context: Context, spec: string | undefined): Promise<number> {
  const { term } = context;
  const { store, settings } = await stateOfLab(context, selectionOf(context, spec));
  const view = await readWhole(store);
  const lock = await store.holder(LAB_SCOPE);
  const [last] = await listRuns(settings.path, 1);
  const rows = [...view.rows.values()];
  const counts: Record<string, number> = {};
  for (const row of rows) counts[row.status] = (counts[row.status] ?? 0) + 1;
  const unfinished = rows.filter((row) => row.status !== "ok");
  const holds = [...view.holds].filter(([, hold]) => activeHold(hold, term.io.now()) !== undefined);
  if (term.options.json) {
    term.json({
      state: { path: settings.path, scopes: view.versions },
      counts,
      unfinished: unfinished.map(({ address, status }) => ({ address, status })),
      holds: Object.fromEntries(holds),
      lock: lock ?? null,
      last_run: last === undefined ? null : { ...last, state: stateOf(last) },
    });
    return 0;
  }
  const style = styleOf(term);
  const paint = paintFor(style);
  const ok = counts["ok"] ?? 0;
  term.out(
    renderPairs([
      [paint.bold("state"), `${visible(settings.path)} (serial ${view.versions[LAB_SCOPE]?.serial ?? 0})`],
      [
        paint.bold("resources"),
        rows.length === 0 ? "none: nothing was applied yet" : `${plural(rows.length, "row")}, ${ok} ok`,
      ],
      [paint.bold("lock"), lock === undefined ? "free" : paint.yellow(holderText(lock))],
      [
        paint.bold("last run"),
        last === undefined
          ? "none"
          : `${visible(last.id)} ${visible(last.command)}: ${paintState(stateOf(last), paint)}${last.summary === undefined ? "" : ` after ${formatDuration(last.summary.duration_ms)}`}`,
      ],
    ]),
  );
  if (unfinished.length > 0) {
    term.out(`\n${paint.bold("Unfinished")} (the next apply takes them up):`);
    term.out(renderRows(unfinished, style));
  }
  if (holds.length > 0) {
    term.out(`\n${paint.bold("In maintenance:")}`);
    term.out(renderPairs(holds.map(([address, hold]) => [visible(address), holdText(hold)])));
  }
  return 0;
}
