import {
  type DefaultRenderer,
  Listr,
  ListrLogger,
  type ListrTask,
  type ListrTaskWrapper,
  ProcessOutput,
  type SimpleRenderer,
} from "listr2";
import type { EventBus } from "../events/port.ts";
import type { LabEvent } from "../model/index.ts";
import { endedCount, readingBody, readingTitle, rootBody, rootTitle } from "./renderers/live.ts";
import { paintFor, type Style } from "./renderers/paint.ts";
import type { RootTally, Tally } from "./renderers/tally.ts";
import { plural, visible } from "./renderers/text.ts";
import { problemLine } from "./renderers/words.ts";
import type { Terminal } from "./terminal.ts";
import type { View } from "./view.ts";

const TICK_MS = 100;
/** With more hosts than this, one line stands for all of them, and only what runs or failed is named. */
const MOST_TREES = 12;

type Task = ListrTaskWrapper<undefined, typeof DefaultRenderer, typeof SimpleRenderer>;

interface Line {
  readonly title: () => string;
  readonly body: () => string[];
  readonly done: () => boolean;
  readonly failed: () => boolean;
}

/** Shows a run as a tree that moves. What it says comes from renderers/live.ts; listr2 puts it on the screen. */
export function attachLive(term: Terminal, bus: EventBus, tally: Tally): View {
  let screen: Screen | undefined;
  let warned = 0;
  const style = (): Style => ({ color: term.color, width: term.width, verbose: 0 });
  const off = bus.on((event) => {
    const lines = linesFor(event, term, tally, style);
    if (lines === undefined) return;
    const before = screen;
    screen = new Screen(term, lines, before?.stop());
  });
  const pause = async (): Promise<void> => {
    const drawn = screen !== undefined;
    await screen?.stop();
    screen = undefined;
    if (drawn) term.out("\n");
    const paint = paintFor(style());
    for (const warning of tally.warnings.slice(warned)) {
      const where = warning.at === undefined ? "" : `${visible(warning.at.file)}:${warning.at.line}: `;
      term.out(`${paint.yellow("Warning:")} ${where}${problemLine(warning, paint)}`);
    }
    warned = tally.warnings.length;
  };
  return {
    pause,
    stop: async () => {
      off();
      await pause();
    },
  };
}

/** What is on the screen from this event on; undefined: as before. */
function linesFor(event: LabEvent, term: Terminal, tally: Tally, style: () => Style): Line[] | undefined {
  if (event.type === "lock.waiting") {
    const text = `Waiting for the lock, held by ${visible(event.holder)} (${visible(event.purpose)})`;
    return [
      line(
        () => text,
        () => [],
        () => tally.notice === undefined,
      ),
    ];
  }
  if (event.type !== "phase.started") return undefined;
  const rows = Math.max(3, term.rows - 6);
  switch (event.phase) {
    case "read":
      return [
        line(
          () => readingTitle(tally),
          () => withNotice(tally, readingBody(tally, style(), rows)),
          () => tally.phase !== "read",
        ),
      ];
    case "apply":
      return applyLines(tally, style, rows);
    case "rollback":
    case "cleanup": {
      const title =
        event.phase === "rollback" ? "Rolling back what this run changed" : "Cleaning up what this run made";
      return [
        line(
          () => title,
          () => allBodies(tally, style(), rows),
          () => tally.phase !== event.phase,
        ),
      ];
    }
    case "load":
    case "plan":
      return undefined;
  }
}

function applyLines(tally: Tally, style: () => Style, rows: number): Line[] {
  const roots = [...tally.roots.values()].filter((root) => root.total > 0);
  const over = (): boolean => tally.phase !== "apply";
  if (roots.length === 0) return [];
  if (roots.length > Math.min(MOST_TREES, Math.floor(rows / 2))) {
    return [
      line(
        () => {
          const done = [...tally.roots.values()].filter(ended).length;
          return `Applying to ${roots.length} hosts  ${done} done`;
        },
        () => withNotice(tally, allBodies(tally, style(), rows)),
        over,
        () => roots.some(hasFailed),
      ),
    ];
  }
  const each = Math.max(2, Math.floor(rows / roots.length) - 1);
  return roots.map((root, i) =>
    line(
      () => rootTitle(root, style()),
      () => {
        const body = rootBody(root, Date.now(), style(), each);
        return i === roots.length - 1 ? withNotice(tally, body) : body;
      },
      () => over() || ended(root),
      () => hasFailed(root),
    ),
  );
}

