import fc from "fast-check";
import { expect, test } from "vitest";
import { LabError } from "../../src/diagnostics/index.ts";
import type { Amounts, Lease } from "../../src/model/index.ts";
import { createLeaseTable, type LeaseTable, type Part, withLeases } from "../../src/scheduling/index.ts";
import { type Crash, Disk } from "./state-disk.ts";
import { onlyProcess } from "./state-model.ts";

const KEYS = ["cpus", "memory", "slots"] as const;
const CAPACITY: Readonly<Record<string, Amounts>> = {
  "host.a": { cpus: 8, memory: 16, slots: 3 },
  "host.b": { cpus: 4, memory: 8, slots: 2 },
  lab: { cpus: 9 },
};
const HOSTS = ["host.a", "host.b"];
const HOLDERS = ["lab x", "lab y", "pipeline/p z", "__proto__"];
const CRASHES = ["kill", "power: nothing", "power: names only", "power: removals first"] as const;

const step = fc.record({
  do: fc.constantFrom(
    "reserve",
    "reserve",
    "reserve",
    "reserve",
    "all of it",
    "renew",
    "release",
    "release all",
    "wait",
    "kill",
  ),
  holder: fc.constantFrom(...HOLDERS),
  resource: fc.constantFrom(...HOSTS),
  amounts: fc.record({
    cpus: fc.integer({ min: 0, max: 5 }),
    memory: fc.integer({ min: 0, max: 9 }),
    slots: fc.constant(1),
  }),
  lab: fc.boolean(),
  tied: fc.boolean(),
  ms: fc.integer({ min: 1, max: 100 }),
  /** The process dies within this change, and loses what was not synced. */
  crash: fc.option(fc.record({ at: fc.nat(200), how: fc.constantFrom(...CRASHES) }), { freq: 4 }),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

interface Known {
  readonly resource: string;
  readonly holder: string;
  readonly amounts: Amounts | undefined;
  readonly until: number;
  readonly pid: number | undefined;
  readonly epoch: number;
}

/** What the table is to be, with no idea of files. */
class Model {
  time = 1_000_000;
  pid = 1;
  all: readonly Known[] = [];
  epochs: Readonly<Record<string, number>> = {};

  isLive(one: Known): boolean {
    return one.pid === undefined ? one.until > this.time : one.pid === this.pid;
  }
  get live(): readonly Known[] {
    return this.all.filter((one) => this.isLive(one));
  }

  /** The code of the refusal, or nothing. */
  refusal(parts: readonly Part[], holder: string): string | undefined {
    for (const { resource, amounts, capacity } of parts) {
      const others = this.live.filter((one) => one.resource === resource && one.holder !== holder);
      if (amounts === undefined ? others.length > 0 : others.some((one) => one.amounts === undefined))
        return "E_LEASE_HELD";
      for (const key of KEYS) {
        const [asked, most] = [amounts?.[key] ?? 0, capacity?.[key]];
        if (most === undefined || asked === 0) continue;
        if (asked > most) return "E_NEVER_FITS";
        if (others.reduce((sum, one) => sum + (one.amounts?.[key] ?? 0), asked) > most) return "E_BUSY";
      }
    }
    return undefined;
  }

  grant(parts: readonly Part[], holder: string, ttl: number, tied: boolean): void {
    for (const { resource, amounts } of parts) {
      const own = this.live.find((one) => one.resource === resource && one.holder === holder);
      const epoch = own?.epoch ?? (this.epochs[resource] ?? 0) + 1;
      const until = Math.max(own?.until ?? 0, this.time + ttl);
      // What was held is not tied again.
      const pid = tied && (own === undefined || own.pid !== undefined) ? this.pid : undefined;
      const rest = this.all.filter((one) => one.resource !== resource || (this.isLive(one) && one !== own));
      this.all = [...rest, { resource, holder, amounts, until, pid, epoch }];
      this.epochs = { ...this.epochs, [resource]: epoch };
    }
  }

  find(lease: Lease): Known | undefined {
    const { resource, holder, epoch } = lease;
    return this.all.find((one) => one.resource === resource && one.holder === holder && one.epoch === epoch);
  }
}

function shown(leases: readonly (Lease | Known)[]): string[] {
  return leases
    .map(({ resource, holder, amounts, until, epoch }) =>
      JSON.stringify([resource, holder, amounts ?? null, new Date(until).toISOString(), epoch]),
    )
    .sort();
}

async function codeOf(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (error instanceof LabError) return error.code;
    throw error;
  }
}

test("Resource Reservation Consistency", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      let disk = new Disk();
      const model = new Model();
      const open = (): LeaseTable =>
        createLeaseTable({
          dir: "/l",
          fs: disk,
          now: () => new Date(model.time),
          processes: onlyProcess(model.pid),
        });
      let table = open();
      const given = new Map<string, Lease>();
      const die = (): void => {
        model.pid += 1;
        given.clear();
        table = open();
      };

      for (const one of steps) {
        if (one.do === "wait") model.time += one.ms;
        else if (one.do === "kill") die();
        else if (one.crash === null) await perform(one, table, model, given);
        else {
          const moments: ReturnType<Disk["moment"]>[] = [];
          disk.onChange = (moment) => moments.push(moment());
          const before = model.all;
          const epochs = model.epochs;
          await perform(one, table, model, given);
          disk.onChange = undefined;
          const moment = moments[one.crash.at % Math.max(1, moments.length)];
          if (moment === undefined) continue;
          disk = Disk.from(moment, one.crash.how satisfies Crash);
          die();
          // The change was made whole, or not at all.
          const after = model.all;
          const seen = shown(await table.list());
          const whole = shown(model.live);
          model.all = before;
          const nothing = shown(model.live);
          expect([whole, nothing]).toContainEqual(seen);
          // Where both look the same, what has lapsed and what will be numbered may differ: both are looked up.
          if (JSON.stringify(seen) !== JSON.stringify(nothing)) model.all = after;
          else if (whole.join() === nothing.join()) {
            const text = disk.list().includes("/l/leases.json") ? disk.text("/l/leases.json") : "{}";
            const file = JSON.parse(text) as { epochs?: Record<string, number>; leases?: Record<string, Lease[]> };
            const kept = Object.values(file.leases ?? {}).flat();
            if (shown(kept).join() === shown(after).join()) model.all = after;
            model.epochs = { ...file.epochs };
            for (const [name, epoch] of Object.entries(epochs)) {
              expect(model.epochs[name] ?? 0).toBeGreaterThanOrEqual(epoch);
            }
          } else model.epochs = epochs;
        }
        await compare(table, model);
      }
    }),
    { numRuns: 600 },
  );
});

