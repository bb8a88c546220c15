import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  type Allocation,
  type AllocationRequest,
  type Candidate,
  createLeaseTable,
  createScheduler,
  type LabRules,
  nextCandidate,
  readRules,
  type Requirements,
  type Scheduler,
  select,
  standingOf,
  type Waiting,
} from "../../src/scheduling/index.ts";
import type { ProcessTable } from "../../src/state/index.ts";

const GIB = 1024 ** 3;
const NO_RULES: LabRules = { limits: {}, groups: {} };

let dir: string;
let dead: Set<number>;
let open: Scheduler[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "labctl-scheduling-"));
  dead = new Set();
  open = [];
});
afterEach(async () => {
  for (const one of open) await one.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Several processes in one: each has its own pid, and lives until it is said to be dead. */
function processes(pid: number): ProcessTable {
  return {
    self: { pid, host: "h", boot_id: "b", started: String(pid) },
    liveness: (one) => (dead.has(one.pid) ? "dead" : "alive"),
  };
}

function scheduler(
  pid: number,
  more: { rules?: LabRules; owner?: string; ttl?: number; poll?: number } = {},
): Scheduler {
  const made = createScheduler({
    dir,
    owner: more.owner ?? `lab/p${pid}`,
    run: `r${pid}`,
    rules: more.rules ?? NO_RULES,
    poll: more.poll ?? 5,
    processes: processes(pid),
    ...(more.ttl !== undefined && { ttl: more.ttl }),
  });
  open.push(made);
  return made;
}

function host(name: string, more: Partial<Candidate> = {}): Candidate {
  const total = { cpus: 8, memory: 16 * GIB, slots: 2 };
  return { address: `host.${name}`, name, status: "online", arch: "x86_64", total, reserved: {}, ...more };
}

function request(what: string, requires: Requirements = {}, more: Partial<AllocationRequest> = {}): AllocationRequest {
  return { what, requires, ...more };
}

const at = (machines: readonly Candidate[], more: { failed?: ReadonlySet<string>; approved?: string[] } = {}) => ({
  candidates: async () => machines,
  wait: false,
  ...more,
});

/** Begins to wait, and is there when that is known. */
async function waiting(
  from: Scheduler,
  what: AllocationRequest,
  machines: readonly Candidate[],
  signal?: AbortSignal,
): Promise<{ said: Waiting; got: Promise<Allocation>; seen: { done: boolean } }> {
  const seen = { done: false };
  let told: (said: Waiting) => void = () => undefined;
  const begun = new Promise<Waiting>((done) => {
    told = done;
  });
  const got = from.allocate(what, {
    candidates: async () => machines,
    wait: true,
    onWaiting: told,
    ...(signal && { signal }),
  });
  got.then(
    () => (seen.done = true),
    () => undefined,
  );
  return { said: await begun, got, seen };
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

describe("allocation", () => {
  test("machines fill up, the emptier first, and what was taken is given back", async () => {
    const machines = [host("a"), host("b")];
    const one = scheduler(1);
    const taken: Allocation[] = [];
    for (const what of ["build.a", "build.b", "build.c", "build.d"]) {
      taken.push(await one.allocate(request(what, { cpus: 2 }), at(machines)));
    }
    expect(taken.map((allocation) => allocation.address)).toEqual(["host.a", "host.b", "host.a", "host.b"]);
    await expect(one.allocate(request("build.e"), at(machines))).rejects.toMatchObject({
      code: "E_BUSY",
      message: expect.stringContaining("host.a: all of its 2 places are taken"),
    });
    await taken[1]?.release();
    expect((await one.allocate(request("build.e"), at(machines))).address).toBe("host.b");
    expect(await one.waiting()).toEqual([]);
  });

  test("the same request goes on with what it has, also after its run was killed", async () => {
    const machines = [host("a"), host("b")];
    const first = await scheduler(1, { owner: "lab/p" }).allocate(request("build.x"), at(machines));
    const second = scheduler(2, { owner: "lab/p" });
    // The other process still lives: it is the same demand all the same, and takes nothing twice.
    const again = await second.allocate(request("build.x"), at([host("a", { load: 0.9 }), host("b")]));
    expect(again.address).toBe(first.address);
    expect(again.leases[0]?.epoch).toBe(1);
    expect(again.selection.ranking[0]?.why).toContain("it has this machine already");
    expect(await second.leases()).toHaveLength(1);
    dead.add(1).add(2);
    const third = scheduler(3, { owner: "lab/p" });
    expect(await third.leases()).toEqual([]);
    expect((await third.allocate(request("build.x"), at(machines))).leases[0]?.epoch).toBe(2);
  });

  test("what is held outlives its process, and whoever deletes it gives it back", async () => {
    const machines = [host("a", { total: { slots: 1 } })];
    const allocation = await scheduler(1, { owner: "lab/p" }).allocate(request("environment.e"), at(machines));
    await allocation.hold(Number.POSITIVE_INFINITY);
    dead.add(1);
    const next = scheduler(2, { owner: "lab/p" });
    await expect(next.allocate(request("environment.f"), at(machines))).rejects.toMatchObject({ code: "E_BUSY" });
    expect(await next.release("environment.e")).toHaveLength(1);
    expect(await next.release("environment.e")).toEqual([]);
    expect((await next.allocate(request("environment.f"), at(machines))).address).toBe("host.a");
  });

  test("what is held stays held while a later run works on it, and when that is killed or ends", async () => {
    const machines = [host("a"), host("b")];
    const of = (pid: number): Scheduler => scheduler(pid, { owner: "lab/p" });
    await (await of(1).allocate(request("environment.e"), at(machines))).hold(Number.POSITIVE_INFINITY);
    const killed = await of(2).allocate(request("environment.e"), at(machines));
    expect(killed).toMatchObject({ address: "host.a", tied: [] });
    dead.add(1).add(2);
    const third = of(3);
    await third.allocate(request("environment.e"), at(machines));
    await third.close();
    expect(await of(4).leases()).toMatchObject([{ resource: "host.a", epoch: 1, placed: true }]);
  });

  test("what is placed is not counted twice by who looks at the machine", async () => {
    const one = scheduler(1);
    const machine = host("a", { total: { slots: 3 } });
    const allocation = await one.allocate(request("build.a"), at([machine]));
    // It has begun, and the machine shows one build; nobody said yet that this is the one.
    const seen = { ...machine, reserved: { slots: 1 } };
    const [careful] = (await one.preview(request("build.b"), [seen])).ranking;
    expect(careful?.utilization).toBe(1);
    await allocation.placed();
    const [known] = (await one.preview(request("build.b"), [seen])).ranking;
    expect(known?.utilization).toBeCloseTo(2 / 3);
  });

  test("who lost a machine is told, and cannot go on", async () => {
    const one = scheduler(1, { ttl: 30 });
    const allocation = await one.allocate(request("build.a"), at([host("a")]));
    await createLeaseTable({ dir }).releaseAll("lab/p1 build.a");
    await expect(allocation.placed()).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
    for (let i = 0; i < 200 && !allocation.lost.aborted; i++) await pause(10);
    expect(allocation.lost.aborted).toBe(true);
  });

  test("goes on prolonging what it holds, for those who cannot see it live", async () => {
    const elsewhere: ProcessTable = { ...processes(9), liveness: () => "unknown" };
    const one = scheduler(1, { ttl: 300 });
    await one.allocate(request("build.a"), at([host("a")]));
    const table = createLeaseTable({ dir, processes: elsewhere });
    for (let i = 0; i < 10; i++) {
      await pause(60);
      expect(await table.list()).toHaveLength(1);
    }
    await one.close();
    expect(await table.list()).toEqual([]);
  });
});

describe("fallback", () => {
  test("a machine that failed is not tried again, and no other than the approved ones is", async () => {
    const one = scheduler(1);
    const machines = [host("a"), host("b"), host("c")];
    const approved = ["host.a", "host.b"];
    const { ranking } = select(request("environment.e"), machines, 0);
    expect(nextCandidate(ranking, new Set(["host.a"]))?.address).toBe("host.b");
    const failed = new Set<string>();
    const tried: string[] = [];
    for (;;) {
      try {
        const allocation = await one.allocate(request("environment.e"), at(machines, { failed, approved }));
        tried.push(allocation.address);
        failed.add(allocation.address);
        await allocation.release();
      } catch (error) {
        expect(error).toMatchObject({
          code: "E_NEVER_FITS",
          message: expect.stringContaining("host.a: it was tried in this run, and failed"),
        });
        break;
      }
    }
    expect(tried).toEqual(approved);
    expect(await one.leases()).toEqual([]);
  });

  test("taking another machine gives the former one back in the same moment", async () => {
    const one = scheduler(1);
    await one.allocate(request("environment.e"), at([host("a"), host("b")]));
    const next = await one.allocate(
      request("environment.e"),
      at([host("a"), host("b")], { failed: new Set(["host.a"]) }),
    );
    expect(next.address).toBe("host.b");
    expect((await one.leases()).map((lease) => lease.resource)).toEqual(["host.b"]);
  });
});

describe("the queue", () => {
  const full = [host("a", { total: { slots: 1 } })];

  test("goes by priority, then by age", async () => {
    const holder = await scheduler(1).allocate(request("build.now"), at(full));
    const order: string[] = [];
    const waiters = [];
    for (const [pid, what, priority] of [
      [2, "build.old", 0],
      [3, "build.young", 0],
      [4, "build.urgent", 10],
    ] as const) {
      const one = await waiting(scheduler(pid), request(what, {}, { priority }), full);
      expect(one.said.ahead).toBe(what === "build.young" ? 1 : 0);
      waiters.push(
        one.got.then(async (allocation) => {
          order.push(what);
          await allocation.release();
        }),
      );
      await pause(3);
    }
    const table = createLeaseTable({ dir, processes: processes(9) });
    expect((await table.waiting()).map((one) => one.reason)).toEqual([
      "build.urgent in run r4",
      "build.old in run r2",
      "build.young in run r3",
    ]);
    await holder.release();
    await Promise.all(waiters);
    expect(order).toEqual(["build.urgent", "build.old", "build.young"]);
    expect(await table.waiting()).toEqual([]);
    expect(await table.list()).toEqual([]);
  });

  test("nobody is overtaken by who asks for less, and other machines are free for all", async () => {
    const machines = [host("a", { total: { memory: 16 * GIB } }), host("b", { labels: { fast: "yes" } })];
    const one = scheduler(1);
    const holder = await one.allocate(request("environment.a", { memory: 12 * GIB }), at(machines.slice(0, 1)));
    const big = await waiting(scheduler(2), request("environment.big", { memory: 8 * GIB }), machines.slice(0, 1));
    const small = request("environment.small", { memory: GIB });
    await expect(one.allocate(small, at(machines.slice(0, 1)))).rejects.toMatchObject({
      code: "E_BUSY",
      message: expect.stringMatching(/lab\/p2 environment\.big waits for it since/),
    });
    expect((await one.allocate(small, at(machines))).address).toBe("host.b");
    expect(big.seen.done).toBe(false);
    await holder.release();
    expect((await big.got).address).toBe("host.a");
  });

  test("a waiter that died blocks nobody", async () => {
    const holder = await scheduler(1).allocate(request("build.now"), at(full));
    const stop = new AbortController();
    // Dead processes look no more.
    const first = await waiting(scheduler(2, { poll: 1e9 }), request("build.dead"), full, stop.signal);
    const second = await waiting(scheduler(3), request("build.next"), full);
    expect(second.said.ahead).toBe(1);
    dead.add(2);
    await holder.release();
    await Promise.race([second.got, pause(5000)]);
    expect(second.seen.done).toBe(true);
    stop.abort();
    await expect(first.got).rejects.toMatchObject({ code: "E_CANCELLED" });
  });

  test("the place of a run that died is not inherited by the next one", async () => {
    const holder = await scheduler(1).allocate(request("build.now"), at(full));
    const stop = new AbortController();
    const gone = scheduler(2, { owner: "lab/p", poll: 1e9 });
    const first = await waiting(gone, request("build.x"), full, stop.signal);
    await pause(3);
    const second = await waiting(scheduler(3), request("build.next"), full);
    dead.add(2);
    const reborn = await waiting(scheduler(4, { owner: "lab/p" }), request("build.x"), full);
    expect(reborn.said.ahead).toBe(1);
    await holder.release();
    await (await second.got).release();
    expect((await reborn.got).address).toBe("host.a");
    stop.abort();
    await expect(first.got).rejects.toMatchObject({ code: "E_CANCELLED" });
  });

  test("says how long it will take, as far as that can be known", async () => {
    const one = scheduler(1);
    await one.allocate(request("build.now", {}, { estimate: 600_000 }), at(full));
    const first = await waiting(scheduler(2), request("build.a", {}, { estimate: 300_000 }), full);
    expect(first.said.expected_wait).toBeGreaterThan(590_000);
    expect(first.said.expected_wait).toBeLessThanOrEqual(600_000);
    const second = await waiting(scheduler(3), request("build.b"), full);
    expect(second.said.expected_wait).toBeGreaterThan(890_000);
    expect(second.said.expected_wait).toBeLessThanOrEqual(900_000);
    // Behind one of which nobody knows how long it takes, nobody knows either.
    await expect(one.allocate(request("build.c"), at(full))).rejects.toMatchObject({
      message: expect.not.stringContaining("for about"),
    });
    await expect(scheduler(4).allocate(request("build.c", {}, { priority: 1 }), at(full))).rejects.toMatchObject({
      message: expect.stringContaining("for about 10m"),
    });
    await one.close();
    await (await first.got).release();
    await second.got;
  });

  test("a cancelled wait leaves no place, and a refused one never had any", async () => {
    const one = scheduler(1);
    await one.allocate(request("build.now"), at(full));
    const stop = new AbortController();
    const other = await waiting(scheduler(2), request("build.a"), full, stop.signal);
    expect(await one.waiting()).toHaveLength(1);
    stop.abort();
    await expect(other.got).rejects.toMatchObject({ code: "E_CANCELLED" });
    expect(await one.waiting()).toEqual([]);
    await expect(one.allocate(request("build.b", { arch: "arm64" }), at(full))).rejects.toMatchObject({
      code: "E_NEVER_FITS",
    });
    expect(await one.waiting()).toEqual([]);
  });

  test("who waits sees a machine that comes back", async () => {
    let machines = [host("a", { status: "offline", why: "no route" })];
    const one = createScheduler({ dir, owner: "lab/p", run: "r", rules: NO_RULES, poll: 5, refresh: 20 });
    open.push(one);
    const got = one.allocate(request("build.a"), { candidates: async () => machines, wait: true });
    await pause(40);
    machines = [host("a")];
    expect((await got).address).toBe("host.a");
  });
});

describe("what holds for the whole lab", () => {
  const rules = readRules(
    { memory: "4GiB", environments: 2 },
    {
      arm: { policy: { max_concurrent: 1, teams: ["bsp", "ci"], priority_boost: 10 } },
      locked: { policy: { require_approval: true } },
    },
  );

  test("limits count what runs on all machines together", async () => {
    const machines = [host("a"), host("b"), host("c")];
    const one = scheduler(1, { rules });
    const counted = (what: string, memory: number): AllocationRequest =>
      request(what, { memory }, { counts: { memory, slots: 1 } });
    const first = await one.allocate(counted("environment.a", 3 * GIB), at(machines));
    await expect(one.allocate(counted("environment.b", 2 * GIB), at(machines))).rejects.toMatchObject({
      code: "E_BUSY",
      message: expect.stringContaining(
        "the lab uses 3.0 GiB of memory of the 4.0 GiB of memory that it may, and 2.0 GiB of memory more are asked for",
      ),
    });
    await expect(one.allocate(counted("environment.b", 5 * GIB), at(machines))).rejects.toMatchObject({
      code: "E_NEVER_FITS",
    });
    // What does not count against them is let through.
    await one.allocate(request("build.x", { memory: 2 * GIB }), at(machines));
    await one.allocate(counted("environment.c", GIB / 2), at(machines));
    await expect(one.allocate(counted("environment.d", 1), at(machines))).rejects.toMatchObject({
      message: expect.stringContaining("the lab uses 2 environments of the 2 environments that it may"),
    });
    await first.release();
    await one.allocate(counted("environment.d", 1), at(machines));
  });

  test("who waits for the lab's limits alone keeps no machine from others", async () => {
    const machines = [host("a")];
    const one = scheduler(1, { rules });
    const counted = request("environment.a", {}, { counts: { memory: 4 * GIB, slots: 1 } });
    const first = await one.allocate(counted, at(machines));
    const other = await waiting(
      scheduler(2, { rules }),
      request("environment.b", {}, { counts: { memory: GIB, slots: 1 } }),
      machines,
    );
    expect((await one.waiting())[0]?.wants).toEqual(["lab"]);
    const build = await one.allocate(request("build.x"), at(machines));
    expect(build.address).toBe("host.a");
    await build.release();
    await first.release();
    await other.got;
  });

  test("groups have a most at once, teams, approvals, and a boost for who may use them", async () => {
    const boards = [host("a", { group: "arm" }), host("b", { group: "arm" })];
    const one = scheduler(1, { rules });
    const bsp = (what: string): AllocationRequest => request(what, { group: "arm" }, { team: "bsp" });
    await one.allocate(bsp("environment.a"), at(boards));
    await expect(one.allocate(bsp("environment.b"), at(boards))).rejects.toMatchObject({
      code: "E_BUSY",
      message: expect.stringContaining("the group arm uses 1 place of the 1 place that it may"),
    });
    await expect(one.allocate(request("environment.b", { group: "arm" }), at(boards))).rejects.toMatchObject({
      code: "E_NEVER_FITS",
      message: expect.stringContaining("its group arm is for bsp, ci, and no team is named"),
    });
    const locked = [host("c", { group: "locked" })];
    await expect(one.allocate(request("environment.c"), at(locked))).rejects.toMatchObject({ code: "E_NEVER_FITS" });
    await one.allocate(request("environment.c", {}, { approved: true }), at(locked));
    const boosted = await waiting(scheduler(2, { rules }), bsp("environment.d"), boards);
    expect((await one.waiting())[0]?.priority).toBe(10);
    await one.close();
    await boosted.got;
  });
});

describe("requirements", () => {
  const fits = (requires: Requirements, more: Partial<Candidate>) =>
    select(request("x", requires), [host("a", more)], 0).verdict === "chosen";

  test.each([
    ["2026.07", "2026.07", true],
    ["2026.07", "2026.7", false],
    ["2026.07", ">=2026.04", true],
    ["2026.01", ">=2026.04", false],
    ["v1.2.3", ">=1.2 <2", true],
    ["U-Boot 2026.07-rc1", "^2026.1", true],
    [undefined, ">=1", false],
    ["nothing", ">=1", false],
  ])("firmware %s meets %s: %s", (firmware, wanted, result) => {
    const more = firmware === undefined ? {} : { firmware_version: firmware };
    expect(fits({ firmware_version: wanted }, more)).toBe(result);
  });

  test("boards: any of the types, all of the peripherals", () => {
    const board = { board_type: "rpi4", peripherals: ["wifi", "hdmi"] };
    expect(fits({ board_types: ["rpi3", "rpi4"], peripherals: ["hdmi"] }, board)).toBe(true);
    expect(fits({ board_types: ["rpi3"] }, board)).toBe(false);
    expect(fits({ peripherals: ["hdmi", "can"] }, board)).toBe(false);
    expect(fits({ board_types: ["rpi4"] }, {})).toBe(false);
  });

  test("what is more than may ever be used never fits: nobody waits for it", () => {
    const machine = host("a", { total: { memory: 10 * GIB, cpus: 2 }, max_utilization: 0.85 });
    expect(select(request("x", { memory: 9 * GIB }), [machine], 0).verdict).toBe("never");
    expect(select(request("x", { memory: 8 * GIB, cpus: 2 }), [machine], 0).verdict).toBe("chosen");
  });

  test("maintenance ends when it says so, and a decommissioning does not", () => {
    const hold = { who: "anna", why: "new disk", since: "2026-01-01T00:00:00Z", until: "2026-01-02T00:00:00Z" };
    const before = Date.parse("2026-01-01T12:00:00Z");
    const after = Date.parse("2026-01-03T00:00:00Z");
    expect(standingOf({ desired: {}, hold }, before)).toEqual({ status: "maintenance", why: "new disk (anna)" });
    expect(standingOf({ desired: {}, hold }, after)).toEqual({});
    expect(standingOf({ desired: { maintenance: { reason: "moved" } } }, after)).toMatchObject({ why: "moved" });
    expect(standingOf({ desired: {}, hold: { ...hold, kind: "decommissioned" } }, after)).toMatchObject({
      decommissioned: true,
    });
  });
});

test("a table of the first format is read, and written in the second", async () => {
  const until = "2999-01-01T00:00:00.000Z";
  const lease = { resource: "board.a", holder: "anna", reason: "test", until, epoch: 3 };
  const path = join(dir, "leases.json");
  writeFileSync(path, JSON.stringify({ format_version: 1, leases: { "board.a": lease }, epochs: { "board.a": 3 } }));
  const table = createLeaseTable({ dir });
  expect(await table.list()).toEqual([lease]);
  await expect(table.acquire({ ...lease, holder: "ben", ttl: 1000 })).rejects.toMatchObject({ code: "E_LEASE_HELD" });
  expect(readFileSync(path, "utf8")).toContain('"format_version":1');
  await table.release(lease);
  expect((await table.acquire({ ...lease, holder: "ben", ttl: 1000 })).epoch).toBe(4);
  expect(readFileSync(path, "utf8")).toContain('"format_version": 2');
});

test.each([
  ['{"format_version":2,"leases":{"a":{}},"epochs":{},"queue":{}}'],
  ['{"format_version":2,"leases":{},"epochs":{}}'],
  ['{"format_version":2,"leases":{},"epochs":{},"queue":{"x":{"holder":"x"}}}'],
  ['{"format_version":2,"leases":{"a":[{"resource":"b"}]},"epochs":{},"queue":{}}'],
])("a damaged table is refused: %s", async (text) => {
  writeFileSync(join(dir, "leases.json"), text);
  const table = createLeaseTable({ dir });
  await expect(table.list()).rejects.toMatchObject({ code: "E_STATE_DAMAGED" });
  await expect(scheduler(1).allocate(request("x"), at([host("a")]))).rejects.toMatchObject({
    code: "E_STATE_DAMAGED",
  });
  expect(readFileSync(join(dir, "leases.json"), "utf8")).toBe(text);
});
