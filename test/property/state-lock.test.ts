import fc from "fast-check";
import { expect, test } from "vitest";
import { LabError } from "../../src/diagnostics/index.ts";
import { createFileStore, type Fs, type FsFile, type ProcessTable, type StateStore } from "../../src/state/index.ts";
import { lockRequest, makeRow } from "../unit/state-helpers.ts";
import { Disk } from "./state-disk.ts";

/** Each file operation of each contender waits for its turn, which fast-check gives in any order. */
function inTurns(disk: Disk, scheduler: fc.Scheduler, who: string): Fs {
  const turn = (op: string): Promise<void> => scheduler.schedule(Promise.resolve(), `${who} ${op}`);
  const file = (inner: FsFile): FsFile => ({
    write: (data, position) => turn("write").then(() => inner.write(data, position)),
    datasync: () => turn("datasync").then(() => inner.datasync()),
    truncate: (length) => turn("truncate").then(() => inner.truncate(length)),
    touch: (seconds) => inner.touch(seconds),
    stat: () => turn("fstat").then(() => inner.stat()),
    close: () => inner.close(),
  });
  return {
    open: (path, mode) => turn(`open ${path}`).then(async () => file(await disk.open(path, mode))),
    readFile: (path) => turn(`read ${path}`).then(() => disk.readFile(path)),
    readdir: (path) => turn("readdir").then(() => disk.readdir(path)),
    stat: (path) => turn(`stat ${path}`).then(() => disk.stat(path)),
    mkdir: (path) => disk.mkdir(path),
    link: (from, to) => turn(`link ${to}`).then(() => disk.link(from, to)),
    rename: (from, to) => turn(`rename ${to}`).then(() => disk.rename(from, to)),
    unlink: (path) => turn(`unlink ${path}`).then(() => disk.unlink(path)),
    syncDir: (path) => turn("syncDir").then(() => disk.syncDir(path)),
  };
}

const DEAD = 1;
const processes = (pid: number): ProcessTable => ({
  self: { pid, host: "h" },
  liveness: (holder) => (holder.pid === DEAD ? "dead" : "alive"),
});
const storeOn = (fs: Fs, pid: number): StateStore => createFileStore({ dir: "/s", fs, processes: processes(pid) });

interface Outcome {
  readonly counts: number[];
  lost: number;
}

/** Adds one to a counter in the state, as often as it gets the lock; gives the counts that were acknowledged. */
async function contend(store: StateStore, times: number): Promise<Outcome> {
  const outcome: Outcome = { counts: [], lost: 0 };
  for (let i = 0; i < times; i++) {
    try {
      const session = await store.open("lab", lockRequest());
      try {
        const row = session.rows.get("host.counter");
        const n = (row?.observed as { n: number } | undefined)?.n ?? 0;
        await session.put(makeRow("host.counter", { observed: { n: n + 1 } }));
        outcome.counts.push(n + 1);
      } finally {
        await session.close();
      }
    } catch (error) {
      if (!(error instanceof LabError)) throw error;
      if (error.code === "E_STATE_LOCK_LOST") outcome.lost += 1;
      else if (error.code !== "E_STATE_LOCKED") throw error;
    }
  }
  return outcome;
}

async function race(scheduler: fc.Scheduler, contenders: number, times: number, unlocks: number): Promise<Outcome[]> {
  const disk = new Disk();
  const dead = await storeOn(disk, DEAD).open("lab", lockRequest());
  await dead.put(makeRow("host.dead"));
  const unlocker = storeOn(inTurns(disk, scheduler, "unlocker"), 99);
  const unlocking = (async () => {
    for (let i = 0; i < unlocks; i++) await unlocker.unlock("lab");
  })();
  const work = Promise.all(
    Array.from({ length: contenders }, (_, i) => contend(storeOn(inTurns(disk, scheduler, `c${i}`), 10 + i), times)),
  );
  const [outcomes] = await scheduler.waitFor(Promise.all([work, unlocking]));
  const view = await storeOn(disk, 100).read("lab");
  const final = (view.rows.get("host.counter")?.observed as { n: number } | undefined)?.n ?? 0;
  const counts = outcomes.flatMap((outcome) => outcome.counts);
  expect(new Set(counts).size).toBe(counts.length);
  expect(final).toBeGreaterThanOrEqual(Math.max(0, ...counts));
  expect(view.rows.has("host.dead")).toBe(true);
  const next = await storeOn(disk, 101).open("lab", lockRequest());
  await next.close();
  return outcomes;
}

test("locking: however contenders interleave, one holds the lock and nobody's is stolen", {
  timeout: 120_000,
}, async () => {
  let done = 0;
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.integer({ min: 2, max: 4 }), async (scheduler, contenders) => {
      const outcomes = await race(scheduler, contenders, 2, 0);
      expect(outcomes.map((outcome) => outcome.lost)).toEqual(outcomes.map(() => 0));
      done += outcomes.flatMap((outcome) => outcome.counts).length;
    }),
    { numRuns: 200 },
  );
  expect(done).toBeGreaterThan(200);
});

test("fencing: a holder that lost its lock changes nothing, wherever it was", { timeout: 120_000 }, async () => {
  let lost = 0;
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.integer({ min: 1, max: 3 }), async (scheduler, unlocks) => {
      const outcomes = await race(scheduler, 3, 2, unlocks);
      lost += outcomes.reduce((sum, outcome) => sum + outcome.lost, 0);
    }),
    { numRuns: 300 },
  );
  expect(lost).toBeGreaterThan(20);
});
