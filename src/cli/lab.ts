import { hostname } from "node:os";
import { errorsIn, LabError, Redactor, SeveralErrors, toLabError, toProblem } from "../diagnostics/index.ts";
import type { LabSession, SpecSelection } from "../engine/port.ts";
import { createEventBus, newRunId, RunRecorder, watchCancel } from "../events/index.ts";
import type { EventBus } from "../events/port.ts";
import type { RunSummary } from "../model/index.ts";
import { type Context, whoAmI } from "./context.ts";
import { Tally } from "./renderers/tally.ts";
import { attachView, type View } from "./view.ts";

/** What a command that works on a lab gets. */
export interface Work {
  readonly session: LabSession;
  readonly bus: EventBus;
  readonly tally: Tally;
  readonly view: View;
  readonly run: string;
}

export interface LabOptions {
  readonly command: string;
  readonly selection: SpecSelection;
  /** Something may change: the run is recorded. */
  readonly record: boolean;
  /** `--json` gives NDJSON events (apply and its kin), in place of one document. */
  readonly stream: boolean;
  readonly jsonInto?: string;
  /** Show nothing of what happens: the command says it all at the end. */
  readonly quiet?: boolean;
}

/** A run's outcome, and the command's exit code. */
export type Outcome = RunSummary;

/**
 * Opens the lab, shows and records what happens, and closes it again whatever comes. `body` gives the summary; where it
 * throws, the run is recorded as failed and the error goes on to be shown by the caller, unless it was streamed.
 */
export async function withLab(
  context: Context,
  options: LabOptions,
  body: (work: Work) => Promise<Outcome>,
): Promise<number> {
  const { term, signals } = context;
  const started = performance.now();
  const redactor = new Redactor();
  const run = newRunId(term.io.now());
  const bus = createEventBus({ run, redact: (text) => redactor.redact(text), now: term.io.now });
  const tally = new Tally();
  bus.on((event) => tally.take(event));
  const recorder = options.record ? new RunRecorder(bus) : undefined;
  let finished: RunSummary | undefined;
  bus.on((event) => {
    if (event.type === "run.finished") finished = event.summary;
  });
  const view = await attachView(context, bus, tally, options);
  signals.onCancel((level) => bus.emit({ type: "cancel.requested", level }));
  const end = async (summary: RunSummary): Promise<void> => {
    if (finished === undefined) bus.emit({ type: "run.finished", summary });
    await view.stop();
    await recorder?.finish(finished ?? summary, term.io.now());
  };
  let session: LabSession | undefined;
  let stopWatching: (() => void) | undefined;
  try {
    session = await context.services.openLab(options.selection, bus, redactor);
    const who = whoAmI(term.io.env);
    const lab = session.lab.name;
    await recorder?.start(session.lab.state.path, {
      id: run,
      command: options.command,
      argv: context.argv.map((word) => redactor.redact(word)),
      who,
      host: hostname(),
      pid: process.pid,
      lab,
      started_at: term.io.now().toISOString(),
    });
    bus.emit({ type: "run.started", command: options.command, who, lab });
    if (options.record) stopWatching = heedCancel(context, bus, session.lab.state.path, run);
    const summary = await body({ session, bus, tally, view, run });
    await end(summary);
    return summary.exit_code;
  } catch (error) {
    const lab = toLabError(error);
    const problems = errorsIn(error).map(toProblem);
    if (options.stream) for (const problem of problems) bus.emit({ type: "error.raised", problem });
    await end({
      ...summaryOf(options.command, lab.exitCode, started, problems),
      result: lab.code === "E_CANCELLED" ? "cancelled" : "failed",
    });
    if (options.stream && term.options.json) return lab.exitCode;
    throw redacted(error, redactor);
  } finally {
    stopWatching?.();
    await session?.close();
  }
}

/** `labctl cancel`, from wherever the state is shared, is as good as Ctrl-C here. */
function heedCancel({ signals }: Context, bus: EventBus, stateDir: string, run: string): () => void {
  return watchCancel(stateDir, run, ({ level, who, host }) => {
    bus.emit({ type: "log.line", level: "warn", component: "cancel", message: `${who}@${host} asks this run to stop` });
    const { soft, hard } = signals.cancellation;
    if (!soft.aborted) signals.cancel();
    if (level === 2 && !hard.aborted) signals.cancel();
  });
}

export function summaryOf(
  command: string,
  exit_code: number,
  started: number,
  problems: RunSummary["problems"] = [],
): RunSummary {
  return {
    command,
    result: exit_code === 0 ? "ok" : exit_code === 130 ? "cancelled" : "failed",
    exit_code,
    duration_ms: Math.round(performance.now() - started),
    results: {},
    problems,
    manual_steps: [],
  };
}

/** The last line of defence: an error's own text may quote what a machine answered. */
function redacted(error: unknown, redactor: Redactor): unknown {
  if (error instanceof SeveralErrors) return new SeveralErrors(error.errors.map((one) => redactedOne(one, redactor)));
  return error instanceof LabError ? redactedOne(error, redactor) : error;
}

function redactedOne(error: LabError, redactor: Redactor): LabError {
  const message = redactor.redact(error.message);
  const hint = error.hint === undefined ? undefined : redactor.redact(error.hint);
  if (message === error.message && hint === error.hint) return error;
  return new LabError(error.code, message, {
    ...(hint !== undefined && { hint }),
    ...(error.address !== undefined && { address: error.address }),
    ...(error.at !== undefined && { at: error.at }),
    retryable: error.retryable,
  });
}
