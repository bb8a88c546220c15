// Planning and applying N resources in memory, with the real state on disk. What should grow with N is compared with N:
// ratios near 1 mean linear growth.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execute } from "../src/apply/index.ts";
import { readAll } from "../src/engine/reader.ts";
import type { Resource } from "../src/model/index.ts";
import { dependencyGraph, makePlan, selectAddresses } from "../src/plan/index.ts";
import type { Kind } from "../src/provider/index.ts";
import { createFileStore, type StateSession } from "../src/state/index.ts";
import { type Line, median, type Report } from "./measure.ts";
import { benchKind } from "./memory.ts";

interface Sample {
  readonly resources: number;
  /** CPU milliseconds, all of labctl's own. */
  readonly planEmpty: number;
  readonly apply: number;
  readonly planFull: number;
  /** Left open, with all its rows, for {@link costOfOperation}. */
  readonly session: StateSession;
}

const never = new AbortController().signal;

function spec(count: number): Resource[] {
  return Array.from({ length: count }, (_, i) => ({
    address: `cell.c${i}`,
    kind: "cell",
    scope: "lab",
    desired: { name: `c${i}`, value: i },
    // A tree ten wide: dependencies are part of what is measured.
    depends: i === 0 ? [] : [`cell.c${Math.floor((i - 1) / 10)}`],
    options: {},
    at: { file: "lab.yaml", line: i + 1, column: 1 },
    places: {},
  }));
}

async function plan(resources: readonly Resource[], kinds: ReadonlyMap<string, Kind>, session: StateSession) {
  const graph = dependencyGraph(resources, session.rows);
  const selected = selectAddresses(graph, { targets: [], excludes: [] }, "normal");
  const looked = await readAll({
    addresses: selected,
    resources: new Map(resources.map((one) => [one.address, one])),
    rows: session.rows,
    kinds,
    sources: { secret: () => undefined, attribute: () => undefined },
    imports: new Map(),
    newId: () => "id",
    context: context,
    signal: never,
    parallelism: 10,
  });
  return makePlan({
    header: {
      labctl: "bench",
      id: "bench",
      created_at: "",
      lab: "bench",
      spec: [],
      scopes: { lab: { lineage: session.lineage, serial: session.serial } },
      settings: { root: "/", selection: { vars: {}, var_files: [] }, providers: [] },
    },
    mode: "normal",
    resources,
    rows: session.rows,
    movedFrom: new Map(),
    graph,
    soft: new Map(),
    selected,
    readings: looked.readings,
    derived: looked.derived,
    kinds,
    secret: () => undefined,
    secrets: {},
    seal: () => undefined,
    removed: [],
    imports: new Map(),
    replace: [],
    refreshed: true,
    outputs: {},
    stateOutputs: {},
  });
}

function context(): never {
  return { signal: never, machine: context, local: {}, log: () => undefined } as never;
}

function cpu(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

async function measure(count: number, dir: string): Promise<Sample> {
  const kinds = new Map([["cell", benchKind(new Map())]]);
  const resources = spec(count);
  const session = await createFileStore({ dir }).open("lab", { holder: "bench", purpose: "bench", timeout: 0 });
  const t0 = cpu();
  const first = await plan(resources, kinds, session);
  const t1 = cpu();
  let id = 0;
  const result = await execute(
    first,
    {
      session,
      kinds,
      bus: { run: "bench", emit: () => undefined, on: () => () => undefined },
      context,
      secret: () => Promise.resolve(undefined),
      resource: () => undefined,
      settled: () => undefined,
      seal: () => undefined,
      run: "bench",
      newId: () => `${++id}`,
      now: () => new Date(),
      monotonic: () => performance.now(),
      defaults: { retry: { attempts: 0, delay: 1, max_delay: 1 }, readTimeout: 60_000 },
    },
    { parallelism: 10, onFailure: "continue", soft: never, hard: never, force: false },
  );
  if (result.problems.length > 0) throw new Error(JSON.stringify(result.problems[0]));
  const t2 = cpu();
  const again = await plan(resources, kinds, session);
  const t3 = cpu();
  if (again.actions.some((one) => one.action !== "noop")) throw new Error("the second plan is not empty");
  return { resources: count, planEmpty: t1 - t0, apply: t2 - t1, planFull: t3 - t2, session };
}

/** Microseconds for begin and end of one operation alone, each with its own sync to disk. */
async function costOfOperation(session: StateSession, id: string): Promise<number> {
  const row = session.rows.get("cell.c1");
  if (row === undefined) throw new Error("no row");
  const start = performance.now();
  await session.begin({ op: id, run: "bench", action: "update", row: { ...row, status: "interrupted" } });
  await session.end({ op: id, result: "ok", row });
  return (performance.now() - start) * 1000;
}

/** Medians for each of the states. The disk is shared with all else: they are measured in turn, one operation each. */
async function costsOfOperation(samples: readonly Sample[]): Promise<number[]> {
  const times = samples.map((): number[] => []);
  for (let i = 0; i < 300; i++) {
    for (const [n, { session }] of samples.entries()) times[n]?.push(await costOfOperation(session, `op-${i}`));
  }
  return times.map(median);
}

export async function benchEngine(): Promise<Report> {
  const dir = await mkdtemp(join(tmpdir(), "labctl-bench-"));
  try {
    await (await measure(1000, join(dir, "warm"))).session.close(); // warms up the compiler
    const samples: Sample[] = [];
    for (const count of [100, 1000, 5000, 20_000]) samples.push(await measure(count, join(dir, `${count}`)));
    const operations = await costsOfOperation(samples);
    for (const { session } of samples) await session.close();
    return report(samples, operations);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function report(samples: readonly Sample[], operations: readonly number[]): Report {
  const at = (count: number): Sample => samples.find((one) => one.resources === count) ?? (samples[0] as Sample);
  const lines: Line[] = [];
  for (const [i, one] of samples.entries()) {
    const goal = one.resources === 5000;
    const name = `${one.resources} resources`;
    lines.push(
      { what: `plan of ${name}, all to create: CPU`, value: one.planEmpty, unit: "ms" },
      { what: `apply of ${name}: CPU`, value: one.apply, unit: "ms" },
      {
        what: `plan of ${name}, nothing to do: CPU`,
        value: one.planFull,
        unit: "ms",
        ...(goal && { target: "< 1000", reached: Math.max(one.planFull, one.planEmpty) < 1000 }),
      },
      { what: `state, one operation beside ${name}`, value: operations[i] ?? Number.NaN, unit: "us" },
    );
  }
  const growth = (what: string, pick: (sample: Sample) => number): Line => {
    const value = pick(at(20_000)) / pick(at(5000)) / 4;
    return { what: `${what}: 20,000 / 4 times 5,000`, value, unit: "x", target: "~1", reached: value < 1.3 };
  };
  const operation = (operations[3] ?? Number.NaN) / (operations[0] ?? Number.NaN);
  lines.push(
    growth("plan", (one) => one.planFull),
    growth("apply", (one) => one.apply),
    { what: "state, one operation: 20,000 / 100", value: operation, unit: "x", target: "~1", reached: operation < 1.3 },
  );
  return { lines };
}
