import { once } from "node:events";
import { closeSync, openSync, writeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LabError, QmpClient } from "../../src/index.ts";
import { type GuestPort, type GuestSpec, programOf, qemuCommand } from "./machine.ts";
import { type Ended, hasProgram, supervise, type Supervised } from "./process.ts";
import { packageHint } from "./packages.ts";

export interface GuestOptions {
  /** Sockets are the runner's own. */
  readonly spec: Omit<GuestSpec, "qmp" | "console" | "ports">;
  readonly ports: readonly Omit<GuestPort, "socket">[];
  /** A file in which the console is recorded from the first byte; what is in it is replaced. */
  readonly consoleLog?: string;
  readonly onConsole: (chunk: Buffer) => void;
  readonly signal?: AbortSignal;
}

export interface Guest {
  readonly pid: number;
  readonly command: readonly string[];
  readonly qmp: QmpClient;
  /** QEMU is gone, and what it had printed has been handed over. */
  readonly ended: Promise<Ended>;
  /** The stream to a port, from the guest's first instruction on; undefined where it was not asked for. */
  port(name: string): Socket | undefined;
  /** Lets it run: until now not one instruction was executed. */
  start(): Promise<void>;
  /** Ends it now; resolves when nothing is left of it. Again does nothing. */
  stop(): Promise<Ended>;
}

const CONNECT_MS = 15_000;
const DRAIN_MS = 3000;

/**
 * Starts QEMU with its console, monitor and ports connected, standing still before the first instruction. It runs in a
 * process group of its own and ends with labctl, however that ends.
 * @throws LabError E_QEMU_MISSING, E_QEMU, E_CANCELLED
 */
export async function startGuest(options: GuestOptions): Promise<Guest> {
  const program = programOf(options.spec.arch);
  if (!hasProgram(program)) {
    throw new LabError("E_QEMU_MISSING", `${program} is not installed`, { hint: packageHint(program) });
  }
  const folder = await mkdtemp(join(tmpdir(), "labctl-qemu-"));
  const plugs = new Map<string, Plug>();
  let running: Supervised | undefined;
  let log: number | undefined;
  const cleanUp = async (): Promise<void> => {
    for (const plug of plugs.values()) plug.close();
    if (log !== undefined) closeSync(log);
    log = undefined;
    await rm(folder, { recursive: true, force: true });
  };
  try {
    log = options.consoleLog === undefined ? undefined : openLog(options.consoleLog);
    for (const [index, name] of ["qmp", "console", ...options.ports.map((port) => port.name)].entries()) {
      plugs.set(name, await Plug.listen(join(folder, `${index}.sock`)));
    }
    const pathOf = (name: string): string => plugs.get(name)?.path ?? "";
    const { args } = qemuCommand({
      ...options.spec,
      qmp: pathOf("qmp"),
      console: pathOf("console"),
      ports: options.ports.map((port) => ({ ...port, socket: pathOf(port.name) })),
    });
    // Stopped until everything listens.
    running = supervise(program, [...args, "-S"]);
    const sockets = await connected(plugs, running, options.signal);
    const console = sockets.get("console");
    console?.on("data", (chunk: Buffer) => {
      // At once, so that all that was seen is there whatever becomes of labctl.
      if (log !== undefined) writeSync(log, chunk);
      options.onConsole(chunk);
    });
    const monitor = sockets.get("qmp");
    if (monitor === undefined) throw new LabError("E_QEMU", "QEMU has no monitor");
    const qmp = await QmpClient.connect(monitor, options.signal);
    return new RunningGuest([program, ...args], running, sockets, qmp, cleanUp);
  } catch (error) {
    const ended = await running?.stop();
    await cleanUp();
    // Its own words say more than that it hung up.
    const own = error instanceof LabError && error.code === "E_QEMU" && ended !== undefined && ended.stderr !== "";
    throw own ? qemuFailed(ended) : error;
  }
}

/** @throws LabError E_SOURCE_FILE */
function openLog(path: string): number {
  try {
    return openSync(path, "w");
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LabError("E_SOURCE_FILE", `the console cannot be recorded in ${path}: ${why}`, { cause });
  }
}

class RunningGuest implements Guest {
  readonly command: readonly string[];
  readonly qmp: QmpClient;
  readonly ended: Promise<Ended>;
  readonly #running: Supervised;
  readonly #sockets: ReadonlyMap<string, Socket>;

  constructor(
    command: readonly string[],
    running: Supervised,
    sockets: ReadonlyMap<string, Socket>,
    qmp: QmpClient,
    cleanUp: () => Promise<void>,
  ) {
    this.command = command;
    this.#running = running;
    this.#sockets = sockets;
    this.qmp = qmp;
    this.ended = this.#end(cleanUp);
  }

  get pid(): number {
    return this.#running.pid;
  }

  port(name: string): Socket | undefined {
    return this.#sockets.get(name);
  }

  start(): Promise<void> {
    return this.qmp.cont();
  }

  stop(): Promise<Ended> {
    return this.#running.stop().then(() => this.ended);
  }

  async #end(cleanUp: () => Promise<void>): Promise<Ended> {
    const ended = await this.#running.ended;
    // What it wrote last may still be on its way to us. A reader that is stuck is not waited for.
    const drained = [...this.#sockets.values()]
      .filter((socket) => !socket.closed)
      .map((socket) => once(socket, "close"));
    const late = AbortSignal.timeout(DRAIN_MS);
    await Promise.race([Promise.allSettled(drained), once(late, "abort")]);
    await cleanUp();
    return ended;
  }
}

/** A socket that QEMU connects to. */
class Plug {
  readonly path: string;
  readonly #server: Server;
  readonly socket: Promise<Socket>;
  #connection: Socket | undefined;

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    this.socket = new Promise((resolve) => {
      server.once("connection", (socket: Socket) => {
        this.#connection = socket;
        socket.on("error", () => undefined);
        server.close();
        resolve(socket);
      });
    });
  }

  static async listen(path: string): Promise<Plug> {
    const server = createServer();
    server.listen(path);
    await once(server, "listening");
    return new Plug(path, server);
  }

  close(): void {
    this.#server.close();
    this.#connection?.destroy();
  }
}

async function connected(
  plugs: ReadonlyMap<string, Plug>,
  running: Supervised,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, Socket>> {
  const all = Promise.all([...plugs].map(async ([name, plug]) => [name, await plug.socket] as const));
  const limit = AbortSignal.timeout(CONNECT_MS);
  const stop = AbortSignal.any(signal === undefined ? [limit] : [limit, signal]);
  const first = await Promise.race([
    all,
    running.ended,
    stop.aborted ? Promise.resolve("late" as const) : once(stop, "abort").then(() => "late" as const),
  ]);
  if (first === "late") {
    if (signal?.aborted === true) throw new LabError("E_CANCELLED", "cancelled");
    throw new LabError("E_QEMU", `QEMU did not start within ${CONNECT_MS / 1000} s`);
  }
  if (Array.isArray(first)) return new Map(first);
  throw qemuFailed(first);
}

/** QEMU ended by itself, and not because the guest did. */
export function qemuFailed(ended: Ended): LabError {
  const words = ended.stderr.split("\n").slice(-3).join("; ");
  return new LabError("E_QEMU", `QEMU failed: ${words === "" ? `exit code ${ended.code ?? "none"}` : words}`, {
    hint: "its command line: labctl boot -v",
  });
}
