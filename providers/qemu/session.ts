import type { Socket } from "node:net";
import { type ConsoleEvent, LabError, watchConsole } from "../../src/index.ts";
import type { BootReport, BootRequest, BootStreams, BootVerdict } from "./boot-types.ts";
import { type GuestMessage, parseMessage } from "./guest-init.ts";
import type { Guest } from "./runner.ts";
import { qemuFailed } from "./runner.ts";

/** How a machine under watch ended, and what it said of itself. */
export interface Outcome {
  readonly result: Pick<
    BootReport,
    | "verdict"
    | "exit_code"
    | "started"
    | "stage"
    | "boot_ms"
    | "duration_ms"
    | "cause"
    | "events"
    | "tail"
    | "root"
    | "qemu"
  >;
  readonly release: string | undefined;
  readonly version: string | undefined;
  readonly buildId: string | undefined;
  readonly shares: ReadonlyMap<string, string>;
  readonly notes: readonly string[];
}

/** The guest beats every two seconds; emulated on a busy machine, now and then later. */
const SHORTEST_SILENCE = 10_000;
const MOST_EVENTS = 100;
const MOST_LINE = 64 * 1024;
/** After a fatal line, the rest of the report is on its way. */
const GRACE_MS = 400;
const LAST_WORDS_MS = 3000;

interface Ending {
  readonly verdict: BootVerdict;
  readonly cause?: ConsoleEvent;
  readonly exit?: number;
}

/**
 * Runs a guest until its command has ended or it is clear that it never will, and stops it.
 * @throws LabError E_QEMU, E_QEMU_MISSING, E_CANCELLED
 */
export async function watchBoot(
  request: BootRequest,
  streams: BootStreams,
  start: (onConsole: (chunk: Buffer) => void) => Promise<Guest>,
): Promise<Outcome> {
  const watch = new Watch(request, streams);
  const guest = await start((chunk) => watch.console(chunk));
  try {
    await watch.run(guest);
  } finally {
    await guest.stop();
    watch.close();
  }
  if (streams.signal.aborted) throw new LabError("E_CANCELLED", "cancelled");
  return watch.outcome(guest);
}

class Watch {
  readonly #request: BootRequest;
  readonly #streams: BootStreams;
  readonly #watched: ReturnType<typeof watchConsole>;
  readonly #events: ConsoleEvent[] = [];
  readonly #shares = new Map<string, string>();
  readonly #notes: string[] = [];
  readonly #copies: Promise<void>[] = [];
  readonly #began = performance.now();
  #root = "own";
  #release: string | undefined;
  #startedAt: number | undefined;
  #sign = performance.now();
  #ending: Ending | undefined;
  #fatal: ConsoleEvent | undefined;
  #decide: (ending: Ending) => void = () => undefined;
  readonly #decided: Promise<Ending>;
  #stdinTo: Socket | undefined;
  #guest: Guest | undefined;
  /** The guest's terminal is its console: what comes from there is the command's too. */
  #onConsole = false;

