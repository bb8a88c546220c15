import { formatDuration, isEffective, parseAddress, type PlannedAction, type Problem } from "../../model/index.ts";
import type { PropertyChange } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import { indent, plural, visible, visibleLine } from "./text.ts";
import { formatValue, sidesOf } from "./value.ts";
import { paintAction, problemText, resultWord, stageLine } from "./words.ts";

/** Why a run did what it did to one resource, as data: what `--json` gives. */
export interface Why {
  readonly run: string;
  readonly command: string;
  readonly at: string;
  readonly state: string;
  readonly action: Pick<PlannedAction, "address" | "action" | "reason" | "changes" | "drift" | "after_actions">;
  readonly result: string;
  readonly problem?: Problem;
  readonly because?: string;
  readonly duration_ms?: number;
  readonly attempts: number;
  readonly stages: readonly { readonly stage: string; readonly result: string; readonly duration_ms?: number }[];
  /** What labctl said of it while it was at it: which machine was chosen and why the others were not. */
  readonly notes: readonly { readonly level: string; readonly text: string }[];
  /** Of its dependencies, what this run changed too. */
  readonly changed_before: readonly string[];
}

const MOST_NOTES = 20;

export function renderWhy(why: Why, style: Style): string {
  const paint = paintFor(style);
  const { action } = why;
  const word = paintAction(action.action, action.action === "noop" ? "left alone" : action.action, paint);
  const lines = [
    `${paint.bold(visible(action.address))}  ${word}: ${visible(action.reason.text)}`,
    paint.dim(
      `  in run ${visible(why.run)} (${visible(why.command)}, ${visible(why.at.replace("T", " ").slice(0, 19))}, ${visible(why.state)})`,
    ),
    ...section(
      "What differed",
      // The key stands in the first line already.
      action.changes
        .filter((one) => one.before !== undefined || one.after !== parseAddress(action.address)?.at(-1)?.key)
        .map((one) => change(one, paint)),
      paint,
    ),
    ...section(
      "What had changed outside labctl",
      action.drift.map((one) => change(one, paint)),
      paint,
    ),
    ...section("What it needs, and this run changed before", why.changed_before.map(visible), paint),
    ...(isEffective(action.action) || why.result === "failed" ? outcome(why, paint) : []),
    ...section("What was said", notes(why, style, paint), paint),
  ];
  return lines.join("\n");
}

function section(title: string, lines: readonly string[], paint: Paint): string[] {
  return lines.length === 0 ? [] : ["", `  ${paint.bold(`${title}:`)}`, ...lines.map((line) => indent(line, 4))];
}

function change(one: PropertyChange, paint: Paint): string {
  const { before, after } = sidesOf(one);
  const effect =
    one.effect === "update" ? "" : paint.dim(`  (${one.effect === "replace" ? "forces replacement" : "restarts it"})`);
  const name = `${visible(one.path)}:`;
  if (one.before === undefined)
    return `${name} ${paint.green(one.after === undefined ? formatValue(undefined) : after)}${effect}`;
  return `${name} ${paint.red(before)} ${paint.dim("→")} ${paint.green(after)}${effect}`;
}

function outcome(why: Why, paint: Paint): string[] {
  const took = why.duration_ms === undefined || why.attempts === 0 ? "" : ` after ${formatDuration(why.duration_ms)}`;
  const tries = why.attempts > 1 ? `, ${plural(why.attempts, "attempt")}` : "";
  const blame = why.because === undefined ? "" : `, since ${visible(why.because)} failed`;
  const lines = [`${resultWord(why.action.action, why.result, paint)}${took}${tries}${blame}`];
  if (why.problem !== undefined) {
    lines.push(...problemText(why.problem, paint).split("\n"));
    if (why.problem.hint !== undefined) lines.push(`${paint.cyan("hint:")} ${visible(why.problem.hint)}`);
  }
  lines.push(...why.stages.map((one) => stageLine(one, paint)));
  return section("What came of it", lines, paint);
}

function notes({ notes: all }: Why, style: Style, paint: Paint): string[] {
  const most = style.verbose > 0 ? all.length : MOST_NOTES;
  const shown = all.slice(0, most).flatMap(({ level, text }) => {
    const lines = text.split("\n").map(visibleLine);
    return level === "error" || level === "warn" ? lines.map((line) => paint.yellow(line)) : lines;
  });
  if (all.length > most) shown.push(paint.dim(`… ${all.length - most} more: -v shows them`));
  return shown;
}
