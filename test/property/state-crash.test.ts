import fc from "fast-check";
import { expect, test } from "vitest";
import { createFileStore, type StateSession, type StateStore } from "../../src/state/index.ts";
import { lockRequest, makeRow } from "../unit/state-helpers.ts";
import { type Crash, CRASHES, Disk, type Moment } from "./state-disk.ts";
import { Model, onlyProcess, perform, type Step, stepArbitrary, viewOf } from "./state-model.ts";

const DIR = "/state";

interface CrashPoint {
  readonly moment: Moment;
  /** How many steps were acknowledged, and how many were asked for. */
  readonly acked: number;
  readonly asked: number;
}

interface Story {
  readonly points: readonly CrashPoint[];
  /** What every reader must see after each number of steps. */
  readonly views: readonly string[];
}

/** Lives through the steps, in groups that are asked for at once, and keeps every moment at which it could have ended. */
async function live(groups: readonly (readonly Step[])[], keep: (n: number) => boolean): Promise<Story> {
  const disk = new Disk();
  const model = new Model();
  const views = [model.view()];
  const points: CrashPoint[] = [];
  let acked = 0;
  let seen = 0;
  disk.onChange = (moment) => {
    if (keep(seen++)) points.push({ moment: moment(), acked, asked: views.length - 1 });
  };
  let pid = 1;
  const open = (): Promise<StateSession> => storeOn(disk, pid).open("lab", lockRequest());
  let session = await open();
  let n = 0;
  for (const group of groups) {
    const asked: Promise<void>[] = [];
    for (const step of group) {
      const done = perform(model, step, ++n, session);
      if (done === undefined) continue;
      views.push(model.view());
      const own = views.length - 1;
      asked.push(
        done.then(() => {
          acked = own;
        }),
      );
    }
    await Promise.all(asked);
    model.ending.clear();
    expect(viewOf(session)).toBe(model.view());
    const last = group.at(-1)?.do;
    if (last === "reopen" || last === "abandon") {
      if (last === "reopen") await session.close();
      pid += 1;
      model.open.clear();
      session = await open();
    }
  }
  await session.close();
  disk.onChange = undefined;
  points.push({ moment: disk.moment(), acked, asked: views.length - 1 });
  return { points, views };
}

/** A small limit, so that journals are folded in the middle of a session too. */
function storeOn(disk: Disk, pid: number): StateStore {
  return createFileStore({ dir: DIR, fs: disk, processes: onlyProcess(pid), foldBytes: 2000 });
}

async function checkPoint(story: Story, point: CrashPoint, crash: Crash): Promise<void> {
  const allowed = story.views.slice(point.acked, point.asked + 1);
  const disk = Disk.from(point.moment, crash);
  const store = storeOn(disk, 1000);
  const files = disk.list().sort();
  const read = await store.read("lab");
  expect(allowed).toContain(viewOf(read));
  expect(disk.list().sort()).toEqual(files);
  const session = await store.open("lab", lockRequest());
  expect(viewOf(session)).toBe(viewOf(read));
  await session.put(makeRow("host.next"));
  await session.close();
  const after = await storeOn(disk, 1001).read("lab");
  expect(after.rows.get("host.next")?.status).toBe("ok");
  expect(after.rows.size).toBe(session.rows.size);
  expect(disk.list().filter((path) => path.includes("journal") || path.includes("tmp"))).toEqual([]);
}

const FIXED: Step[][] = [
  [{ do: "begin", pick: 0 }],
  [{ do: "checkpoint", pick: 0 }],
  [
    { do: "end", pick: 0 },
    { do: "put", pick: 3 },
    { do: "hold", pick: 1 },
  ],
  [
    { do: "begin", pick: 1 },
    { do: "abandon", pick: 0 },
  ],
  [
    { do: "begin", pick: 1 },
    { do: "begin", pick: 2 },
    { do: "outputs", pick: 0 },
  ],
  [
    { do: "fail", pick: 0 },
    { do: "move", pick: 0 },
    { do: "reopen", pick: 0 },
  ],
  [{ do: "begin", pick: 0 }],
  [
    { do: "delete", pick: 0 },
    { do: "drop", pick: 0 },
  ],
];

test.each(CRASHES)(
  "crash safety: every prefix of the bytes written opens (%s)",
  { timeout: 120_000 },
  async (crash) => {
    // After a power cut the bytes of a write that was not synced count as a whole: fewer places show as much.
    const story = await live(FIXED, (n) => crash === "kill" || n % 7 === 0);
    expect(story.points.length).toBeGreaterThan(crash === "kill" ? 4000 : 600);
    for (const point of story.points) await checkPoint(story, point, crash);
  },
);

test("crash safety: nothing acknowledged is lost, whatever was done and wherever it stopped", {
  timeout: 240_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(stepArbitrary, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 10 }),
      fc.integer({ min: 20, max: 400 }),
      fc.nat(400),
      fc.constantFrom(...CRASHES),
      async (groups, stride, offset, crash) => {
        const story = await live(groups, (n) => n % stride === offset % stride);
        for (const point of story.points) await checkPoint(story, point, crash);
      },
    ),
    { numRuns: 150 },
  );
});
