import fc from "fast-check";
import { expect, test } from "vitest";
import { LabError } from "../../src/diagnostics/index.ts";
import type { Lease } from "../../src/model/index.ts";
import { createLeaseTable } from "../../src/scheduling/index.ts";
import { Disk } from "./state-disk.ts";
import { onlyProcess } from "./state-model.ts";

const HOLDERS = ["anna", "ben", "__proto__"];
const RESOURCES = ["board.a", "board.b", "constructor"];

const step = fc.record({
  do: fc.constantFrom("acquire", "acquire", "renew", "release", "wait"),
  holder: fc.constantFrom(...HOLDERS),
  resource: fc.constantFrom(...RESOURCES),
  ms: fc.integer({ min: 1, max: 100 }),
});

/** The error's code in place of the value. */
async function outcome<T>(work: Promise<T>): Promise<T | string> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof LabError) return error.code;
    throw error;
  }
}

test("leases: at most one holder at any time, and an epoch is never given twice", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const disk = new Disk();
      let time = 1_000_000;
      const table = createLeaseTable({ dir: "/l", fs: disk, now: () => new Date(time), processes: onlyProcess(1) });
      // The model: who holds what until when, and the last lease that each holder was given.
      const current = new Map<string, { holder: string; until: number; epoch: number }>();
      const given = new Map<string, Lease>();
      const epochs = new Map<string, number>();
      for (const { do: what, holder, resource, ms } of steps) {
        const now = current.get(resource);
        const live = now !== undefined && now.until > time;
        const mine = given.get(`${holder} ${resource}`);
        if (what === "wait") {
          time += ms;
        } else if (what === "acquire") {
          const got = await outcome(table.acquire({ resource, holder, reason: "r", ttl: ms }));
          if (live && now.holder !== holder) {
            expect(got).toBe("E_LEASE_HELD");
          } else {
            const epoch = live ? now.epoch : (epochs.get(resource) ?? 0) + 1;
            const until = Math.max(time + ms, live ? now.until : 0);
            expect(got).toMatchObject({ holder, resource, epoch, until: new Date(until).toISOString() });
            current.set(resource, { holder, until, epoch });
            epochs.set(resource, epoch);
            given.set(`${holder} ${resource}`, got as Lease);
          }
        } else if (mine !== undefined) {
          const still = now !== undefined && now.holder === holder && now.epoch === mine.epoch;
          if (what === "renew") {
            const got = await outcome(table.renew(mine, ms));
            if (still) {
              expect(got).toMatchObject({ epoch: mine.epoch, until: new Date(time + ms).toISOString() });
              current.set(resource, { ...now, until: time + ms });
            } else {
              expect(got).toBe(live ? "E_LEASE_HELD" : "E_STATE_NOT_FOUND");
            }
          } else {
            expect(await table.release(mine)).toBe(still);
            if (still) current.delete(resource);
          }
        }
        const held = [...current].filter(([, lease]) => lease.until > time);
        expect((await table.list()).map((lease) => [lease.resource, lease.holder, lease.epoch])).toEqual(
          held.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, lease]) => [name, lease.holder, lease.epoch]),
        );
      }
    }),
    { numRuns: 200 },
  );
});

test("leases: a crash at any moment leaves the table as it was before or after the change", async () => {
  const disk = new Disk();
  const open = (on: Disk, pid: number) => createLeaseTable({ dir: "/l", fs: on, processes: onlyProcess(pid) });
  const request = (resource: string) => ({ resource, holder: "anna", reason: "r", ttl: 1_000_000 });
  await open(disk, 1).acquire(request("board.a"));
  const moments: ReturnType<Disk["moment"]>[] = [];
  disk.onChange = (moment) => moments.push(moment());
  await open(disk, 1).acquire(request("board.b"));
  disk.onChange = undefined;
  expect(moments.length).toBeGreaterThan(10);
  for (const moment of moments) {
    for (const crash of ["kill", "power: nothing", "power: names only", "power: removals first"] as const) {
      const after = Disk.from(moment, crash);
      const names = (await open(after, 2).list()).map((lease) => lease.resource);
      expect([["board.a"], ["board.a", "board.b"]]).toContainEqual(names);
      await open(after, 2).acquire(request("board.c"));
      expect((await open(after, 3).list()).map((lease) => lease.resource)).toEqual([...names, "board.c"]);
    }
  }
});