  constructor(request: BootRequest, streams: BootStreams) {
    this.#request = request;
    this.#streams = streams;
    this.#decided = new Promise((resolve) => {
      this.#decide = resolve;
    });
    this.#watched = watchConsole({ silence: request.silence }, (event) => this.#event(event));
  }

  console(chunk: Buffer): void {
    this.#sign = performance.now();
    this.#streams.console?.(chunk);
    if (this.#onConsole && this.#startedAt !== undefined) void this.#streams.stdout(chunk);
    this.#watched.write(chunk);
  }

  close(): void {
    this.#watched.close();
  }

  async run(guest: Guest): Promise<void> {
    const { signal } = this.#streams;
    this.#guest = guest;
    const terminal = this.#request.terminal !== undefined;
    this.#lines(guest.port("labctl.control"));
    this.#lines(guest.port("serial.control"));
    const outputs = terminal ? ["labctl.tty", "serial.output"] : ["labctl.output", "serial.output"];
    for (const name of outputs) this.#copy(guest.port(name), this.#streams.stdout);
    const errors = terminal ? ["serial.errors"] : ["labctl.errors", "serial.errors"];
    for (const name of errors) this.#copy(guest.port(name), this.#streams.stderr);
    this.#stdinTo = terminal ? guest.port("labctl.tty") : guest.port("labctl.input");
    const reasons: string[] = [];
    guest.qmp.onEvent(({ event, data }) => {
      if (event === "SHUTDOWN" && typeof data["reason"] === "string") reasons.push(data["reason"]);
    });
    const abort = (): void => this.#decide({ verdict: "lost" });
    signal.addEventListener("abort", abort, { once: true });
    const timer = setInterval(() => this.#tick(), 100);
    void guest.ended.then(() => this.#gone());
    try {
      if (signal.aborted) return;
      await guest.start();
      if (!terminal) this.#connectInput();
      this.#ending = await this.#decided;
      if (this.#ending.exit !== undefined) await this.#finish(guest);
      else await guest.stop();
      // QEMU itself broke: no verdict about the kernel.
      const ended = await guest.stop();
      if (this.#ending.verdict === "lost" && reasons.length === 0 && !signal.aborted && this.#fatal === undefined) {
        if (ended.code !== 0 && ended.stderr !== "") throw qemuFailed(ended);
      }
      await Promise.race([Promise.allSettled(this.#copies), delay(LAST_WORDS_MS)]);
      if (reasons[0] !== undefined && this.#ending.verdict === "lost") {
        this.#notes.push(`QEMU ended because of ${reasons[0]}`);
      }
    } finally {
      clearInterval(timer);
      signal.removeEventListener("abort", abort);
      this.#disconnectInput();
    }
  }

  outcome(guest: Guest): Outcome {
    const { status } = this.#watched.watcher;
    // The report behind a fatal line may have been completed only when the console was closed.
    const worst = this.#fatal ?? this.#events.find((event) => event.severity === "fatal");
    const ending = this.#ending ?? { verdict: "lost" as const };
    const verdict = ending.verdict === "lost" && worst !== undefined ? "crashed" : ending.verdict;
    const cause = ending.cause ?? (verdict === "crashed" ? worst : undefined);
    return {
      result: {
        verdict,
        ...(ending.exit !== undefined && { exit_code: ending.exit }),
        started: this.#startedAt !== undefined,
        stage: this.#startedAt === undefined ? status.stage : "command",
        ...(this.#startedAt !== undefined && { boot_ms: Math.round(this.#startedAt - this.#began) }),
        duration_ms: Math.round(performance.now() - this.#began),
        ...(cause !== undefined && { cause }),
        events: this.#events.filter((event) => event.severity !== "info"),
        tail: this.#watched.watcher.tail(),
        root: this.#root,
        qemu: guest.command,
      },
      release: this.#release ?? status.release,
      version: status.version,
      buildId: status.buildId,
      shares: this.#shares,
      notes: this.#notes,
    };
  }

  #event(event: ConsoleEvent): void {
    if (this.#events.length < MOST_EVENTS || event.severity === "fatal") this.#events.push(event);
    this.#streams.event?.(event);
    if (event.severity === "fatal") {
      this.#fatal ??= event;
      setTimeout(() => this.#decide({ verdict: "crashed", cause: this.#fatal ?? event }), GRACE_MS).unref();
    } else if (this.#startedAt !== undefined) return;
    else if (event.kind === "oops") this.#decide({ verdict: "crashed", cause: event });
    else if (event.kind === "silence") this.#decide({ verdict: "hung", cause: event });
  }

  #tick(): void {
    const now = performance.now();
    if (this.#startedAt === undefined) {
      if (now - this.#began > this.#request.timeout) this.#decide({ verdict: "late" });
      return;
    }
    if (now - this.#sign > Math.max(SHORTEST_SILENCE, this.#request.silence)) this.#decide({ verdict: "hung" });
    const { commandTimeout } = this.#request;
    if (commandTimeout !== undefined && now - this.#startedAt > commandTimeout) this.#decide({ verdict: "timeout" });
  }

  #gone(): void {
    // What it printed last has been handed over by now, and what is open of a report is complete.
    this.#watched.close();
    this.#decide(this.#fatal === undefined ? { verdict: "lost" } : { verdict: "crashed", cause: this.#fatal });
  }

  #lines(socket: Socket | undefined): void {
    let rest = "";
    socket?.setEncoding("utf8").on("data", (text: string) => {
      this.#sign = performance.now();
      rest += text;
      for (;;) {
        const end = rest.indexOf("\n");
        if (end < 0) break;
        const message = parseMessage(rest.slice(0, end));
        if (message !== undefined) this.#message(message);
        rest = rest.slice(end + 1);
      }
      if (rest.length > MOST_LINE) rest = "";
    });
  }

  #message(message: GuestMessage): void {
    switch (message.type) {
      case "ready":
        this.#onConsole = message.streams === "console" && this.#request.terminal !== undefined;
        if (this.#request.terminal !== undefined && message.streams !== "port")
          this.#stdinTo = this.#guest?.port(message.streams === "serial" ? "serial.output" : "console");
        if (message.streams === "console") {
          this.#notes.push("the guest has no stream but its console: output comes mixed with the kernel's own");
        } else if (message.streams === "serial") {
          this.#notes.push("the guest has no virtio console: serial lines carry the output, and no input");
        }
        return;
      case "root":
        this.#root = message.how;
        return;
      case "share":
        this.#shares.set(message.tag, message.how);
        if (message.how === "none") {
          this.#notes.push(
            "a folder is not in the guest: its kernel could not mount it, or the root has no such place and cannot be written to",
          );
        }
        return;
      case "release":
        this.#release = message.release;
        return;
      case "start":
        if (this.#startedAt !== undefined) return;
        this.#startedAt = performance.now();
        this.#streams.started?.();
        if (this.#request.terminal !== undefined) this.#connectInput();
        return;
      case "beat":
        return;
      case "exit":
        this.#decide({ verdict: "exited", exit: message.code });
        return;
    }
  }

  #copy(socket: Socket | undefined, to: (chunk: Buffer) => Promise<void> | void): void {
    if (socket === undefined) return;
    const copy = async (): Promise<void> => {
      for await (const chunk of socket) {
        this.#sign = performance.now();
        await to(chunk as Buffer);
      }
    };
    // A socket that is destroyed at the end is not an error of the copy.
    this.#copies.push(copy().catch(() => undefined));
  }

  #connectInput(): void {
    const { stdin } = this.#streams;
    // The guest says nothing there, but that it is gone.
    if (this.#request.terminal === undefined) this.#stdinTo?.resume();
    if (stdin === undefined) {
      if (this.#request.terminal === undefined) this.#stdinTo?.end();
      return;
    }
    if (this.#stdinTo !== undefined) stdin.pipe(this.#stdinTo, { end: this.#request.terminal === undefined });
  }

  #disconnectInput(): void {
    if (this.#stdinTo !== undefined) this.#streams.stdin?.unpipe(this.#stdinTo);
    this.#streams.stdin?.pause();
  }

  /** The command's output is in our sockets before its exit is told; QEMU is not needed any more. */
  async #finish(guest: Guest): Promise<void> {
    await guest.qmp.quit().catch(() => undefined);
    await Promise.race([guest.ended, delay(LAST_WORDS_MS)]);
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
