import type { ResourceOutcome } from "../../events/index.ts";
import { type Address, formatDuration, type LabEvent, type PlannedAction, type RunRecord } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import { createPlainRenderer } from "./plain.ts";
import { renderTable } from "./table.ts";
import { indent, plural, visible, visibleLine } from "./text.ts";
import { problemText, resultWord, stageLine } from "./words.ts";

export interface RunLine {
  readonly run: RunRecord;
  readonly state: "running" | "interrupted" | "ok" | "failed" | "cancelled";
}

/** Recorded runs, newest first. */
export function renderRuns(runs: readonly RunLine[], style: Style): string {
  const paint = paintFor(style);
  return renderTable(
    runs,
    [
      { title: "run", cell: ({ run }) => visible(run.id) },
      { title: "started", cell: ({ run }) => visible(run.started_at.replace("T", " ").slice(0, 19)) },
      { title: "command", cell: ({ run }) => visible(run.command) },
      { title: "result", cell: ({ state }) => paintState(state, paint) },
      {
        title: "took",
        cell: ({ run }) => (run.summary === undefined ? "" : formatDuration(run.summary.duration_ms)),
        align: "right",
      },
      { title: "what", cell: ({ run }) => counts(run), flexible: true },
      { title: "who", cell: ({ run }) => visible(`${run.who}@${run.host}`), flexible: true },
    ],
    style,
  );
}

export function paintState(state: RunLine["state"], paint: Paint): string {
  switch (state) {
    case "ok":
      return paint.green(state);
    case "failed":
      return paint.red(state);
    case "running":
      return paint.cyan(state);
    case "cancelled":
    case "interrupted":
      return paint.yellow(state);
  }
}

/** How a run ended, on one line: `20261123T… apply: cancelled after 3.2 s (1 done, 2 cancelled)`. */
export function renderEnding({ run, state }: RunLine, paint: Paint): string {
  const took = run.summary === undefined ? "" : ` after ${formatDuration(run.summary.duration_ms)}`;
  const what = counts(run);
  return `${visible(run.id)} ${visible(run.command)}: ${paintState(state, paint)}${took}${what === "" ? "" : ` (${what})`}`;
}

/** Who ran what, when, and how it ended. */
export function renderRun(line: RunLine, style: Style): string {
  const paint = paintFor(style);
  const { run } = line;
  return [
    renderEnding(line, paint),
    paint.dim(`  ${visible(`${run.who}@${run.host}`)}, ${visible(run.started_at.replace("T", " ").slice(0, 19))} UTC:`),
    `  labctl ${visibleLine(run.argv.join(" "))}`,
  ].join("\n");
}

/** What came of each action of a plan, with its stages; empty where there was nothing to do. */
export function renderOutcome(
  actions: readonly PlannedAction[],
  resources: ReadonlyMap<Address, ResourceOutcome>,
  style: Style,
): string {
  const paint = paintFor(style);
  const lines = actions.flatMap(({ address, action }) => {
    const one = resources.get(address);
    if (one === undefined || one.result === "noop") return [];
    const took = one.duration_ms === undefined || one.attempts === 0 ? "" : ` after ${formatDuration(one.duration_ms)}`;
    const tries = one.attempts > 1 ? `, ${plural(one.attempts, "attempt")}` : "";
    const blame = one.because === undefined ? "" : ` because of ${visible(one.because)}`;
    return [
      `  ${visible(address)}: ${resultWord(action, one.result, paint)}${took}${tries}${blame}`,
      ...(one.problem === undefined ? [] : [indent(problemText(one.problem, paint), 4)]),
      ...one.stages.map((stage) => indent(stageLine(stage, paint), 4)),
    ];
  });
  return lines.length === 0 ? "" : [`${paint.bold("What came of it:")}`, ...lines].join("\n");
}

function counts(run: RunRecord): string {
  return Object.entries(run.summary?.results ?? {})
    .filter(([, count]) => count > 0)
    .map(([result, count]) => `${count} ${result === "ok" ? "done" : result.replace("_", " ")}`)
    .join(", ");
}

/** A run's events as a log for people: the time of day before each line; everything that the run said. */
export function createLogRenderer(style: Style): (event: LabEvent) => string[] {
  const paint = paintFor(style);
  const plain = createPlainRenderer({ ...style, verbose: 2 });
  return (event) => {
    const time = paint.dim(visible(event.at.slice(11, 23)));
    const lines =
      event.type === "error.raised"
        ? [paint.red(`error: ${visible(event.problem.message)} [${event.problem.code}]`)]
        : plain(event);
    return lines.map((line) => `${time} ${line}`);
  };
}

/** One event on one line: number, time, type, and what it is about. */
export function renderEventLine(event: LabEvent, style: Style): string {
  const paint = paintFor(style);
  const { type, seq, at, run: _run, ...rest } = event;
  const about = Object.entries(rest)
    .filter(([key]) => key !== "plan" && key !== "summary")
    .map(([key, value]) => `${key}=${visible(typeof value === "string" ? value : JSON.stringify(value))}`)
    .join(" ");
  return `${paint.dim(`${String(seq).padStart(5)} ${visible(at)}`)} ${paint.cyan(visible(type))} ${about}`.trimEnd();
}
