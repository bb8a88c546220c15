import { appendFileSync, writeFileSync } from "node:fs";
import { LabError } from "../diagnostics/index.ts";
import type { EventBus } from "../events/port.ts";
import type { Context } from "./context.ts";
import type { Style } from "./renderers/paint.ts";
import { createPlainRenderer } from "./renderers/plain.ts";
import { renderLogJson, renderNdjson } from "./renderers/structured.ts";
import type { Tally } from "./renderers/tally.ts";

/** What shows a run while it goes on. */
export interface View {
  /** Takes down what moves on the screen, so that text can be printed or a question asked; the next event brings it back. */
  pause(): Promise<void>;
  stop(): Promise<void>;
}

export interface ViewOptions {
  readonly stream: boolean;
  readonly jsonInto?: string;
  readonly quiet?: boolean;
}

/** Lets the terminal follow a run: NDJSON, structured logs, a live tree, or plain lines. */
export async function attachView(context: Context, bus: EventBus, tally: Tally, options: ViewOptions): Promise<View> {
  const { term } = context;
  const stops: (() => void)[] = [];
  if (options.jsonInto !== undefined) stops.push(into(options.jsonInto, bus));
  let live: View | undefined;
  if (term.options.logFormat === "json") {
    stops.push(
      bus.on((event) => {
        const line = renderLogJson(event, term.options.verbose);
        if (line !== "") term.err(line);
      }),
    );
  }
  if (term.options.json) {
    if (options.stream) stops.push(bus.on((event) => term.out(renderNdjson(event))));
  } else if (term.options.logFormat === "text" && options.quiet !== true) {
    if (term.live) {
      const { attachLive } = await import("./live.ts");
      live = attachLive(term, bus, tally);
    } else stops.push(attachPlain(context, bus, options.stream));
  }
  return {
    pause: async () => live?.pause(),
    stop: async () => {
      for (const stop of stops) stop();
      await live?.stop();
    },
  };
}

/** Lines for what happens: on stdout where they are the command's output, else on stderr. */
function attachPlain(context: Context, bus: EventBus, stream: boolean): () => void {
  const { term } = context;
  const style: Style = {
    color: stream ? term.color : term.errColor,
    verbose: term.options.verbose,
  };
  const render = createPlainRenderer(style);
  return bus.on((event) => {
    for (const line of render(event)) {
      if (stream) term.out(line);
      else term.err(line);
    }
  });
}

/** `--json-into FILE`: each event is in the file when the call returns. @throws LabError E_USAGE */
function into(path: string, bus: EventBus): () => void {
  try {
    writeFileSync(path, "", { mode: 0o600 });
  } catch (cause) {
    throw new LabError("E_USAGE", `--json-into cannot write ${path}: ${cause instanceof Error ? cause.message : ""}`, {
      cause,
      hint: "name a file in a folder that exists and can be written",
    });
  }
  let warned = false;
  return bus.on((event) => {
    try {
      appendFileSync(path, renderNdjson(event));
    } catch (error) {
      if (warned) return;
      warned = true;
      bus.emit({
        type: "warning.raised",
        problem: {
          code: "E_DISK_FULL",
          message: `${path} cannot be written any more: ${error instanceof Error ? error.message : String(error)}`,
          hint: "the run goes on, and is recorded under the state's runs/",
        },
      });
    }
  });
}
