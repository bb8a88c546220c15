import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { RUN_ID, runsDir } from "./layout.ts";
import { readRun, stateOf } from "./runs.ts";

/** Removes the oldest runs beyond `keep`. Runs that still go on, and folders that are not runs, are left alone. */
export async function pruneRuns(stateDir: string, keep: number, current: string): Promise<void> {
  const names = await readdir(runsDir(stateDir));
  const ids = names.filter((name) => RUN_ID.test(name) && name !== current).sort();
  for (const id of ids.slice(0, Math.max(0, ids.length - keep))) {
    const run = await readRun(stateDir, id).catch(() => undefined);
    if (run !== undefined && stateOf(run) === "running") continue;
    await rm(join(runsDir(stateDir), id), { recursive: true, force: true });
  }
}
