import { open, readFile, utimes } from "node:fs/promises";
import { join } from "node:path";
import { runFiles } from "./layout.ts";
import { writeJson } from "./recorder.ts";

/** What is left for a run that goes on, wherever that is: end as after a first (1) or a second (2) Ctrl-C. */
export interface CancelRequest {
  readonly level: 1 | 2;
  readonly who: string;
  readonly host: string;
  readonly at: string;
}

/** How often a run looks whether somebody wants it to stop. Milliseconds. */
const LOOK_MS = 400;
/** So many looks between two signs of life. */
const BEAT = 3;
/** A run that gave no sign of life for so long has none. Milliseconds. */
const SILENCE_MS = 10_000;

function requestFile(stateDir: string, run: string): string {
  return join(runFiles(stateDir, run).dir, "cancel.json");
}

/**
 * Asks a run to stop, through the folder that its state is in: that works from any machine that shares it, and cannot meet a
 * process that is another one by now. Rejects where the run's folder cannot be written.
 */
export async function requestCancel(stateDir: string, run: string, request: CancelRequest): Promise<void> {
  await writeJson(requestFile(stateDir, run), request);
}

/**
 * Tells of each level once, as it is asked for, and lets others see that this run lives: the time of its record moves. Ends with the
 * function that it gives, and keeps no process alive.
 */
export function watchCancel(stateDir: string, run: string, tell: (request: CancelRequest) => void): () => void {
  let seen = 0;
  let looking = false;
  let looks = 0;
  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    if (looks++ % BEAT === 0) void beat(stateDir, run);
    void readRequest(stateDir, run).then((request) => {
      looking = false;
      if (request === undefined || request.level <= seen) return;
      seen = request.level;
      tell(request);
    });
  }, LOOK_MS);
  timer.unref();
  return () => clearInterval(timer);
}

async function readRequest(stateDir: string, run: string): Promise<CancelRequest | undefined> {
  try {
    const data: unknown = JSON.parse(await readFile(requestFile(stateDir, run), "utf8"));
    if (typeof data !== "object" || data === null || !("level" in data)) return undefined;
    // Written by requestCancel() of this program.
    return data.level === 1 || data.level === 2 ? (data as CancelRequest) : undefined;
  } catch {
    // Nobody asked, or the folder is gone: either way there is nothing to be told.
    return undefined;
  }
}

async function beat(stateDir: string, run: string): Promise<void> {
  const now = new Date();
  // A record that cannot be touched is no reason to stop; who watches from elsewhere is told less.
  await utimes(runFiles(stateDir, run).record, now, now).catch(() => undefined);
}

/** Watches whether a run lives whose process nobody here can look at. No clock but this machine's own counts. */
export class Pulse {
  readonly #file: string;
  #seen: { readonly beat: number; readonly at: number } | undefined;

  constructor(stateDir: string, run: string) {
    this.#file = runFiles(stateDir, run).record;
  }

  /** True once its time was watched for a while and stood still. Network file systems tell the time anew at each opening. */
  async isSilent(): Promise<boolean> {
    const beat = await lastChange(this.#file);
    const at = performance.now();
    if (this.#seen?.beat !== beat) this.#seen = { beat, at };
    return at - this.#seen.at >= SILENCE_MS;
  }
}

async function lastChange(path: string): Promise<number> {
  try {
    const handle = await open(path, "r");
    try {
      return (await handle.stat()).mtimeMs;
    } finally {
      await handle.close();
    }
  } catch {
    return 0;
  }
}
