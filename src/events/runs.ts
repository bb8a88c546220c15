import { createReadStream } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { createInterface } from "node:readline";
import { LabError } from "../diagnostics/index.ts";
import { type Address, isWithin, type LabEvent, type Plan, type RunRecord } from "../model/index.ts";
import { RUN_ID, runFiles, runsDir } from "./layout.ts";

/** `running`: no end was written and its process lives (or runs on another machine, where we cannot look). */
type RunState = "running" | "interrupted" | "ok" | "failed" | "cancelled";

export interface EventFilter {
  /** Events of this resource and of what it contains. */
  readonly address?: Address;
  readonly types?: readonly LabEvent["type"][];
  /** Only events with a higher number. */
  readonly after?: number;
}

export function stateOf(run: RunRecord, alive: (pid: number) => boolean = pidAlive): RunState {
  if (run.summary !== undefined) return run.summary.result;
  if (run.host !== hostname()) return "running";
  return alive(run.pid) ? "running" : "interrupted";
}

function pidAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

/** Newest first. Runs whose record cannot be read are left out; `limit` bounds how many are opened. */
export async function listRuns(stateDir: string, limit = Number.POSITIVE_INFINITY): Promise<RunRecord[]> {
  const names = await readdir(runsDir(stateDir)).catch(missingAsEmpty);
  const runs: RunRecord[] = [];
  for (const id of names
    .filter((name) => RUN_ID.test(name))
    .sort()
    .reverse()) {
    if (runs.length >= limit) break;
    const run = await readRun(stateDir, id).catch(() => undefined);
    if (run !== undefined) runs.push(run);
  }
  return runs;
}

/** @throws LabError E_STATE_NOT_FOUND, E_STATE_DAMAGED */
export async function readRun(stateDir: string, id: string): Promise<RunRecord> {
  const unknown = new LabError("E_STATE_NOT_FOUND", `there is no run ${JSON.stringify(id)}`, {
    hint: "`labctl history` lists the runs",
  });
  if (!RUN_ID.test(id)) throw unknown;
  const path = runFiles(stateDir, id).record;
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    if (isMissing(error)) throw unknown;
    throw error;
  });
  const record = parseLine(text);
  if (!isRunRecord(record)) {
    throw new LabError("E_STATE_DAMAGED", `the record of run ${id} cannot be read: ${path}`, {
      hint: "the state itself is not touched by this; the run's folder can be removed",
    });
  }
  return record;
}

/** A run by its id, by the unambiguous beginning of one, or `last`. */
export async function findRun(stateDir: string, text: string): Promise<RunRecord | undefined> {
  if (text === "last") return (await listRuns(stateDir, 1))[0];
  if (RUN_ID.test(text)) return readRun(stateDir, text).catch(() => undefined);
  if (!/^\d{8}(T|$)/.test(text)) return undefined;
  const found = (await readdir(runsDir(stateDir)).catch(missingAsEmpty)).filter(
    (name) => RUN_ID.test(name) && name.startsWith(text),
  );
  const [only] = found;
  return found.length === 1 && only !== undefined ? readRun(stateDir, only) : undefined;
}

/** The events of a run, in order. A torn last line, and lines that a full disk cut, are passed over. */
export async function* readEvents(stateDir: string, id: string, filter: EventFilter = {}): AsyncGenerator<LabEvent> {
  const files = runFiles(stateDir, id);
  const input = createReadStream(files.events, { encoding: "utf8" });
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  try {
    for await (const line of lines) {
      const event = parseEvent(line);
      if (event === undefined || !matches(event, filter)) continue;
      if (event.type !== "plan.made") {
        yield event;
        continue;
      }
      const plan = await readRunPlan(stateDir, id);
      if (plan !== undefined) yield { ...event, plan };
    }
  } catch (error) {
    if (!isMissing(error)) throw error;
  } finally {
    lines.close();
    input.destroy();
  }
}

/** The plan of a run; undefined where it got to none. */
async function readRunPlan(stateDir: string, id: string): Promise<Plan | undefined> {
  const text = await readFile(runFiles(stateDir, id).plan, "utf8").catch(() => undefined);
  const plan = text === undefined ? undefined : parseLine(text);
  return typeof plan === "object" && plan !== null && "actions" in plan ? (plan as Plan) : undefined;
}

function matches(event: LabEvent, filter: EventFilter): boolean {
  if (filter.after !== undefined && event.seq <= filter.after) return false;
  if (filter.types !== undefined && !filter.types.includes(event.type)) return false;
  if (filter.address === undefined) return true;
  const address = addressOf(event);
  return address !== undefined && isWithin(address, filter.address);
}

function addressOf(event: LabEvent): Address | undefined {
  if ("address" in event) return event.address;
  if ("host" in event) return event.host;
  if ("problem" in event) return event.problem.address;
  return undefined;
}

/** One line of events.ndjson; undefined where it is no event. */
function parseEvent(line: string): LabEvent | undefined {
  const data = parseLine(line);
  if (typeof data !== "object" || data === null) return undefined;
  if (!("type" in data && "seq" in data && "at" in data && "run" in data)) return undefined;
  // Written by this program's recorder; the fields that every event has are there.
  return typeof data.type === "string" && typeof data.seq === "number" ? (data as LabEvent) : undefined;
}

function parseLine(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isRunRecord(data: unknown): data is RunRecord {
  if (typeof data !== "object" || data === null) return false;
  return "id" in data && "command" in data && "started_at" in data && "pid" in data && typeof data.pid === "number";
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR");
}

function missingAsEmpty(error: unknown): string[] {
  if (isMissing(error)) return [];
  throw error;
}
