import { mkdtempSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { environment } from "../../providers/libvirt/environment.ts";
import type { EnvironmentDesired, EnvironmentObserved } from "../../providers/libvirt/environment-model.ts";
import { recordedFlags } from "../../src/cli/argv.ts";
import { againOptions, lastGood } from "../../src/cli/commands/again.ts";
import { findBuilds } from "../../src/cli/commands/build.ts";
import { whyOf } from "../../src/cli/commands/why.ts";
import { restoredResource } from "../../src/engine/restore.ts";
import {
  type CancelRequest,
  createEventBus,
  leftUndone,
  newRunId,
  outcomeOf,
  requestCancel,
  RunRecorder,
  watchCancel,
} from "../../src/events/index.ts";
import { type EventBody, type LabEvent, type Plain, type Plan, Template } from "../../src/model/index.ts";
import type { Kind } from "../../src/provider/index.ts";
import { explainChoice } from "../../src/scheduling/index.ts";
import { action, plan } from "../golden/streams.ts";
import { cli, done, ScriptedLab } from "./cli-harness.ts";
import { makeRow } from "./state-helpers.ts";

const events = (bodies: readonly EventBody[]): LabEvent[] =>
  bodies.map((body, at) => ({ run: "r", seq: at + 1, at: `2026-11-23T01:02:0${at % 10}.000Z`, ...body }));
const finished = (
  address: string,
  result: "ok" | "failed" | "skipped" | "rolled_back" | "cancelled",
  because?: string,
) =>
  ({
    type: "action.finished",
    address,
    action: "create",
    result,
    duration_ms: 5,
    ...(because !== undefined && { because }),
  }) as const;

const CHAIN: Plan = plan([
  action({ address: "host.a", action: "noop" }),
  action({ address: "host.a/file.one", action: "create" }),
  action({ address: "host.a/file.two", action: "create" }),
  action({ address: "host.a/file.three", action: "replace", reason: { code: "requested", text: "asked for" } }),
  action({ address: "host.b", action: "blocked", reason: { code: "unreachable", text: "off" } }),
  action({ address: "vm.c", action: "adopt", import_id: "scratch" }),
]);

test("stages still to come are pending, those that never come are skipped", () => {
  const vm = "environment.e";
  const told = (...more: Parameters<typeof events>[0]) =>
    outcomeOf(
      events([
        {
          type: "plan.made",
          plan: plan([action({ address: vm, action: "create", stages: ["allocate", "transfer", "boot", "verify"] })]),
        },
        { type: "action.started", address: vm, action: "create", attempt: 1 },
        ...more,
      ]),
    )
      .resources.get(vm)
      ?.stages.map(({ stage, result }) => `${stage} ${result}`);
  const begun = (stage: string) => ({ type: "stage.started", address: vm, stage }) as const;
  const ended = (stage: string, result: "completed" | "failed") =>
    ({ type: "stage.finished", address: vm, stage, result, duration_ms: 1 }) as const;
  expect(told()).toEqual(["allocate pending", "transfer pending", "boot pending", "verify pending"]);
  const allocated = [begun("allocate"), ended("allocate", "completed"), begun("transfer")];
  expect(told(...allocated)).toEqual(["allocate completed", "transfer running", "boot pending", "verify pending"]);
  const failed = [...allocated, ended("transfer", "failed")];
  expect(told(...failed, finished(vm, "failed"))).toEqual([
    "allocate completed",
    "transfer failed",
    "boot skipped",
    "verify skipped",
  ]);
  // Another host: what comes again stands before what is still to come.
  expect(told(...failed, ...allocated)).toEqual([
    "allocate completed",
    "transfer failed",
    "allocate completed",
    "transfer running",
    "boot pending",
    "verify pending",
  ]);
  // A rollback has stages of its own.
  expect(told(...failed, begun("rollback"), begun("transfer"), ended("transfer", "completed"), begun("boot"))).toEqual([
    "allocate completed",
    "transfer failed",
    "boot skipped",
    "verify skipped",
    "rollback running",
    "transfer completed",
    "boot running",
  ]);
});

test("what is left of a run is all that did not end well, in the order of its plan", () => {
  const outcome = outcomeOf(
    events([
      { type: "plan.made", plan: CHAIN },
      { type: "action.started", address: "host.a/file.one", action: "create", attempt: 1 },
      finished("host.a/file.one", "ok"),
      { type: "action.started", address: "host.a/file.two", action: "create", attempt: 1 },
      finished("host.a/file.three", "skipped", "host.a/file.two"),
    ]),
  );
  expect(outcome.resources.get("host.a/file.two")).toMatchObject({ result: "unfinished", attempts: 1 });
  expect(leftUndone(outcome)).toEqual(["host.a/file.two", "host.a/file.three", "host.b", "vm.c"]);
  expect(leftUndone(outcome, "host.a")).toEqual(["host.a/file.two", "host.a/file.three"]);
  expect(leftUndone(outcomeOf([]))).toEqual([]);
  const back = outcomeOf(
    events([
      { type: "plan.made", plan: CHAIN },
      finished("host.a/file.one", "ok"),
      finished("host.a/file.one", "rolled_back"),
    ]),
  );
  expect(leftUndone(back)).toContain("host.a/file.one");
});

test("a retry asks for what is left, and anew for what was to be made anew or taken over", () => {
  const all = new Set(CHAIN.actions.map((one) => one.address));
  expect(againOptions(CHAIN, ["host.a/file.three", "vm.c"], all)).toEqual({
    targets: ["host.a/file.three", "vm.c"],
    replace: ["host.a/file.three"],
    imports: [{ address: "vm.c", id: "scratch" }],
  });
  expect(againOptions(CHAIN, ["host.b", "vm.c"], new Set(["host.b"])).targets).toEqual(["host.b"]);
  expect(() => againOptions(CHAIN, ["vm.c"], new Set())).toThrow(
    expect.objectContaining({ code: "E_ADDRESS_UNKNOWN" }),
  );
});

test("the settings of a run are read from its command line", () => {
  const argv = ["apply", "--on-failure=rollback", "--no-wait", "--exclude", "host.b", "--batch", "2", "--auto-approve"];
  expect(recordedFlags(argv)).toEqual({
    onFailure: "rollback",
    wait: false,
    refresh: true,
    force: false,
    exclude: ["host.b"],
    batch: 2,
  });
  expect(recordedFlags(["apply", "--on-failure", "what", "--batch"])).toEqual({
    onFailure: "continue",
    wait: true,
    refresh: true,
    force: false,
    exclude: [],
  });
});

test("who was chosen and why nobody else was", () => {
  const text = explainChoice(
    {
      verdict: "chosen",
      ranking: [
        { address: "host.a", utilization: 0.2, why: "20% in use with it" },
        { address: "host.b", utilization: 0.6, why: "60% in use with it" },
      ],
      rejected: [
        {
          address: "host.c",
          permanent: true,
          unmet: [{ what: "arch", text: "is arm64, not x86_64", permanent: true }],
        },
      ],
      warnings: [],
    },
    "host.a",
  );
  expect(text).toBe("host.a: 20% in use with it\nnot host.b: 60% in use with it\nnot host.c: is arm64, not x86_64");
});

describe("going back", () => {
  const NEW = "b".repeat(64);
  const OLD = "a".repeat(64);
  const seen = (kernel: string, ready = true): EnvironmentObserved & { readonly [key: string]: Plain } => ({
    host: "host.kvm",
    domain: "d",
    running: true,
    ready,
    kernel_digest: kernel,
    cmdline: "console=ttyS0 quiet",
    release: "6.1.0",
  });
  const kind = environment as unknown as Kind;
  const desired = { name: "smoke", vm: { cpus: 2 }, boot: { artifact: { latest: true }, timeout: "1m" } };

  test("is to the artifacts with which it was last well, and to nothing else", () => {
    const restored = environment.restore?.(desired as EnvironmentDesired, seen(OLD));
    expect(restored).toEqual({
      boot: { kernel: `sha256:${OLD}`, cmdline: "console=ttyS0 quiet", release: "6.1.0", timeout: "1m" },
    });
    expect(environment.restore?.(desired as EnvironmentDesired, seen(OLD, false))).toBeUndefined();
  });

  test("after a failure is to what the state has, else to the newest that differs from it", () => {
    const history = [
      { observed: seen(NEW), run: "r4" },
      { observed: seen(OLD, false), run: "r3" },
      { observed: seen(OLD), run: "r2" },
      { observed: seen("c".repeat(64)), run: "r1" },
    ];
    const ok = makeRow("environment.smoke", { observed: seen(NEW) });
    expect(lastGood(kind, desired, ok, history)).toMatchObject({ run: "r2" });
    expect(lastGood(kind, desired, { ...ok, status: "failed" }, history)).toEqual({ observed: seen(NEW) });
    expect(lastGood(kind, desired, ok, history.slice(0, 2))).toBeUndefined();
    expect(lastGood({ ...kind, restore: undefined } as unknown as Kind, desired, ok, history)).toBeUndefined();
  });

  test("needs no build that only what is gone back from came from", () => {
    const reference = (name: string): Template =>
      new Template([{ root: "build", path: [name, "kernel_image"], text: `build.${name}.kernel_image` } as never]);
    const resource = {
      address: "environment.smoke",
      kind: "environment",
      scope: "pipeline/x",
      desired: { ...desired, boot: { kernel: reference("kasan") } },
      depends: ["build.kasan", "host.kvm"],
      options: {},
      at: { file: "pipeline.yaml", line: 1, column: 1 },
      places: {},
    };
    const restored = restoredResource(resource, seen(OLD), kind);
    expect(restored.depends).toEqual(["host.kvm"]);
    expect(restored.desired["boot"]).toMatchObject({ kernel: `sha256:${OLD}` });
    expect(() => restoredResource(resource, seen(OLD), { ...kind, restore: undefined } as unknown as Kind)).toThrow(
      expect.objectContaining({ code: "E_USAGE" }),
    );
  });
});

describe("recorded runs", () => {
  let lab: ScriptedLab;
  beforeEach(() => {
    lab = new ScriptedLab();
    lab.resources = CHAIN.actions.map(({ address, kind }) => ({
      address,
      kind,
      scope: "lab",
      desired: {},
      depends: [],
      options: {},
      at: { file: "lab.yaml", line: 1, column: 1 },
      places: {},
    }));
  });
  afterEach(() => lab.remove());

  async function recorded(
    bodies: readonly EventBody[],
    more: { readonly ended?: boolean; readonly host?: string } = {},
  ) {
    const id = newRunId(new Date());
    const bus = createEventBus({ run: id, redact: (text) => text, now: () => new Date() });
    const recorder = new RunRecorder(bus);
    await recorder.start(lab.statePath, {
      id,
      command: "apply",
      argv: ["apply", "--on-failure", "abort", "--no-wait"],
      who: "eve",
      host: more.host ?? hostname(),
      pid: process.pid,
      lab: "kernel-lab",
      started_at: new Date().toISOString(),
    });
    for (const body of bodies) bus.emit(body);
    if (more.ended !== false) await recorder.finish(done({ result: "failed", exit_code: 6 }), new Date());
    else await recorder.flush();
    return { id, recorder };
  }

  test("retry plans what is left of the last apply with its settings, and says where nothing is", async () => {
    const { id } = await recorded([{ type: "plan.made", plan: CHAIN }, finished("host.a/file.one", "ok")]);
    lab.onPlan = () => plan([action({ address: "host.a/file.two", action: "create" })]);
    const result = await cli(lab, ["retry", "host.a", "--auto-approve"]);
    expect(result.code, result.err).toBe(0);
    expect(result.err).toContain(`Retrying 2 of run ${id} (apply).`);
    expect(lab.calls.plan[0]).toMatchObject({
      mode: "normal",
      targets: ["host.a/file.two", "host.a/file.three"],
      replace: ["host.a/file.three"],
    });
    expect(lab.calls.apply[0]).toMatchObject({ onFailure: "abort", noWait: true });
    await recorded([{ type: "plan.made", plan: plan([]) }]);
    const nothing = await cli(lab, ["retry"]);
    expect(nothing).toMatchObject({ code: 0, err: "" });
    expect(nothing.out).toMatch(/^Nothing to retry: all that run \S+ \(apply\) was to do is done\.\n$/);
    expect((await cli(lab, ["retry", "vm.zzz"])).err).toContain("no recorded run dealt with vm.zzz");
  });

  test("rollback plans the environment alone, as it was, and says what the spec still wants", async () => {
    const address = "environment.smoke";
    const observed = { host: "h", domain: "d", running: true, ready: true, kernel_digest: "a".repeat(64) };
    lab.resources = [
      { ...(lab.resources[0] as (typeof lab.resources)[0]), address, kind: "environment", desired: { boot: {} } },
    ];
    lab.kinds = new Map([["environment", environment as unknown as Kind]]);
    const session = await lab.store.open("lab", { holder: "t", purpose: "t", timeout: 0 });
    await session.put(
      makeRow(address, { kind: "environment", observed: { ...observed, kernel_digest: "b".repeat(64) } }),
    );
    await session.close();
    const nothing = await cli(lab, ["rollback", address, "--auto-approve"]);
    expect(nothing.code).toBe(4);
    expect(nothing.err).toContain("nothing else is known with which environment.smoke was well");
    const { id } = await recorded([
      { type: "plan.made", plan: plan([action({ address, action: "update", before: observed })]) },
    ]);
    lab.onPlan = () => plan([action({ address, action: "update" })]);
    const result = await cli(lab, ["rollback", address, "--auto-approve"]);
    expect(result.code, result.err).toBe(0);
    expect(result.err).toContain(`Back to what it was when run ${id} began.`);
    expect(result.out).toContain("The spec is as it was: the next apply brings environment.smoke forward again");
    expect(lab.calls.plan.at(-1)).toMatchObject({ targets: [address], restore: new Map([[address, observed]]) });
  });

  test("why tells the reason, the problem, and what was said, from the last run that did something", async () => {
    const { id } = await recorded([
      { type: "plan.made", plan: CHAIN },
      { type: "action.started", address: "host.a/file.two", action: "create", attempt: 2 },
      { type: "log.line", level: "info", component: "file", address: "host.a/file.two", message: "on host.a: free" },
      {
        type: "log.line",
        level: "info",
        component: "file",
        address: "host.a/file.two",
        message: "noise",
        stream: "stdout",
      },
      {
        ...finished("host.a/file.two", "failed"),
        problem: { code: "E_DISK_FULL", message: "full", hint: "make room" },
      },
    ]);
    await recorded([{ type: "plan.made", plan: plan([action({ address: "host.a/file.two", action: "noop" })]) }]);
    const json = JSON.parse((await cli(lab, ["why", "host.a/file.two", "--json"])).out) as object;
    expect(json).toMatchObject({
      run: id,
      result: "failed",
      attempts: 2,
      notes: [{ level: "info", text: "on host.a: free" }],
      problem: { code: "E_DISK_FULL" },
    });
    expect((await cli(lab, ["why", "host.a/file.two", "--run", "last", "--json"])).out).toContain('"action": "noop"');
    expect(await cli(lab, ["why", "host.zzz"])).toMatchObject({ code: 4 });
  });

  test("cancel without a run says so; a build's work is ended on its server", async () => {
    expect(await cli(lab, ["cancel"])).toEqual({ code: 0, out: "Nothing runs in this lab.\n", err: "" });
    lab.resources = [{ ...(lab.resources[0] as (typeof lab.resources)[0]), address: "build.x", kind: "build" }];
    lab.kinds = new Map([["build", { kind: "build", cancel: () => undefined } as unknown as Kind]]);
    lab.onCancel = (address) => `${address}: its job on host.b was ended`;
    expect((await cli(lab, ["cancel", "build.x"])).out).toBe("build.x: its job on host.b was ended\n");
    expect(JSON.parse((await cli(lab, ["cancel", "build.x", "--json"])).out)).toMatchObject({ address: "build.x" });
  });

  test("cancel asks a run elsewhere through the state, and waits until it says how it ended", async () => {
    const { id, recorder } = await recorded([], { ended: false, host: "elsewhere" });
    const asked: CancelRequest[] = [];
    const stop = watchCancel(lab.statePath, id, (request) => {
      asked.push(request);
      void recorder.finish(done({ result: "cancelled", exit_code: 130, results: { ok: 1, cancelled: 2 } }), new Date());
    });
    const result = await cli(lab, ["cancel"]);
    stop();
    expect(result.code).toBe(0);
    expect(result.err).toContain(`Asked ${id} (apply by eve, pid ${process.pid} on elsewhere) to stop.`);
    expect(result.out).toContain(`${id} apply: cancelled after 5ms (1 done, 2 cancelled)`);
    expect(asked).toMatchObject([{ level: 1 }]);
  });
});

test("each level of a cancellation is told once, and half a file is none", async () => {
  const dir = mkdtempSync(join(tmpdir(), "labctl-cancel-"));
  const id = newRunId(new Date());
  const bus = createEventBus({ run: id, redact: (text) => text, now: () => new Date() });
  await new RunRecorder(bus).start(dir, {
    id,
    command: "apply",
    argv: [],
    who: "w",
    host: "h",
    pid: 1,
    lab: "l",
    started_at: "",
  });
  const told: number[] = [];
  const stop = watchCancel(dir, id, ({ level }) => void told.push(level));
  await writeFile(join(dir, "runs", id, "cancel.json"), '{"level":');
  await sleep(500);
  const request = { who: "w", host: "h", at: "" };
  await requestCancel(dir, id, { level: 1, ...request });
  await sleep(1000);
  await requestCancel(dir, id, { level: 2, ...request });
  await sleep(600);
  stop();
  expect(told).toEqual([1, 2]);
  await rm(dir, { recursive: true });
});

test("why knows nothing of what a plan does not name", () => {
  const record = {
    format_version: 1,
    id: "r",
    command: "apply",
    argv: [],
    who: "w",
    host: "h",
    pid: 1,
    lab: "l",
    started_at: "",
  } as const;
  expect(whyOf(record, outcomeOf(events([{ type: "plan.made", plan: CHAIN }])), "host.zzz")).toBeUndefined();
});

test("builds are found by name, by address, and all of a matrix by the name without its variant", async () => {
  const all = ["build.kasan-x86_64", "build.kasan-arm64", "build.hello"];
  expect(await findBuilds(all, [])).toEqual(all);
  expect(await findBuilds(all, ["kasan", "build.hello", "hello"])).toEqual(all);
  expect(await findBuilds(all, ["kasan-arm64"])).toEqual(["build.kasan-arm64"]);
  await expect(findBuilds(all, ["helo"])).rejects.toMatchObject({ hint: 'did you mean "hello"?' });
  await expect(findBuilds([], [])).rejects.toMatchObject({ code: "E_ADDRESS_UNKNOWN" });
});
