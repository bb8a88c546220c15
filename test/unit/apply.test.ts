import { beforeEach, describe, expect, it } from "vitest";
import { LabError } from "../../src/diagnostics/index.ts";
import type { Kind } from "../../src/index.ts";
import type { AllocateOptions, Scheduler } from "../../src/scheduling/index.ts";
import { deferred } from "../../src/transport/deferred.ts";
import { memoryKind, MemoryWorld } from "../fakes/memory-kind.ts";
import { MemoryLab, resource, shown } from "../fakes/memory-lab.ts";
import { MemoryState } from "../fakes/memory-state.ts";

let world: MemoryWorld;
let state: MemoryState;
let lab: MemoryLab;

beforeEach(() => {
  world = new MemoryWorld();
  state = new MemoryState();
  lab = new MemoryLab(
    [
      memoryKind(world),
      memoryKind(world, { kind: "box" }),
      memoryKind(world, { kind: "part", within: "box", many: true }),
    ],
    state,
  );
});

const boom = (retryable = false) => new LabError("E_COMMAND_FAILED", "boom", { retryable });
const finished = () =>
  Object.fromEntries(
    lab.events.flatMap((event) => (event.type === "action.finished" ? [[event.address, event.result]] : [])),
  );

describe("apply", () => {
  it("begins on record before it acts, and ends on record after", async () => {
    await lab.apply(await lab.plan([resource("thing.a")]));
    expect(state.journal).toEqual(["begin create thing.a", "end ok thing.a"]);
  });

  it("tells a kind what became the spec's as it was: at apply alone, before the state says so, and not of what it made", async () => {
    const kind: Kind = {
      ...memoryKind(world),
      adopted: async (_ctx, item) => {
        world.calls.push(`adopted ${item.address} ${JSON.stringify(item.observed?.["color"])}`);
        if (world.failures.get(item.address)?.shift() !== undefined) throw boom();
        return Promise.resolve();
      },
    };
    lab = new MemoryLab([kind], state);
    world.things.set("thing.a", { color: "red", size: 1 });
    const spec = [resource("thing.a", { desired: { color: "red" } }), resource("thing.b")];
    world.failures.set("thing.a", [boom()]);
    const plan = await lab.plan(spec);
    expect([shown(plan), world.calls]).toEqual([{ "thing.a": "adopt", "thing.b": "create" }, []]);
    await lab.apply(plan);
    expect(finished()["thing.a"]).toBe("failed");
    await lab.apply(await lab.plan(spec));
    expect(world.calls.filter((call) => call.startsWith("adopted"))).toEqual(
      Array.from({ length: 2 }, () => 'adopted thing.a "red"'),
    );
    const again = await lab.plan(spec);
    expect(shown(again)).toEqual({});
    await lab.apply(again);
    expect(world.calls.filter((call) => call.startsWith("adopted"))).toHaveLength(2);
    // What came there between the plan and its turn is not made either.
    const late = await lab.plan([...spec, resource("thing.c", { desired: { color: "blue" } })]);
    world.things.set("thing.c", { color: "blue", size: 1 });
    await lab.apply(late);
    expect(world.calls.at(-1)).toBe('adopted thing.c "blue"');
    // What a failed run takes back was the spec's before.
    const before = world.calls.length;
    const noted = resource("thing.c", { desired: { color: "blue", adopt: true } });
    const failing = resource("thing.d", { depends: ["thing.c"] });
    world.failures.set("thing.d", [boom()]);
    await lab.apply(await lab.plan([...spec, noted, failing]), { onFailure: "rollback", parallelism: 1 });
    expect(state.rows.get("thing.c")?.desired).toEqual({ color: "blue", name: "c" });
    expect(world.calls.slice(before).filter((call) => call.startsWith("adopted"))).toHaveLength(1);
  });

  it("whoever waits for a machine takes up none of the parallelism: what it waits for may not have begun", async () => {
    const given = deferred<undefined>();
    const scheduler = {
      allocate: async (_request: unknown, options: AllocateOptions) => {
        options.onWaiting?.({ ahead: 0, selection: { verdict: "busy", ranking: [], rejected: [], warnings: [] } });
        await given.promise;
        return {};
      },
    } as unknown as Scheduler;
    const waits: Kind = {
      ...memoryKind(world, { kind: "box" }),
      reconcile: async (ctx, item) => {
        await ctx.scheduler.allocate({} as never, { candidates: async () => [], wait: true });
        return memoryKind(world).reconcile?.(ctx, item) ?? {};
      },
    };
    const gives: Kind = {
      ...memoryKind(world),
      reconcile: async (ctx, item) => {
        given.resolve(undefined);
        return memoryKind(world).reconcile?.(ctx, item) ?? {};
      },
    };
    lab = new MemoryLab([waits, gives], state, scheduler);
    await lab.apply(await lab.plan([resource("box.a"), resource("thing.b")]), { parallelism: 1 });
    expect(finished()).toEqual({ "box.a": "ok", "thing.b": "ok" });
    expect(state.journal.slice(0, 2)).toEqual(["begin create box.a", "begin create thing.b"]);
  });

  it("skips what depends on a failure, says because of whom, and goes on with the rest", async () => {
    world.failures.set("thing.a", [boom()]);
    const spec = [
      resource("thing.a"),
      resource("thing.b", { depends: ["thing.a"] }),
      resource("thing.c", { depends: ["thing.b"] }),
      resource("thing.d"),
    ];
    const result = await lab.apply(await lab.plan(spec));
    expect(finished()).toEqual({ "thing.a": "failed", "thing.b": "skipped", "thing.c": "skipped", "thing.d": "ok" });
    expect(lab.events.find((event) => event.type === "action.finished" && event.address === "thing.c")).toMatchObject({
      because: "thing.a",
    });
    expect(result.codes).toEqual(["E_COMMAND_FAILED"]);
    expect(state.rows.get("thing.a")?.status).toBe("failed");
    expect((await lab.apply(await lab.plan(spec))).problems).toEqual([]);
    expect(shown(await lab.plan(spec))).toEqual({});
  });

  it("retries what may pass, with its own policy whatever fails, and never an authentication failure", async () => {
    world.failures.set("thing.a", [boom(), boom()]);
    const retry = { attempts: 2, delay: 1, max_delay: 2 };
    expect((await lab.apply(await lab.plan([resource("thing.a", { options: { retry } })]))).problems).toEqual([]);
    expect(lab.events.filter((event) => event.type === "action.retrying")).toHaveLength(2);
    world.failures.set("thing.b", [new LabError("E_AUTH", "no")]);
    const result = await lab.apply(
      await lab.plan([resource("thing.a", { options: { retry } }), resource("thing.b", { options: { retry } })]),
    );
    expect(result.codes).toEqual(["E_AUTH"]);
  });

  it("retries N times means N attempts after the first", async () => {
    world.failures.set("thing.a", [boom(), boom(), boom()]);
    const options = { retry: { attempts: 2, delay: 1, max_delay: 2 } };
    const result = await lab.apply(await lab.plan([resource("thing.a", { options })]));
    expect(result.codes).toEqual(["E_COMMAND_FAILED"]);
    expect(world.calls.filter((call) => call === "reconcile thing.a")).toHaveLength(3);
  });

  it("an optional failure is a warning, and what depends on it goes on", async () => {
    world.failures.set("thing.a", [boom()]);
    const result = await lab.apply(
      await lab.plan([
        resource("thing.a", { options: { optional: true } }),
        resource("thing.b", { depends: ["thing.a"] }),
      ]),
    );
    expect(result.codes).toEqual([]);
    expect(finished()).toEqual({ "thing.a": "failed", "thing.b": "ok" });
  });

  it("--on-failure abort starts nothing new", async () => {
    world.failures.set("thing.a", [boom()]);
    await lab.apply(await lab.plan([resource("thing.a"), resource("thing.b"), resource("thing.c")]), {
      onFailure: "abort",
      parallelism: 1,
    });
    expect(finished()).toEqual({ "thing.a": "failed", "thing.b": "cancelled", "thing.c": "cancelled" });
  });

  it("--on-failure rollback goes back to what was before", async () => {
    await lab.apply(
      await lab.plan([
        resource("thing.a", { desired: { color: "red" } }),
        resource("thing.gone", { desired: { color: "grey" } }),
      ]),
    );
    world.failures.set("thing.z", [boom()]);
    const spec = [
      resource("thing.a", { desired: { color: "blue" } }),
      resource("thing.new"),
      resource("thing.z", { depends: ["thing.a", "thing.new"] }),
    ];
    const result = await lab.apply(await lab.plan(spec), { onFailure: "rollback", parallelism: 1 });
    expect(result.codes).toEqual(["E_COMMAND_FAILED"]);
    expect(world.things.get("thing.a")?.["color"]).toBe("red");
    expect(world.things.has("thing.new")).toBe(false);
    expect(world.things.get("thing.gone")?.["color"]).toBe("grey");
    expect([...state.rows.keys()].sort()).toEqual(["thing.a", "thing.gone"]);
    expect(result.manualSteps).toEqual([]);
  });

  it("--on-failure cleanup removes what the run made, and lists what it could not", async () => {
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "red" } })]));
    world.failures.set("thing.z", [boom(), boom()]);
    const spec = [
      resource("thing.a", { desired: { color: "blue" } }),
      resource("thing.new"),
      resource("thing.z", { depends: ["thing.a", "thing.new"] }),
    ];
    const result = await lab.apply(await lab.plan(spec), { onFailure: "cleanup", parallelism: 1 });
    expect(world.things.get("thing.a")?.["color"]).toBe("blue");
    expect(world.things.has("thing.new")).toBe(false);
    expect(result.manualSteps).toHaveLength(1);
    expect(result.manualSteps[0]).toContain("thing.z");
  });

  it("refuses what the plan did not show: the world changed in between", async () => {
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "red" } })]));
    const plan = await lab.plan([resource("thing.a", { desired: { color: "blue" } })]);
    world.things.set("thing.a", { color: "green", size: 1 });
    const result = await lab.apply(plan);
    expect(result.codes).toEqual(["E_OUTSIDE_ENVELOPE"]);
    expect(world.things.get("thing.a")?.["color"]).toBe("green");
  });

  it("a create does not overwrite what appeared since the plan", async () => {
    const plan = await lab.plan([resource("thing.a", { desired: { color: "blue" } })]);
    world.things.set("thing.a", { color: "green" });
    expect((await lab.apply(plan)).codes).toEqual(["E_OUTSIDE_ENVELOPE"]);
    expect(world.things.get("thing.a")?.["color"]).toBe("green");
  });

  it("a delete does not take what changed since the plan", async () => {
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "red" } })]));
    const plan = await lab.plan([]);
    world.things.set("thing.a", { color: "green", size: 1 });
    expect((await lab.apply(plan)).codes).toEqual(["E_OUTSIDE_ENVELOPE"]);
    expect(world.things.has("thing.a")).toBe(true);
  });

  it("converges what is ready together in one call, with an outcome for each", async () => {
    world.failures.set("box.a/part.p1", [boom()]);
    const parts = [0, 1, 2, 3].map((n) => resource(`box.a/part.p${n}`));
    const result = await lab.apply(await lab.plan([resource("box.a"), ...parts]));
    expect(world.calls).toContain("many 4");
    expect(result.codes).toEqual(["E_COMMAND_FAILED"]);
    expect(Object.values(finished()).filter((one) => one === "ok")).toHaveLength(4);
  });

  it("stops when the journal cannot be written, and loses nothing that was recorded", async () => {
    let writes = 0;
    state.fail = () => (++writes > 3 ? new LabError("E_DISK_FULL", "no space left") : undefined);
    const spec = [0, 1, 2, 3].map((n) => resource(`thing.t${n}`));
    const result = await lab.apply(await lab.plan(spec), { parallelism: 1 });
    expect(result.codes).toEqual(["E_DISK_FULL"]);
    expect(world.calls.length).toBeLessThan(4);
    state.fail = undefined;
    expect((await lab.apply(await lab.plan(spec))).problems).toEqual([]);
    expect(shown(await lab.plan(spec))).toEqual({});
  });

  it("first Ctrl-C starts nothing new", async () => {
    const soft = new AbortController();
    const plan = await lab.plan([resource("thing.a"), resource("thing.b", { depends: ["thing.a"] })]);
    soft.abort();
    const result = await lab.apply(plan, { soft: soft.signal });
    expect(result.cancelled).toBe(true);
    expect(world.calls).toEqual([]);
    expect(finished()).toEqual({ "thing.a": "cancelled", "thing.b": "cancelled" });
  });

  it("a cancelled operation is waited for until it has ended what it began, and is on record as failed", async () => {
    const soft = new AbortController();
    let ended = false;
    const base = memoryKind(world, { kind: "slow" });
    const slow = {
      ...base,
      reconcile: (ctx: { signal: AbortSignal }) =>
        new Promise<never>((_, reject) => {
          setTimeout(() => soft.abort(), 5);
          ctx.signal.addEventListener("abort", () =>
            setTimeout(() => {
              ended = true;
              reject(new LabError("E_CANCELLED", "cancelled"));
            }, 50),
          );
        }),
    };
    lab = new MemoryLab([slow], state);
    const result = await lab.apply(await lab.plan([resource("slow.a")]), { soft: soft.signal });
    expect(ended).toBe(true);
    expect(result.cancelled).toBe(true);
    expect(state.journal).toEqual(["begin create slow.a", "end failed slow.a"]);
  });

  it("a pause between attempts is cut short by Ctrl-C", async () => {
    const soft = new AbortController();
    world.failures.set("thing.a", [boom(), boom()]);
    const options = { retry: { attempts: 2, delay: 60_000, max_delay: 60_000 } };
    setTimeout(() => soft.abort(), 30);
    const result = await lab.apply(await lab.plan([resource("thing.a", { options })]), { soft: soft.signal });
    expect(result.cancelled).toBe(true);
  });

  it("a resource's timeout ends it as such", async () => {
    const slow = memoryKind(world, { kind: "slow" });
    const hanging = {
      ...slow,
      reconcile: (ctx: { signal: AbortSignal }) =>
        new Promise<never>((_, reject) => ctx.signal.addEventListener("abort", () => reject(new Error("stopped")))),
    };
    lab = new MemoryLab([hanging], state);
    const result = await lab.apply(await lab.plan([resource("slow.a", { options: { timeout: 20 } })]));
    expect(result.codes).toEqual(["E_TIMEOUT"]);
  });

  it("proves the result: a handler that does not do what it says fails", async () => {
    const lying = { ...memoryKind(world, { kind: "liar" }), reconcile: async () => ({ color: "red" }) };
    lab = new MemoryLab([lying], state);
    const result = await lab.apply(await lab.plan([resource("liar.a", { desired: { color: "blue" } })]));
    expect(result.codes).toEqual(["E_MISMATCH"]);
  });
});

describe("an interrupted operation", () => {
  it("keeps what was wanted before, and what was being brought about, until it has ended", async () => {
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "red" } })]));
    world.failures.set("thing.a", [boom()]);
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "blue" } })]));
    expect(state.rows.get("thing.a")).toMatchObject({
      desired: { color: "red" },
      attempted: [{ color: "blue" }],
      status: "failed",
    });
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "blue" } })]));
    expect(state.rows.get("thing.a")).toMatchObject({ desired: { color: "blue" }, status: "ok" });
    expect(state.rows.get("thing.a")).not.toHaveProperty("attempted");
  });

  it("a rename is followed in the rows that depend on the renamed one", async () => {
    await lab.apply(await lab.plan([resource("thing.a"), resource("thing.b", { depends: ["thing.a"] })]));
    world.things.set("thing.c", world.things.get("thing.a") ?? {});
    const spec = [resource("thing.c"), resource("thing.b", { depends: ["thing.c"] })];
    await lab.apply(await lab.plan(spec, { moved: [{ from: "thing.a", to: "thing.c" }] }));
    expect(state.rows.get("thing.b")?.depends).toEqual(["thing.c"]);
  });
});
