import type { LabEvent, LogLevel } from "../../model/index.ts";

/** One event as NDJSON. */
export function renderNdjson(event: LabEvent): string {
  return `${JSON.stringify(event)}\n`;
}

/** One event as a structured log line, `--log-format json`: timestamp, level, component, run, address, message, metadata. */
export function renderLogJson(event: LabEvent, verbose: number): string {
  const { type, run, seq, at, ...rest } = event;
  const level = levelOf(event);
  if (level === "debug" && verbose < 2) return "";
  const address = "address" in rest ? rest.address : "host" in rest ? rest.host : undefined;
  return `${JSON.stringify({
    timestamp: at,
    level,
    component: event.type === "log.line" ? event.component : type.slice(0, type.indexOf(".")),
    run,
    ...(address !== undefined && { address }),
    message: messageOf(event),
    metadata: { event: type, seq, ...metadataOf(event) },
  })}\n`;
}

function levelOf(event: LabEvent): LogLevel {
  switch (event.type) {
    case "log.line":
      return event.level;
    case "error.raised":
    case "host.offline":
      return "error";
    case "warning.raised":
    case "action.retrying":
    case "host.retrying":
    case "cancel.requested":
      return "warn";
    case "action.finished":
      return event.result === "failed" || event.result === "blocked"
        ? event.optional === true
          ? "warn"
          : "error"
        : "info";
    case "action.queued":
    case "action.progress":
      return "debug";
    default:
      return "info";
  }
}

function messageOf(event: LabEvent): string {
  if (event.type === "log.line") return event.message;
  if ("problem" in event && event.problem !== undefined) return event.problem.message;
  if (event.type === "action.finished") return `${event.action}: ${event.result}`;
  if (event.type === "action.started") return `${event.action}: started`;
  if (event.type === "host.retrying") return event.why;
  if (event.type === "phase.started" || event.type === "phase.finished") {
    return `${event.phase}: ${event.type === "phase.started" ? "started" : "finished"}`;
  }
  if (event.type === "stage.started") return `${event.stage}: started`;
  if (event.type === "stage.finished") return `${event.stage}: ${event.result}`;
  if (event.type === "run.finished") return `${event.summary.command}: ${event.summary.result}`;
  return event.type;
}

function metadataOf(event: LabEvent): Record<string, unknown> {
  switch (event.type) {
    case "plan.made":
      return { plan: event.plan.id, actions: event.plan.actions.length };
    case "log.line":
      return { ...event.meta, ...(event.stream !== undefined && { stream: event.stream }) };
    default: {
      const { type: _type, run: _run, seq: _seq, at: _at, ...rest } = event;
      return rest;
    }
  }
}
