import { type ActionResult, formatDuration, type Problem, type RunSummary } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import type { Tally } from "./tally.ts";
import { indent, plural, visible } from "./text.ts";
import { problemText } from "./words.ts";

const WORDS: Readonly<Record<ActionResult, string>> = {
  ok: "done",
  failed: "failed",
  skipped: "skipped",
  blocked: "blocked",
  cancelled: "cancelled",
  rolled_back: "rolled back",
  noop: "unchanged",
};
const MOST_NAMED = 3;

export interface SummaryContext {
  readonly run: string;
  /** How the command is called again, e.g. `labctl apply lab.yaml`. */
  readonly again: string;
}

/** The end of a run: what came of it, what failed and why, what was left out for whom, what to do now, where the logs are. */
export function renderSummary(summary: RunSummary, tally: Tally, context: SummaryContext, style: Style): string {
  const paint = paintFor(style);
  const blocks = [
    renderProblems(summary, tally, paint),
    renderSkipped(tally, paint),
    renderManual(summary.manual_steps, paint),
    renderHead(summary, tally, paint),
    renderNext(summary, tally, context, paint),
  ];
  return blocks.filter((block) => block !== "").join("\n\n");
}

function renderHead(summary: RunSummary, tally: Tally, paint: Paint): string {
  const order: ActionResult[] = ["ok", "failed", "skipped", "blocked", "cancelled", "rolled_back", "noop"];
  const counts = order.flatMap((result) => {
    const count = summary.results[result] ?? 0;
    return count > 0 ? [`${count} ${WORDS[result]}`] : [];
  });
  const optional = [...tally.roots.values()].flatMap((root) => root.failed).filter((one) => one.optional).length;
  if (optional > 0) counts.push(`${plural(optional, "optional failure")}`);
  const name = visible(summary.command.slice(0, 1).toUpperCase() + summary.command.slice(1));
  const head = {
    ok: paint.green(`${name} complete`),
    failed: paint.red(`${name} failed`),
    cancelled: paint.yellow(`${name} cancelled`),
  }[summary.result];
  return `${paint.bold(head)} after ${formatDuration(summary.duration_ms)}${counts.length > 0 ? `: ${counts.join(", ")}` : ""}.`;
}

function renderProblems(summary: RunSummary, tally: Tally, paint: Paint): string {
  const optional = [...tally.roots.values()].flatMap((root) => root.failed).filter((one) => one.optional);
  const known = new Set(summary.problems.map(keyOf));
  const lines = [
    ...summary.problems.map((problem) => renderProblem(problem, paint)),
    ...tally.errors.filter((problem) => !known.has(keyOf(problem))).map((problem) => renderProblem(problem, paint)),
    ...optional
      .filter((one) => !summary.problems.some((problem) => problem.address === one.address))
      .map((one) => renderProblem({ address: one.address, ...one.problem }, paint, "optional")),
  ];
  return lines.join("\n");
}

function keyOf(problem: Problem): string {
  return JSON.stringify([problem.code, problem.address, problem.message]);
}

/** What failed, where, why, and what to do: several lines. */
export function renderProblem(problem: Problem, paint: Paint, word = "error"): string {
  const mark = word === "error" ? paint.red("✖") : paint.yellow("⚠");
  const where =
    problem.at === undefined ? "" : ` (${visible(problem.at.file)}:${problem.at.line}:${problem.at.column})`;
  const head =
    problem.address === undefined
      ? `${mark} ${indent(problemText(problem, paint), 2).trimStart()}${where}`
      : `${mark} ${paint.bold(visible(problem.address))}${where}${word === "error" ? "" : ` (${word})`}\n${indent(problemText(problem, paint), 4)}`;
  const causes = (problem.causes ?? [])
    .filter((cause) => !problem.message.includes(cause))
    .map((cause) => `    ${paint.dim("cause:")} ${visible(cause)}`);
  const hint = problem.hint === undefined ? [] : [`    ${paint.cyan("hint:")} ${visible(problem.hint)}`];
  return [head, ...causes, ...hint].join("\n");
}

function renderSkipped(tally: Tally, paint: Paint): string {
  const lines = [...tally.skipped].map(([because, addresses]) => {
    const named = addresses.slice(0, MOST_NAMED).map(visible).join(", ");
    const more = addresses.length > MOST_NAMED ? ` and ${addresses.length - MOST_NAMED} more` : "";
    return `${paint.yellow("↷")} skipped because of ${paint.bold(visible(because))}: ${named}${more}`;
  });
  const reasons = new Map<string, string[]>();
  for (const { address, why } of tally.blocked) reasons.set(why, [...(reasons.get(why) ?? []), address]);
  for (const [why, addresses] of reasons) {
    const named = addresses.slice(0, MOST_NAMED).map(visible).join(", ");
    const more = addresses.length > MOST_NAMED ? ` and ${addresses.length - MOST_NAMED} more` : "";
    lines.push(`${paint.red("!")} left alone: ${named}${more}: ${visible(why)}`);
  }
  return lines.join("\n");
}

function renderManual(steps: readonly string[], paint: Paint): string {
  if (steps.length === 0) return "";
  const lines = steps.map((step, i) => `  ${i + 1}. ${visible(step)}`);
  return [paint.bold("Could not be cleaned up. To do by hand:"), ...lines].join("\n");
}

function renderNext(summary: RunSummary, tally: Tally, context: SummaryContext, paint: Paint): string {
  if (summary.result === "ok" && tally.blocked.length === 0) return "";
  const lines = [`${paint.dim("Logs:")} labctl logs ${context.run}`];
  if (summary.problems.some((problem) => problem.code === "E_PLAN_STALE")) {
    return [...lines, `${paint.dim("Next:")} plan again: the world is not what this plan was made from`].join("\n");
  }
  lines.push(
    summary.result === "cancelled"
      ? `${paint.dim("Next:")} ${context.again} goes on where this stopped`
      : `${paint.dim("Next:")} once the cause is mended, ${context.again} finishes it; what is done is not done twice`,
  );
  return lines.join("\n");
}
