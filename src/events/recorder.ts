import { appendFileSync } from "node:fs";
import { appendFile, mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Address, LabEvent, Problem, RunRecord, RunSummary } from "../model/index.ts";
import { logFileName, RUNS_KEPT, type RunFiles, runFiles } from "./layout.ts";
import type { EventBus } from "./port.ts";
import { pruneRuns } from "./retention.ts";

const FLUSH_AFTER_MS = 50;
const FLUSH_AT_BYTES = 256 * 1024;

export type RunMeta = Omit<RunRecord, "format_version" | "finished_at" | "summary">;

/**
 * Writes one run below STATE/runs/ID: run.json, events.ndjson, plan.json, and logs/ with a file for each resource that
 * said something. It listens from construction and writes from start() on. Nothing that goes wrong here fails the run:
 * the first problem is raised as a warning, and recording goes on with whatever can still be written.
 */
export class RunRecorder {
  readonly #bus: EventBus;
  readonly #stop: () => void;
  readonly #onExit = (): void => this.#flushSync();
  #files: RunFiles | undefined;
  #meta: RunMeta | undefined;
  #lines: string[] = [];
  #bytes = 0;
  #logs = new Map<Address, string[]>();
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  /** Set after a write that may have left half a line behind. */
  #torn = false;
  #warned = false;

  constructor(bus: EventBus) {
    this.#bus = bus;
    this.#stop = bus.on((event) => this.#take(event));
  }

  /** Makes the run's folder and its record, and drops the oldest runs. Events from before are written too. */
  async start(stateDir: string, meta: RunMeta, keep: number = RUNS_KEPT): Promise<void> {
    const files = runFiles(stateDir, meta.id);
    this.#meta = meta;
    process.once("exit", this.#onExit);
    await this.#guard(async () => {
      await mkdir(files.logs, { recursive: true, mode: 0o700 });
      this.#files = files;
      await writeJson(files.record, { format_version: 1, ...meta });
      await pruneRuns(stateDir, keep - 1, meta.id);
    });
    this.#files = files;
    this.#schedule();
  }

  /** Writes what is left and the run's end. Safe to call where start() was not. */
  async finish(summary: RunSummary, finishedAt: Date): Promise<void> {
    this.#stop();
    await this.flush();
    process.removeListener("exit", this.#onExit);
    const [files, meta] = [this.#files, this.#meta];
    if (files === undefined || meta === undefined) return;
    await this.#guard(() =>
      writeJson(files.record, { format_version: 1, ...meta, finished_at: finishedAt.toISOString(), summary }),
    );
  }

  /** Resolves when all that was emitted so far is handed to the file system. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#write();
    await this.#writing;
  }

  #take(event: LabEvent): void {
    let stored: unknown = event;
    if (event.type === "plan.made") {
      // A plan can be large: it stands in a file of its own, and readers put it back.
      stored = { ...event, plan: null };
      const plan = event.plan;
      this.#writing = this.#writing.then(() =>
        this.#guard(async () => {
          if (this.#files !== undefined) await writeJson(this.#files.plan, plan);
        }),
      );
    }
    const line = `${JSON.stringify(stored)}\n`;
    this.#lines.push(line);
    this.#bytes += line.length;
    if (event.type === "log.line" && event.address !== undefined) {
      const lines = this.#logs.get(event.address) ?? [];
      lines.push(`${event.at} ${event.stream ?? event.level} ${event.message}\n`);
      this.#logs.set(event.address, lines);
    }
    this.#schedule();
  }

  #schedule(): void {
    if (this.#files === undefined) return;
    if (this.#bytes >= FLUSH_AT_BYTES) {
      this.#write();
      return;
    }
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#write();
    }, FLUSH_AFTER_MS).unref();
  }

  #write(): void {
    const files = this.#files;
    if (files === undefined || (this.#lines.length === 0 && this.#logs.size === 0)) return;
    const [text, logs] = this.#drain();
    this.#writing = this.#writing.then(() =>
      this.#guard(async () => {
        try {
          if (text !== "") await appendFile(files.events, this.#torn ? `\n${text}` : text, { mode: 0o600 });
          this.#torn = false;
        } catch (error) {
          this.#torn = true;
          throw error;
        }
        for (const [address, lines] of logs) {
          await appendFile(join(files.logs, logFileName(address)), lines.join(""), { mode: 0o600 });
        }
      }),
    );
  }

  #drain(): [string, ReadonlyMap<Address, string[]>] {
    const text = this.#lines.join("");
    const logs = this.#logs;
    this.#lines = [];
    this.#bytes = 0;
    this.#logs = new Map();
    return [text, logs];
  }

  /** The last resort, where the process ends without finish(): a second Ctrl-C, a defect. */
  #flushSync(): void {
    const files = this.#files;
    if (files === undefined || this.#lines.length === 0) return;
    const [text] = this.#drain();
    try {
      appendFileSync(files.events, this.#torn ? `\n${text}` : text, { mode: 0o600 });
    } catch {
      this.#torn = true;
    }
  }

  async #guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (this.#warned) return;
      this.#warned = true;
      this.#bus.emit({ type: "warning.raised", problem: recordingProblem(error) });
    }
  }
}

function recordingProblem(error: unknown): Problem {
  const full = error instanceof Error && "code" in error && error.code === "ENOSPC";
  return {
    code: full ? "E_DISK_FULL" : "E_STATE_WRITE",
    message: `this run cannot be recorded completely: ${error instanceof Error ? error.message : String(error)}`,
    hint: "the run goes on; free some space or check the permissions of the state folder's runs/",
  };
}

/** Atomic and durable: a temporary name beside it, fsync, rename. Readable by its owner alone. */
export async function writeJson(path: string, data: unknown): Promise<void> {
  await writeAtomic(path, `${JSON.stringify(data, null, 2)}\n`);
}

/** Replaces a file as a whole, mode 0600; leaves no temporary file behind, also where it fails. */
async function writeAtomic(path: string, text: string): Promise<void> {
  const temporary = join(dirname(path), `.${process.pid}-${Math.random().toString(36).slice(2)}.tmp`);
  try {
    await writeFile(temporary, text, { mode: 0o600, flag: "wx" });
    const handle = await open(temporary, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
