import { beforeEach, describe, expect, it } from "vitest";
import { LabError } from "../../src/diagnostics/index.ts";
import { Template } from "../../src/model/index.ts";
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
      memoryKind(world, { kind: "box", ownership: "exclusive" }),
      memoryKind(world, { kind: "part", within: "box" }),
    ],
    state,
  );
});

const ref = (root: string, ...path: string[]) => new Template([{ root, path }]);

describe("plan", () => {
  it("creates what is absent, adopts what is as wanted, updates what differs", async () => {
    world.things.set("thing.b", { color: "red", size: 3 });
    world.things.set("thing.c", { color: "red" });
    const plan = await lab.plan([
      resource("thing.a", { desired: { color: "red" } }),
      resource("thing.b", { desired: { color: "red" } }),
      resource("thing.c", { desired: { color: "blue" } }),
    ]);
    expect(shown(plan)).toEqual({ "thing.a": "create", "thing.b": "adopt", "thing.c": "update" });
    expect(plan.actions.find((one) => one.address === "thing.c")?.changes).toEqual([
      { path: "color", before: "red", after: "blue", effect: "update" },
    ]);
  });

  it("is empty after apply, also after a round trip of the plan through JSON", async () => {
    const spec = [
      resource("thing.a", { desired: { color: "red", note: "unseen" } }),
      resource("thing.b", { depends: ["thing.a"] }),
    ];
    const plan = JSON.parse(JSON.stringify(await lab.plan(spec))) as Awaited<ReturnType<MemoryLab["plan"]>>;
    const result = await lab.apply(plan);
    expect(result.problems).toEqual([]);
    expect(shown(await lab.plan(spec))).toEqual({});
  });

  it("tells drift from wanted change", async () => {
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "red" } })]));
    world.things.set("thing.a", { color: "green", size: 1 });
    const drifted = (await lab.plan([resource("thing.a", { desired: { color: "red" } })])).actions[0];
    expect(drifted?.reason.code).toBe("drifted");
    expect(drifted?.drift).toEqual([{ path: "color", before: "red", after: "green", effect: "update" }]);
    world.things.set("thing.a", { color: "red", size: 1 });
    const changed = (await lab.plan([resource("thing.a", { desired: { color: "blue" } })])).actions[0];
    expect(changed?.reason.code).toBe("changed");
    expect(changed?.drift).toEqual([]);
  });

  it("shows drift of unmanaged properties without acting on it, and never volatile ones", async () => {
    const spec = [resource("thing.a", { desired: { color: "red" } })];
    await lab.apply(await lab.plan(spec));
    world.things.set("thing.a", { color: "red", size: 99, seen: 1234 });
    const [action] = (await lab.plan(spec)).actions;
    expect(action?.action).toBe("noop");
    expect(action?.drift.map((one) => one.path)).toEqual(["size"]);
    await lab.apply(await lab.plan(spec));
    expect((await lab.plan(spec)).actions[0]?.drift).toEqual([]);
  });

  it("blocks what cannot be reached, with what depends on it, and nothing else", async () => {
    const spec = [resource("thing.a"), resource("thing.b", { depends: ["thing.a"] }), resource("thing.c")];
    world.unreachable.set("thing.a", new LabError("E_CONNECT", "no route"));
    const plan = await lab.plan(spec);
    expect(shown(plan)).toEqual({ "thing.a": "blocked", "thing.b": "blocked", "thing.c": "create" });
    const result = await lab.apply(plan);
    expect([...world.things.keys()]).toEqual(["thing.c"]);
    expect(result.problems.map((one) => one.code)).toEqual(["E_CONNECT"]);
  });

  it("never deletes or forgets what it cannot reach", async () => {
    await lab.apply(await lab.plan([resource("thing.a")]));
    world.unreachable.set("thing.a", new LabError("E_CONNECT", "no route"));
    expect(shown(await lab.plan([]))).toEqual({ "thing.a": "blocked" });
    expect(shown(await lab.plan([], { removed: [{ address: "thing.a", forget: true }] }))).toEqual({
      "thing.a": "forget",
    });
  });

  it("refuses an exclusive thing that is not labctl's, unless it is imported or adopted", async () => {
    world.things.set("box.a", { color: "red" });
    const spec = [resource("box.a", { desired: { color: "red" } })];
    expect((await lab.plan(spec)).actions[0]?.reason.code).toBe("not-owned");
    expect(shown(await lab.plan(spec, { imports: new Map([["box.a", "a"]]) }))).toEqual({ "box.a": "adopt" });
    expect(shown(await lab.plan([resource("box.a", { desired: { color: "red", adopt: true } })]))).toEqual({
      "box.a": "adopt",
    });
  });

  it("replaces where a property demands it, where asked, and where a trigger changes", async () => {
    const spec = (shape: string) => [
      resource("thing.a", { desired: { shape } }),
      resource("thing.b", { options: { lifecycle: { replace_when: ["thing.a.shape"] } }, depends: ["thing.a"] }),
      resource("thing.c"),
    ];
    await lab.apply(await lab.plan(spec("round")));
    expect(shown(await lab.plan(spec("square")))).toEqual({ "thing.a": "replace", "thing.b": "replace" });
    expect(shown(await lab.plan(spec("round"), { replace: ["thing.c"] }))).toEqual({ "thing.c": "replace" });
  });

  it("honours prevent_destroy and ignore_changes", async () => {
    const options = { lifecycle: { prevent_destroy: true, ignore_changes: ["color"] } };
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "red" }, options })]));
    world.things.set("thing.a", { color: "green", size: 1 });
    expect(shown(await lab.plan([resource("thing.a", { desired: { color: "red" }, options })]))).toEqual({});
    expect((await lab.plan([])).actions[0]?.reason.code).toBe("prevented");
    const result = await lab.apply(await lab.plan([]));
    expect(result.codes).toEqual(["E_PREVENT_DESTROY"]);
  });

  it("renames with moved:, contents included, without touching the world", async () => {
    await lab.apply(await lab.plan([resource("box.a"), resource("box.a/part.x")]));
    world.things.set("box.b", world.things.get("box.a") ?? {});
    world.things.set("box.b/part.x", world.things.get("box.a/part.x") ?? {});
    world.calls.length = 0;
    const plan = await lab.plan([resource("box.b"), resource("box.b/part.x")], {
      moved: [{ from: "box.a", to: "box.b" }],
    });
    expect(shown(plan)).toEqual({ "box.b": "adopt", "box.b/part.x": "adopt" });
    await lab.apply(plan);
    expect([...state.rows.keys()].sort()).toEqual(["box.b", "box.b/part.x"]);
    expect(world.calls).toEqual([]);
  });

  it("targets take along what they need, exclusions what needs them", async () => {
    const spec = [
      resource("thing.a"),
      resource("thing.b", { depends: ["thing.a"] }),
      resource("thing.c", { depends: ["thing.b"] }),
      resource("thing.d"),
    ];
    expect(shown(await lab.plan(spec, { targets: ["thing.b"] }))).toEqual({ "thing.a": "create", "thing.b": "create" });
    expect(shown(await lab.plan(spec, { excludes: ["thing.b"] }))).toEqual({
      "thing.a": "create",
      "thing.d": "create",
    });
    await expect(lab.plan(spec, { targets: ["thing.zz"] })).rejects.toMatchObject({ code: "E_ADDRESS_UNKNOWN" });
  });

  it("shows what is known only after apply, and resolves it then", async () => {
    const spec = [
      resource("thing.a"),
      resource("thing.b", { desired: { text: new Template(["size is ", { root: "thing", path: ["a", "size"] }]) } }),
    ].map((one) => (one.address === "thing.b" ? { ...one, depends: ["thing.a"] } : one));
    const plan = await lab.plan(spec, { outputs: { size: { value: ref("thing", "a", "size") } } });
    const text = plan.actions.find((one) => one.address === "thing.b")?.changes.find((one) => one.path === "text");
    expect(text?.after).toHaveProperty("$unknown");
    const result = await lab.apply(JSON.parse(JSON.stringify(plan)) as typeof plan);
    expect(result.problems).toEqual([]);
    expect(world.things.get("thing.b")?.["text"]).toBe("size is 1");
    expect(state.outputs).toEqual({ size: 1 });
    expect(shown(await lab.plan(spec))).toEqual({});
  });

  it("keeps secrets out of plan and state", async () => {
    const secrets = { pw: "canary-4711-secret" };
    const spec = [resource("thing.a", { desired: { text: ref("secret", "pw") } })];
    const plan = await lab.plan(spec, { secrets });
    expect(JSON.stringify(plan)).not.toContain(secrets.pw);
    const result = await lab.apply(JSON.parse(JSON.stringify(plan)) as typeof plan, { secrets });
    expect(result.problems).toEqual([]);
    expect(world.things.get("thing.a")?.["text"]).toBe(secrets.pw);
    expect(JSON.stringify([...state.rows.values()])).not.toContain(secrets.pw);
    expect(shown(await lab.plan(spec, { secrets }))).toEqual({});
    expect(shown(await lab.plan(spec, { secrets: { pw: "another-secret-value-9" } }))).toEqual({ "thing.a": "update" });
  });

  it("refuses a saved plan whose secret came to differ", async () => {
    const spec = [resource("thing.a", { desired: { text: ref("secret", "pw") } })];
    const plan = await lab.plan(spec, { secrets: { pw: "one" } });
    const result = await lab.apply(plan, { secrets: { pw: "three" } });
    expect(result.codes).toEqual(["E_PLAN_STALE"]);
    expect(world.things.size).toBe(0);
  });

  it("deletes dependents before what they need, and contents of exclusive containers go with them", async () => {
    await lab.apply(
      await lab.plan([
        resource("thing.a"),
        resource("thing.b", { depends: ["thing.a"] }),
        resource("box.c"),
        resource("box.c/part.x"),
      ]),
    );
    world.calls.length = 0;
    const plan = await lab.plan([], { mode: "destroy" });
    expect(shown(plan)).toEqual({
      "thing.a": "delete",
      "thing.b": "delete",
      "box.c": "delete",
      "box.c/part.x": "forget",
    });
    await lab.apply(plan);
    expect(world.calls.filter((call) => call.includes("thing"))).toEqual(["delete thing.b", "delete thing.a"]);
    expect(state.rows.size).toBe(0);
  });

  it("restores what was there before labctl", async () => {
    world.things.set("thing.a", { color: "old", size: 7 });
    await lab.apply(await lab.plan([resource("thing.a", { desired: { color: "new" } })]));
    expect(world.things.get("thing.a")?.["color"]).toBe("new");
    await lab.apply(await lab.plan([]));
    expect(world.things.get("thing.a")?.["color"]).toBe("old");
  });

  it("refresh-only takes over what is there and changes nothing", async () => {
    const spec = [resource("thing.a", { desired: { color: "red" } })];
    await lab.apply(await lab.plan(spec));
    world.things.set("thing.a", { color: "green", size: 1 });
    world.calls.length = 0;
    const plan = await lab.plan(spec, { mode: "refresh-only" });
    expect(shown(plan)).toEqual({ "thing.a": "adopt" });
    await lab.apply(plan);
    expect(world.calls).toEqual([]);
    expect(shown(await lab.plan(spec, { mode: "refresh-only" }))).toEqual({});
    expect((await lab.plan(spec)).actions[0]?.action).toBe("update");
  });

  it("warns where a rename looks like a removal", async () => {
    await lab.apply(await lab.plan([resource("thing.old", { desired: { color: "red" } })]));
    const plan = await lab.plan([resource("thing.new", { desired: { color: "red" } })]);
    expect(plan.warnings.map((one) => one.code)).toEqual(["maybe-moved"]);
  });
});