/** Hosts on which something runs or failed, as many as fit as wholes. */
function allBodies(tally: Tally, style: Style, rows: number): string[] {
  const busy = [...tally.roots.values()].filter((root) => root.running.size > 0 || root.failed.length > 0);
  const lines: string[] = [];
  for (const [i, root] of busy.entries()) {
    const block = [rootTitle(root, style), ...rootBody(root, Date.now(), style, 3)];
    if (lines.length + block.length >= rows && i > 0) {
      return [...lines, paintFor(style).dim(`… and ${plural(busy.length - i, "more host")}`)];
    }
    lines.push(...block);
  }
  return lines;
}

function withNotice(tally: Tally, body: string[]): string[] {
  return tally.notice === undefined ? body : [...body, tally.notice];
}

function ended(root: RootTally): boolean {
  return root.running.size === 0 && endedCount(root) >= root.total;
}

function hasFailed(root: RootTally): boolean {
  return root.failed.some((one) => !one.optional);
}

function line(
  title: () => string,
  body: () => string[],
  done: () => boolean,
  failed: () => boolean = () => false,
): Line {
  return { title, body, done, failed };
}

/** One listr2 list on the screen, from its first drawing to its last. */
class Screen {
  readonly #stops: (() => void)[] = [];
  readonly #timer: NodeJS.Timeout;
  readonly #running: Promise<unknown>;
  readonly #ticks: (() => void)[] = [];
  /** Set before listr2 has started some of the lines, perhaps: those are then drawn once and are over. */
  #stopped = false;

  constructor(term: Terminal, lines: readonly Line[], after: Promise<void> | undefined) {
    const tasks = lines.map(
      (one): ListrTask<undefined> => ({
        title: one.title(),
        task: (_, task) => this.#follow(one, task),
        rendererOptions: { outputBar: 1, persistentOutput: true },
      }),
    );
    this.#running = (after ?? Promise.resolve()).then(async () => {
      const out = term.io.stdout;
      const list = new Listr<undefined>(tasks, {
        concurrent: true,
        exitOnError: false,
        registerSignalListeners: false,
        forceTTY: true,
        ctx: undefined,
        rendererOptions: {
          collapseErrors: true,
          formatOutput: "truncate",
          logger: new ListrLogger({
            processOutput: new ProcessOutput(asTty(out), asTty(term.io.stderr)),
          }),
        },
      });
      await list.run();
    });
    this.#timer = setInterval(() => {
      for (const tick of this.#ticks) tick();
    }, TICK_MS);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const stop of this.#stops) stop();
    clearInterval(this.#timer);
    await this.#running;
  }

  #follow(one: Line, task: Task): Promise<void> {
    return new Promise((resolve, reject) => {
      let last = "";
      let over = false;
      const draw = (): void => {
        const title = one.title();
        if (task.title !== title) task.title = title;
        const body = one.body().join("\n");
        if (body !== last) task.output = body;
        last = body;
      };
      const finish = (): void => {
        if (over) return;
        over = true;
        draw();
        if (one.failed()) reject(new Error(one.title()));
        else resolve();
      };
      this.#stops.push(finish);
      this.#ticks.push(() => {
        if (over) return;
        if (one.done()) finish();
        else draw();
      });
      draw();
      if (this.#stopped) finish();
    });
  }
}

/** Listr2 asks for the type of process.stdout and uses write() and columns of it. */
function asTty(stream: NodeJS.WritableStream): NodeJS.WriteStream {
  return stream as NodeJS.WriteStream;
}