/** Asks the table for one step, and the model for the same. */
async function perform(one: Step, table: LeaseTable, model: Model, given: Map<string, Lease>): Promise<void> {
  const { holder, resource, amounts, tied, ms } = one;
  const key = `${holder} on ${resource}`;
  const mine = given.get(key);
  switch (one.do) {
    case "reserve": {
      const parts: Part[] = [{ resource, amounts, capacity: CAPACITY[resource] ?? {} }];
      if (one.lab) parts.push({ resource: "lab", amounts: { cpus: amounts.cpus }, capacity: CAPACITY["lab"] ?? {} });
      const refusal = model.refusal(parts, holder);
      const work = table.reserve({ parts, holder, reason: "r", ttl: ms, tied });
      expect(await codeOf(work)).toBe(refusal);
      if (refusal !== undefined) return;
      model.grant(parts, holder, ms, tied);
      const [lease] = await work;
      if (lease !== undefined) given.set(key, lease);
      return;
    }
    case "all of it": {
      const refusal = model.refusal([{ resource }], holder);
      const work = table.acquire({ resource, holder, reason: "r", ttl: ms });
      expect(await codeOf(work)).toBe(refusal);
      if (refusal !== undefined) return;
      model.grant([{ resource }], holder, ms, false);
      given.set(key, await work);
      return;
    }
    case "renew": {
      if (mine === undefined) return;
      const known = model.find(mine);
      const code = await codeOf(table.renew(mine, ms));
      if (known === undefined) expect(["E_LEASE_HELD", "E_STATE_NOT_FOUND"]).toContain(code);
      else {
        expect(code).toBeUndefined();
        model.all = model.all.map((item) => (item === known ? { ...known, until: model.time + ms } : item));
      }
      return;
    }
    case "release": {
      if (mine === undefined) return;
      const known = model.find(mine);
      expect(await table.release(mine)).toBe(known !== undefined);
      model.all = model.all.filter((item) => item !== known);
      return;
    }
    case "release all":
      await table.releaseAll(holder);
      model.all = model.all.filter((item) => item.holder !== holder);
      return;
    case "wait":
    case "kill":
      return;
  }
}

/** The table says what the model says, no capacity is exceeded, and machines show what is reserved of them. */
async function compare(table: LeaseTable, model: Model): Promise<void> {
  const leases = await table.list();
  expect(shown(leases)).toEqual(shown(model.live));
  for (const [resource, capacity] of Object.entries(CAPACITY)) {
    const there = leases.filter((lease) => lease.resource === resource);
    if (there.some((lease) => lease.amounts === undefined)) expect(there).toHaveLength(1);
    const machine = { address: resource, name: resource, status: "online", arch: "x86_64" } as const;
    const { reserved } = withLeases({ ...machine, total: capacity, reserved: {} }, there);
    for (const key of KEYS) {
      const sum = there.reduce((all, lease) => all + (lease.amounts?.[key] ?? 0), 0);
      expect(reserved[key] ?? 0).toBe(sum);
      expect(sum).toBeLessThanOrEqual(capacity[key] ?? Number.POSITIVE_INFINITY);
    }
  }
}
