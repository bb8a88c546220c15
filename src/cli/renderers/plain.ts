import { formatDuration, type LabEvent } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import { visible } from "./text.ts";
import { ACTIONS, paintAction, problemLine } from "./words.ts";

/** Progress of one action is said at most this often. */
const PROGRESS_EVERY_MS = 10_000;

/**
 * One line for what happens, as pipes, files and CI get it. A function of the events alone: "how long ago" is told by
 * their own times. `now and then` lines (progress) are held back between.
 */
export function createPlainRenderer(style: Style): (event: LabEvent) => string[] {
  const paint = paintFor(style);
  const lastProgress = new Map<string, number>();
  return (event) => {
    if (event.type === "action.started") lastProgress.set(event.address, Date.parse(event.at));
    if (event.type === "action.finished") lastProgress.delete(event.address);
    if (event.type === "action.progress") {
      const at = Date.parse(event.at);
      const last = lastProgress.get(event.address);
      if (style.verbose === 0 && last !== undefined && at - last < PROGRESS_EVERY_MS) return [];
      lastProgress.set(event.address, at);
    }
    return plainLines(event, style, paint);
  };
}

function plainLines(event: LabEvent, style: Style, paint: Paint): string[] {
  const verbose = style.verbose;
  switch (event.type) {
    case "run.started":
      return verbose > 0 ? [paint.dim(`run ${event.run}: ${visible(event.command)} by ${visible(event.who)}`)] : [];
    case "phase.started":
      return verbose > 0 || event.phase === "rollback" || event.phase === "cleanup" ? [phaseText(event.phase)] : [];
    case "phase.finished":
      return verbose > 0 ? [paint.dim(`${event.phase} took ${formatDuration(event.duration_ms)}`)] : [];
    case "lock.waiting":
      return [
        `Waiting for the lock, held by ${visible(event.holder)} since ${visible(event.since)} (${visible(event.purpose)})`,
      ];
    case "lock.acquired":
      return event.takeover ? [paint.yellow("Took over the lock of a run that had died")] : [];
    case "host.connecting":
      return verbose > 0 ? [paint.dim(`${visible(event.host)}: connecting`)] : [];
    case "host.connected":
      return verbose > 0
        ? [paint.dim(`${visible(event.host)}: connected in ${formatDuration(event.duration_ms)}`)]
        : [];
    case "host.retrying":
      return [
        paint.yellow(
          `${visible(event.host)}: ${visible(event.why)}; trying again in ${formatDuration(event.delay_ms)} (retry ${event.attempt})`,
        ),
      ];
    case "host.offline":
      return [`${paint.red(`${visible(event.host)}: offline:`)} ${problemLine(event.problem, paint)}`];
    case "action.queued":
      return verbose > 1 ? [paint.dim(`${visible(event.address)}: waits for ${visible(event.waits_for)}`)] : [];
    case "action.started":
      return [`${paint.bold(visible(event.address))}: ${ACTIONS[event.action].doing}`];
    case "action.progress": {
      const parts = [
        ...(event.fraction === undefined ? [] : [`${Math.floor(event.fraction * 100)}%`]),
        ...(event.text === undefined ? [] : [visible(event.text)]),
      ];
      return parts.length === 0 ? [] : [paint.dim(`${visible(event.address)}: ${parts.join(" ")}`)];
    }
    case "stage.started":
      return [`${visible(event.address)}: ${visible(event.stage)}`];
    case "stage.finished":
      if (event.result === "completed" && verbose === 0) return [];
      return [
        `${visible(event.address)}: ${visible(event.stage)} ${event.result} after ${formatDuration(event.duration_ms)}`,
      ];
    case "action.retrying":
      return [
        paint.yellow(
          `${visible(event.address)}: ${visible(event.problem.message)} [${event.problem.code}]; trying again in ${formatDuration(event.delay_ms)} (retry ${event.attempt})`,
        ),
      ];
    case "action.finished":
      return finishedLines(event, paint, verbose);
    case "log.line":
      return logLines(event, paint, verbose);
    case "warning.raised":
      return [`${paint.yellow("Warning:")} ${located(event.problem)}${problemLine(event.problem, paint)}`];
    case "cancel.requested":
      return [
        paint.yellow(
          event.level === 1
            ? "Cancelling: nothing new is started. Ctrl-C again aborts what runs."
            : "Aborting: calls are being cut off.",
        ),
      ];
    case "plan.made":
    case "run.finished":
    case "error.raised":
      // Shown by renderers of their own: the plan's, and the summary's at the end.
      return [];
  }
}

function phaseText(phase: string): string {
  switch (phase) {
    case "load":
      return "Loading the spec";
    case "read":
      return "Reading what is there";
    case "plan":
      return "Planning";
    case "rollback":
      return "Rolling back what this run changed";
    case "cleanup":
      return "Cleaning up what this run made";
    default:
      return "Applying";
  }
}

function finishedLines(event: Extract<LabEvent, { type: "action.finished" }>, paint: Paint, verbose: number): string[] {
  const name = paint.bold(visible(event.address));
  const took = formatDuration(event.duration_ms);
  switch (event.result) {
    case "ok":
      return [
        `${name}: ${paintAction(event.action === "noop" ? "adopt" : event.action, ACTIONS[event.action].done, paint)} in ${took}`,
      ];
    case "failed": {
      const word =
        event.optional === true ? paint.yellow(`failed after ${took} (optional)`) : paint.red(`failed after ${took}`);
      return [
        `${name}: ${word}: ${event.problem === undefined ? "no reason given" : problemLine(event.problem, paint)}`,
      ];
    }
    case "skipped":
      return [
        `${name}: ${paint.yellow("skipped")}${event.because === undefined ? "" : `, because ${visible(event.because)} failed`}`,
      ];
    case "blocked":
      return [
        `${name}: ${paint.red("left alone")}${event.problem === undefined ? "" : `: ${problemLine(event.problem, paint)}`}`,
      ];
    case "cancelled":
      return [`${name}: ${paint.yellow("cancelled")}`];
    case "rolled_back":
      return [`${name}: ${paint.yellow("rolled back")} in ${took}`];
    case "noop":
      return verbose > 0 ? [paint.dim(`${visible(event.address)}: nothing to do`)] : [];
  }
}

function logLines(event: Extract<LabEvent, { type: "log.line" }>, paint: Paint, verbose: number): string[] {
  const wanted = event.level === "debug" ? 2 : event.level === "info" || event.stream !== undefined ? 1 : 0;
  if (verbose < wanted) return [];
  const where = event.address === undefined ? event.component : event.address;
  const bar = event.stream === "stderr" ? "!" : event.stream === "stdout" ? "|" : ":";
  return event.message
    .replace(/\n$/, "")
    .split("\n")
    .map((line) => {
      const text = `${visible(where)}${bar} ${visible(line)}`;
      if (event.level === "error") return paint.red(text);
      return event.level === "warn" ? paint.yellow(text) : paint.dim(text);
    });
}

function located(problem: {
  readonly address?: string;
  readonly at?: { file: string; line: number; column: number };
}): string {
  if (problem.address !== undefined) return `${visible(problem.address)}: `;
  return problem.at === undefined ? "" : `${visible(problem.at.file)}:${problem.at.line}:${problem.at.column}: `;
}
